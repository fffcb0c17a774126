"""Mutated files of each kind. Every mutation has its own random numbers, so that the others can be left out."""

from __future__ import annotations

import csv
import io
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np
import yaml

from fuzzing import corpus
from fuzzing.models import edit_model
from fuzzing.values import NUMBERS, PATHS, TEXTS, edit_bytes, edit_tree

Files = dict[str, bytes]
"""Path below the study's folder (or the bundle's) → content. A content that begins with LINK is a symbolic link's target."""
LINK = b"\0link to "
MOST_MUTATIONS = 6
SNIPPETS = (
    "\nbomb: &a [x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a]\nc: &c [*b, *b, *b]\nd: [*c, *c, *c, *c, *c]\n",
    "\nself: &s [*s]\n",
    "\n<<: {seed: 1}\n",
    "\n<<: [{seed: 1}, {seed: 2}]\n",
    "\n? [a, b]\n: c\n",
    "\nx: !!python/object/apply:os.system [id]\n",
    "\nx: !!binary aGk=\n",
    "\nx: !!set {a, b}\n",
    "\nx: !!timestamp 2001-12-14\n",
    "\nx: !!int abc\n",
    "\nx: !!float ''\n",
    "\n---\nsecond: 1\n",
    "\n%YAML 9.9\n",
    "\n\tseed: 1\n",
    "\n" + "[" * 500,
    "\n" + "{a: " * 200,
    "\nx: *nothing\n",
    "\nx: '\\ud800'\nz: \"\\uD800\"\n",
    '\nx: "\\0"\n',
    "\n...\n",
    "\nx: |\n  text\n",
    "\nx: 1_000_000\n",
    "\nx: 0o17\n",
    "\nx: 190:20:30\n",
    "\nx: =\n",
    "\n" + "a: 1\n" * 3000,
    "\nseed: " + "9" * 5000 + "\n",
    "\n" + "x: &a" + "0" * 100 + " 1\n",
    "\nmodel: {path: model.onnx}\n",
    "\n!<tag:yaml.org,2002:map> {a: 1}\n",
)


def mutated(kind: str, seed: str, only: Collection[int] | None = None) -> tuple[str, Files, int]:
    """(study text, files, number of mutations) of the input that the seed names; with `only`, of those mutations alone."""
    rng = random.Random(seed)
    n = rng.choice([1, 1, 1, 2, 2, 3, 4, MOST_MUTATIONS])
    rngs = [random.Random(f"{seed}/{i}") for i in range(n) if only is None or i in only]
    study, files = _KINDS[kind](rng, rngs)
    return study, files, n


def _study(rng: random.Random, rngs: list[random.Random]) -> tuple[str, Files]:
    text = rng.choice(corpus.STUDIES)
    tree, raw = yaml.safe_load(text), None
    for one in rngs:
        if raw is None and one.random() < 0.7:
            edit_tree(tree, one)
            continue
        raw = _dumped(tree, one) if raw is None else raw
        raw = _text_edit(raw, one)
    if raw is None:
        raw = _dumped(tree, rng)
    if "mine.yaml" in text and rng.random() < 0.3:
        return text, {"study.yaml": text.encode(), "mine.yaml": raw}
    return "", {"study.yaml": raw}


def _dumped(tree: Any, rng: random.Random) -> bytes:
    try:
        return yaml.safe_dump(
            tree, default_flow_style=rng.choice([None, True, False]), allow_unicode=rng.random() < 0.5
        ).encode("utf-8", "surrogatepass")
    except (yaml.YAMLError, RecursionError, ValueError):
        return corpus.STUDY.encode()


def _text_edit(raw: bytes, rng: random.Random) -> bytes:
    edit = rng.randrange(5)
    if edit < 2:
        return edit_bytes(raw, rng)
    if edit == 2:
        return raw + rng.choice(SNIPPETS).encode("utf-8", "surrogatepass")
    if edit == 3:
        lines = raw.split(b"\n")
        rng.shuffle(lines) if rng.random() < 0.3 else lines.insert(rng.randrange(len(lines)), rng.choice(lines))
        return b"\n".join(lines)
    text = raw.decode("utf-8", "replace")
    return rng.choice(
        [
            text.encode("utf-16"),
            text.encode("utf-32"),
            b"\xef\xbb\xbf" + raw,
            raw.replace(b"\n", b"\r\n"),
            raw.replace(b" ", b"\t"),
        ]
    )


def _onnx(rng: random.Random, rngs: list[random.Random]) -> tuple[str, Files]:
    model, raw = rng.choice(corpus.MODELS)(), None
    for one in rngs:
        if raw is None and one.random() < 0.75:
            edit_model(model, one)
        else:
            raw = edit_bytes(model.SerializeToString() if raw is None else raw, one)
    return corpus.STUDY, {"model.onnx": model.SerializeToString() if raw is None else raw}


def _npz(rng: random.Random, rngs: list[random.Random]) -> tuple[str, Files]:
    arrays = {f"{name}.npy": _npy(array) for name, array in corpus.arrays(6, rng.randrange(9)).items()}
    raw = None
    for one in rngs:
        edit = one.random()
        if raw is None and edit < 0.6:
            name = one.choice(list(arrays))
            arrays[name] = _npy_edit(arrays[name], one)
        elif raw is None and edit < 0.75:
            arrays[one.choice(["x.npy", "y.npy", "../x.npy", "/x.npy", "x", "z.npy", "a/b.npy", one.choice(PATHS)[:200]])] = (
                _npy_edit(_npy(np.arange(6)), one)
            )
        else:
            raw = edit_bytes(_zipped(arrays, one) if raw is None else raw, one)
    return corpus.STUDY, {"val.npz": _zipped(arrays, rng) if raw is None else raw}


def _npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asarray(array), allow_pickle=True)
    return buffer.getvalue()


_DTYPES = (
    "<f4",
    "<f8",
    "<f2",
    ">f4",
    "|u1",
    "|b1",
    "<i8",
    "<u8",
    "|O",
    "|S5",
    "<U3",
    "|V8",
    "<c8",
    "<M8[s]",
    "<f16",
    "[('a', '<i4')]",
    "('<f4', (2, 2))",
    "x",
)
_SHAPES = (
    "()",
    "(0,)",
    "(6,)",
    "(6, 4, 4, 3)",
    "(1000000000000,)",
    "(-1,)",
    "(-6, 4)",
    "(2, 0, 3)",
    "(4294967296, 4294967296)",
    "6",
    "(6, 3, 4, 4)",
    "'a'",
    "(6.0,)",
    "(True, 6)",
    "[" * 60,
)


def _npy_edit(content: bytes, rng: random.Random) -> bytes:
    edit = rng.randrange(6)
    if edit == 0:
        return edit_bytes(content, rng)
    if edit == 1:
        values = [
            np.array([rng.choice(NUMBERS[:-3]) for _ in range(6)], dtype=object),
            np.array(["a"] * 6),
            np.full(6, np.nan),
            np.full(6, np.inf),
        ]
        values += [np.arange(6, dtype=t) for t in ("i1", "u8", "f2", "f8")] + [
            np.array([2**63] * 6, dtype=np.uint64),
            np.zeros((6, 1), int),
            -np.arange(6),
        ]
        return _npy(rng.choice(values))
    dtype, shape = f"'{rng.choice(_DTYPES)}'", rng.choice(_SHAPES)
    if edit == 2:
        header = f"{{'descr': {dtype}, 'fortran_order': {rng.choice(['True', 'False', '1', 'None'])}, 'shape': {shape}, }}"
    elif edit == 3:
        header = rng.choice(
            [
                "{}",
                "[]",
                "1",
                "__import__('os').system('id')",
                "{'shape': (6,)}",
                "(" * 3000,
                "{'descr': '<f4'" + ", 'a': 1" * 3000 + "}",
            ]
        )
    else:
        body = content[10:]
        end = body.find(b"\n")
        header = body[: max(end, 0)].decode("latin1").replace("(6", f"({rng.choice(['7', '60', '6000000000', '-6', '0'])}")
    payload = content[content.find(b"\n") + 1 :]
    text = header.encode("latin1") + b"\n"
    size = rng.choice([len(text), len(text), len(text), 0, 65535, max(0, len(text) - 3)])
    version = rng.choice([(1, 0), (1, 0), (2, 0), (3, 0), (9, 9)])
    length = struct.pack("<H", size & 0xFFFF) if version == (1, 0) else struct.pack("<I", rng.choice([size, size, 0xFFFFFFFF]))
    return b"\x93NUMPY" + bytes(version) + length + text + payload


def _zipped(arrays: dict[str, bytes], rng: random.Random) -> bytes:
    buffer = io.BytesIO()
    packed = rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    with zipfile.ZipFile(buffer, "w", packed) as archive:
        for name, content in arrays.items():
            archive.writestr(name.replace("\0", "") or "x", content)
        if rng.random() < 0.05:
            archive.writestr("x.npy", _npy(np.zeros(8 << 20, np.uint8)))  # unpacks to a thousand times its size
    raw = buffer.getvalue()
    if rng.random() < 0.1:  # a member that claims another size in the central directory
        at = raw.rfind(b"PK\x01\x02")
        raw = raw[: at + 24] + struct.pack("<I", rng.choice([0, 1, 2**31, 2**32 - 1])) + raw[at + 28 :]
    return raw


def _csv(rng: random.Random, rngs: list[random.Random]) -> tuple[str, Files]:
    if rng.random() < 0.25:
        name, text, study = "arrivals.csv", corpus.ARRIVALS, corpus.STUDIES[2]
    else:
        name, text, study = "labels.csv", corpus.LABELS, corpus.STUDIES[1]
    rows, raw = list(csv.reader(io.StringIO(text))), None
    for one in rngs:
        if raw is None and one.random() < 0.7:
            _csv_edit(rows, one)
        else:
            raw = _text_edit(_written(rows) if raw is None else raw, one)
    return study, {name: _written(rows) if raw is None else raw}


def _csv_edit(rows: list[list[str]], rng: random.Random) -> None:
    i = rng.randrange(len(rows)) if rows else 0
    edit = rng.randrange(7)
    if not rows or not rows[i]:
        rows.insert(0, ["file", "label"])
    elif edit < 3:
        rows[i][rng.randrange(len(rows[i]))] = rng.choice([*TEXTS, "0.png", "1.jpg", "9" * 30, "1.0", "x" * 200_000])
    elif edit == 3:
        del rows[i]
    elif edit == 4:
        rows.insert(i, list(rng.choice(rows)))
    elif edit == 5:
        column = rng.randrange(len(rows[i]))
        for row in rows:
            del row[column : column + 1]
    else:
        rows[i] = rows[i][::-1] if rng.random() < 0.5 else rows[i] * 2


def _written(rows: list[list[str]]) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([[cell.replace("\0", "\\0") for cell in row] for row in rows])
    return buffer.getvalue().encode("utf-8", "surrogatepass")


def _image(rng: random.Random, rngs: list[random.Random]) -> tuple[str, Files]:
    kind = rng.choice(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "EPS", "ICO"])
    raw = corpus.image_bytes(kind, *rng.choice([(5, 6), (1, 1), (40, 3)]))
    for one in rngs:
        edit = one.random()
        if edit < 0.15 and raw[:4] == b"\x89PNG":
            raw = _png_sized(raw, one)
        elif edit < 0.25 and raw[:4] == b"\x89PNG":
            raw = raw[:33] + _chunk(b"zTXt", b"k\0\0" + zlib.compress(b"\0" * (20 << 20), 1)) + raw[33:]
        elif edit < 0.35:
            raw = raw + corpus.image_bytes(one.choice(["PNG", "GIF"]))
        else:
            raw = edit_bytes(raw, one)
    return corpus.STUDIES[1], {f"images/{rng.choice(['0.png', '1.jpg', '3.gif'])}": raw}


def _png_sized(raw: bytes, rng: random.Random) -> bytes:
    """A PNG that claims another size, with a checksum that agrees."""
    size = rng.choice([(50_000, 50_000), (2**31 - 1, 1), (0, 5), (12_000, 12_000), (9000, 9000), (1, 2**31 - 1)])
    header = struct.pack(">II", *size) + raw[24:29]
    return raw[:8] + _chunk(b"IHDR", header) + raw[33:]


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _bundle(rng: random.Random, rngs: list[random.Random]) -> tuple[str, Files]:
    files = corpus.bundle_files()
    for one in rngs:
        edit = one.random() if "manifest.json" in files and len(files) > 1 else 0.95
        if edit < 0.55:
            files["manifest.json"] = _json_edit(files["manifest.json"], one)
        elif edit < 0.65:
            files["manifest.json"] = edit_bytes(files["manifest.json"], one)
        elif edit < 0.8:
            name = one.choice(list(files))
            files[name] = edit_bytes(files[name], one)
        elif edit < 0.9:
            files[one.choice(list(files))] = LINK + one.choice(
                [b"../outside/secret", b"/etc/hostname", b"run.py", b".", b"missing"]
            )
        else:
            files.pop(one.choice(list(files)), None)
            files[one.choice(["extra.py", "sub/x", "numpy.py"])] = b"1"
    return "", files


def _json_edit(content: bytes, rng: random.Random) -> bytes:
    try:
        tree = json.loads(content)
        edit_tree(tree, rng)
        if isinstance(tree, dict) and isinstance(tree.get("files"), dict) and rng.random() < 0.4:
            tree["files"][rng.choice(PATHS)] = rng.choice(list(tree["files"].values()) or ["0" * 64])
        return json.dumps(tree).encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError, TypeError):
        return content + rng.choice([b"[" * 100_000, b"}", b"\0"])


def _artifact(rng: random.Random, rngs: list[random.Random]) -> tuple[str, Files]:
    """A shared artifact, whose objects are right and whose manifest is not."""
    files = {name: content for name, content in corpus.bundle_files().items() if name != "manifest.json"}
    digests = json.loads(corpus.bundle_files()["manifest.json"])["files"]
    document = {
        "facts": {"n": 1},
        "files": digests,
        "needs": ["variant/v"],
        "name": "engines/k",
        "sizes": {n: len(c) for n, c in files.items()},
    }
    shared = {f"objects/{digests[n][:2]}/{digests[n]}": c for n, c in files.items()}
    manifest = json.dumps(document).encode()
    for one in rngs:
        if one.random() < 0.8:
            manifest = _json_edit(manifest, one) if one.random() < 0.8 else edit_bytes(manifest, one)
        else:
            name = one.choice(list(shared))
            shared[name] = edit_bytes(shared[name], one)
    return "", {**shared, "artifacts/engines/k.json": manifest}


_KINDS: dict[str, Callable[[random.Random, list[random.Random]], tuple[str, Files]]] = {
    "study": _study,
    "onnx": _onnx,
    "npz": _npz,
    "csv": _csv,
    "image": _image,
    "bundle": _bundle,
    "artifact": _artifact,
}
WEIGHTS = {"study": 7, "onnx": 5, "npz": 4, "csv": 2, "image": 3, "bundle": 2, "artifact": 1}
"""How often each kind comes."""


def kinds_in_turn() -> Iterator[str]:
    """The kinds, each as often as its weight, for ever."""
    while True:
        for kind, weight in WEIGHTS.items():
            yield from [kind] * weight
