"""Broken studies: one table, used by the tests of the library and of the command line.

`cases(folder)` writes every case into a folder of its own below `folder` and gives (name, study file, expected fragment).
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

STUDY = """\
study: tiny
model:
  path: model.onnx
data:
  validation: {npz: val.npz, inputs: x, labels: y}
  calibration: {npz: calib.npz, inputs: x}
  preprocess: {scale: 0.5, mean: [1, 1, 1], std: [1, 1, 1]}
  metric: top1
device: cpu
engines: [onnxruntime, openvino]
space:
  extends: cpu
  precision: [fp32, int8]
  batch_size: {low: 1, high: 8, log: true}
  streams: 1
objectives: [accuracy, throughput]
constraints: {accuracy_drop: 0.01}
load: {scenario: offline}
budget: {trials: 4}
storage: sqlite:///tiny.db
seed: 0
"""
IMAGES = ("{npz: val.npz, inputs: x, labels: y}", "{images: images, labels: labels.csv, split: val}")


def write_model(path: Path, **changes: object) -> None:
    """A 1x1 convolution with a global mean: input (batch, 3, 4, 4), output (batch, 2)."""
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.ones((2, 3, 1, 1), np.float32), "w")
    nodes = [
        helper.make_node(str(changes.get("op", "Conv")), ["input", "w"], ["c"]),
        helper.make_node("GlobalAveragePool", ["c"], ["g"]),
        helper.make_node("Flatten", ["g"], ["logits"]),
    ]
    shape = changes.get("shape", ["batch", 3, 4, 4])
    inputs = [] if changes.get("no_input") else [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)]
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])
    if location := changes.get("external"):
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
        weight.external_data.add(key="location", value=str(location))
        if length := changes.get("length"):
            weight.external_data.add(key="length", value=str(length))
    if changes.get("no_input"):
        nodes[0] = helper.make_node("Identity", ["w"], ["c"])
    graph = helper.make_graph(nodes, "tiny", inputs, [output], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())


def write_good(folder: Path) -> None:
    """Model, arrays, images and CSV that fit each other, and the study that names them."""
    from PIL import Image

    write_model(folder / "model.onnx")
    rng = np.random.default_rng(0)
    for name, n in (("val", 6), ("calib", 4)):
        x = rng.integers(0, 256, (n, 4, 4, 3), dtype=np.uint8)
        np.savez(folder / f"{name}.npz", x=x, y=np.arange(n) % 2)
    (folder / "images").mkdir()
    for i in range(3):
        Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).save(folder / "images" / f"{i}.png")
    (folder / "labels.csv").write_text("file,label,split\n0.png,0,val\n1.png,1,val\n2.png,0,calib\n")
    (folder / "study.yaml").write_text(STUDY)


@dataclass(frozen=True, kw_only=True)
class Case:
    """`edits` are replacements in the good study, `change` damages files; the error must hold `fragment`."""

    fragment: str
    edits: tuple[tuple[str, str], ...] = ()
    change: Callable[[Path], object] | None = None


def edit(old: str, new: str, fragment: str) -> Case:
    """The good study with `old` replaced by `new`."""
    return Case(fragment=fragment, edits=((old, new),))


def model(fragment: str, **changes: object) -> Case:
    """The good study with another model."""
    return Case(fragment=fragment, change=lambda folder: write_model(folder / "model.onnx", **changes))


def arrays(fragment: str, **values: np.ndarray) -> Case:
    """The good study with other validation arrays."""
    return Case(fragment=fragment, change=lambda folder: np.savez(folder / "val.npz", **values))


def images(fragment: str, change: Callable[[Path], object], *more: tuple[str, str]) -> Case:
    """The good study with the image folder for validation, damaged by `change`."""
    return Case(fragment=fragment, edits=(IMAGES, *more), change=change)


def _truncate(path: Path, keep: int) -> None:
    path.write_bytes(path.read_bytes()[:keep])


def _link_out(folder: Path) -> None:
    (folder / "outside.png").write_bytes((folder / "images" / "0.png").read_bytes())
    (folder / "images" / "0.png").unlink()
    (folder / "images" / "0.png").symlink_to(folder / "outside.png")


def _other_size(folder: Path) -> None:
    from PIL import Image

    Image.new("RGB", (5, 7)).save(folder / "images" / "1.png")


def _wide(folder: Path) -> None:
    from PIL import Image

    for i in range(3):
        Image.new("RGB", (8, 8)).save(folder / "images" / f"{i}.png")


def _sixteen_bits(folder: Path) -> None:
    from PIL import Image

    Image.fromarray(np.zeros((4, 4), np.uint16)).save(folder / "images" / "0.png")


def _damage_member(folder: Path) -> None:
    """The bytes of an array are changed, its checksum is not."""
    content = bytearray((folder / "val.npz").read_bytes())
    content[200] ^= 0xFF
    (folder / "val.npz").write_bytes(bytes(content))


def _huge_claim(folder: Path) -> None:
    """A zip member whose directory entry declares 1 TiB."""
    with zipfile.ZipFile(folder / "val.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", b"x")
        archive.writestr("y.npy", b"y")
        archive.getinfo("x.npy").file_size = 1 << 40


def _long_header(folder: Path) -> None:
    """An .npy header that promises more rows than there are bytes."""
    from io import BytesIO

    header = BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (10**9, 4, 4, 3)})
    with zipfile.ZipFile(folder / "val.npz", "w") as archive:
        archive.writestr("x.npy", header.getvalue() + b"\0" * 48)
        archive.writestr("y.npy", header.getvalue())


def _preset(text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "mine.yaml").write_text(text)


def _csv(text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "labels.csv").write_text(text)


def _study(text: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / "study.yaml").write_bytes(text)


_X = np.zeros((6, 4, 4, 3), np.uint8)
_Y = np.arange(6) % 2
_BOMB = "\n".join(["a0: &a0 [1, 1]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12))])
_TORCH = "torch: no_such_module_here:make\n  input_shape: [3, 4, 4]"

CASES: dict[str, Case] = {
    # the form of the file
    "not-yaml": edit("study: tiny", "study: [tiny", "YAML"),
    "tab": edit("  path:", "\tpath:", "YAML"),
    "empty": Case(fragment="nothing", change=_study(b"")),
    "list-at-top": Case(fragment="a list", change=_study(b"- study\n")),
    "not-utf8": Case(fragment="UTF-8", change=_study(b"study: \xff\xfe\n")),
    "control-character": Case(fragment="a character", change=_study(b"study: \x01\n")),
    "too-large": Case(fragment="KiB", change=_study(b"# " + b"x" * 300_000)),
    "alias-bomb": Case(fragment="too many values", change=_study(_BOMB.encode())),
    "deep": Case(fragment="nesting", change=_study(b"a: " + b"[" * 2000)),
    "recursive-alias": Case(fragment="too many values", change=_study(b"a: &a [*a]\n")),
    "recursive-merge": Case(fragment="merge key", change=_study(b"a: &a\n  <<: *a\n")),
    "empty-int": edit("seed: 0", "seed: !!int ''", "a value of the type int"),
    "python-tag": edit("seed: 0", "seed: !!python/object/apply:os.getcwd []", "the tag"),
    "two-documents": edit("seed: 0", "---\nseed: 0", "document"),
    "duplicate-key": edit("seed: 0", "seed: 0\nseed: 1", "a second time (first in line 21)"),
    "nul-in-text": edit("study: tiny", 'study: "a\\0"', "without NUL"),
    "surrogate": edit("model.onnx", '"\\ud800"', "halves of characters"),
    "number-as-key": edit("seed: 0", "seed: 0\n3: 4", "keys that are text"),
    # keys and types
    "unknown-key": edit("budget:", "bugdet:", "did you mean budget?"),
    "unknown-inner-key": edit("{trials: 4}", "{trial: 4}", "did you mean trials?"),
    "missing-model": edit("model:\n  path: model.onnx\n", "", "model: found nothing"),
    "missing-study": edit("study: tiny\n", "", "study: found nothing"),
    "bad-study-name": edit("study: tiny", "study: a/b", "letters, digits, dots"),
    "trials-as-text": edit("{trials: 4}", "{trials: '4'}", "an integer"),
    "trials-as-bool": edit("{trials: 4}", "{trials: yes}", "found true"),
    "trials-zero": edit("{trials: 4}", "{trials: 0}", "at least 1"),
    "hours-infinite": edit("{trials: 4}", "{hours: .inf}", "a finite number"),
    "section-as-number": edit("{trials: 4}", "4", "a section with the keys trials, hours"),
    "seed-as-float": edit("seed: 0", "seed: 1.5", "an integer"),
    "unknown-device": edit("device: cpu", "device: gpu", "allowed: auto, cpu, or cuda:0, cuda:1"),
    "unknown-objective": edit("[accuracy, throughput]", "[accuracy, speed]", "latency_p99"),
    "objective-twice": edit("[accuracy, throughput]", "[accuracy, accuracy]", "each objective once"),
    "drop-in-percent": edit("accuracy_drop: 0.01", "accuracy_drop: 1", "a share of the samples: 0.01 is one point"),
    "accuracy-in-percent": edit("accuracy_drop: 0.01", "accuracy: 76", "a share of the samples: 0.76 is 76 %"),
    "negative-drop": edit("accuracy_drop: 0.01", "accuracy_drop: -1", "at least 0"),
    "unknown-scenario": edit("scenario: offline", "scenario: online", "offline, singlestream"),
    "server-without-goal": edit("scenario: offline", "server: {batch_wait_ms: 1}", "slo_ms together with qps: auto"),
    "unknown-engine": edit("[onnxruntime,", "[onnxruntim,", "did you mean onnxruntime?"),
    "engine-twice": edit("[onnxruntime, openvino]", "[openvino, openvino]", "each engine once"),
    "no-engines": edit("[onnxruntime, openvino]", "[]", "at least 1"),
    "unknown-metric": edit("metric: top1", "metric: top3", "module:function"),
    "std-zero": edit("std: [1, 1, 1]", "std: [1, 0, 1]", "other than 0"),
    "file-key": edit("seed: 0", "seed: 0\nfile: x", "an unknown key"),
    "storage-scheme": edit("sqlite:///tiny.db", "mysql://me:hush@host/db", "'mysql://me:***@host/db'"),
    "storage-memory": edit("sqlite:///tiny.db", "'sqlite:///:memory:'", "sqlite:///FILE"),
    "storage-port": edit("sqlite:///tiny.db", "postgresql://me:hush@host:99999/db", "***"),
    # the space
    "unknown-preset": edit("extends: cpu", "extends: cpx", "did you mean cpu?"),
    "missing-preset-file": edit("extends: cpu", "extends: ./mine.yaml", "no such file"),
    "preset-circle": Case(
        fragment="extends itself",
        edits=(("extends: cpu", "extends: ./mine.yaml"),),
        change=_preset("extends: ./mine.yaml\nknobs: {streams: 1}\n"),
    ),
    "fault-in-preset": Case(
        fragment="mine.yaml:2: knobs.streams",
        edits=(("extends: cpu", "extends: ./mine.yaml"),),
        change=_preset("knobs:\n  streams: none\n"),
    ),
    "unknown-knob": edit("  streams: 1", "  steams: 1", "did you mean streams?"),
    "engine-as-knob": edit("  streams: 1", "  engine: [openvino]", "at the top level"),
    "unknown-precision": edit("[fp32, int8]", "[fp32, int2]", "int8-tensor"),
    "choice-twice": edit("[fp32, int8]", "[fp32, fp32]", "each choice once"),
    "no-choice": edit("[fp32, int8]", "[]", "an empty list"),
    "range-for-choices": edit("[fp32, int8]", "{low: 1, high: 2}", "a list of choices"),
    "low-not-below-high": edit("low: 1, high: 8", "low: 8, high: 8", "low less than high"),
    "no-high": edit("low: 1, high: 8", "low: 1", "both ends"),
    "low-out-of-bounds": edit("low: 1, high: 8", "low: 0, high: 8", "an integer in 1…65536"),
    "log-from-zero": edit("  streams: 1", "  pruning_ratio: {low: 0.0, high: 0.5, log: true}", "low above 0"),
    "step-with-log": edit("high: 8, log: true", "high: 8, log: true, step: 2", "one of the two"),
    "float-for-int": edit("  streams: 1", "  streams: 1.5", "an integer"),
    "bool-for-int": edit("  streams: 1", "  streams: true", "found true"),
    "null-for-knob": edit("  streams: 1", "  streams:", "leave the key out"),
    "ratio-too-large": edit("  streams: 1", "  pruning_ratio: 0.99", "a number in 0…0.95"),
    "prior-outside": edit("  streams: 1", "  streams: 1\n  priors: [{batch_size: 64}]", "1…8, log"),
    "prior-unknown-knob": edit("seed: 0", "priors: [{batch: 4}]", "did you mean batch_size?"),
    "prior-other-engine": edit(
        "engines: [onnxruntime, openvino]", "engines: [openvino]\npriors: [{engine: onnxruntime}]", "engine"
    ),
    "int8-without-calibration": edit("  calibration: {npz: calib.npz, inputs: x}\n", "", "data.calibration"),
    # the model
    "model-missing": edit("model.onnx", "nothing.onnx", "nothing there"),
    "path-too-long": edit("model.onnx", "x" * 5000, "a path to a file"),
    "image-name-too-long": images("no file can be called", _csv(f"file,label,split\n{'x' * 5000},0,val\n")),
    "storage-is-folder": edit("sqlite:///tiny.db", "sqlite:///images", "sqlite:///FILE"),
    "model-is-folder": edit("model.onnx", "images", "a folder"),
    "two-models": edit("path: model.onnx", "path: model.onnx\n  torch: a:b", "exactly one of path"),
    "torch-without-shape": edit("path: model.onnx", "torch: a:b", "input_shape"),
    "torch-not-importable": edit("path: model.onnx", _TORCH, "no_such_module_here"),
    "model-is-text": Case(fragment="cannot be parsed", change=lambda f: (f / "model.onnx").write_text("not a model")),
    "model-empty": Case(fragment="without a graph", change=lambda f: (f / "model.onnx").write_bytes(b"")),
    "model-truncated": Case(fragment="model.path", change=lambda f: _truncate(f / "model.onnx", 120)),
    "model-bad-op": model("onnx.checker refuses", op="NoSuchOperator"),
    "model-fixed-batch": model("the first dimension 8", shape=[8, 3, 4, 4]),
    "model-without-input": model("0 inputs", no_input=True),
    "model-scalar-input": model("without a shape", shape=[]),
    "weights-absolute": model("external weights at '/etc/hostname'", external="/etc/hostname"),
    "weights-outside": model("external weights at '../weights.bin'", external="../weights.bin"),
    "weights-missing": model("no such file", external="weights.bin"),
    "weights-short": model("end at byte 99999999", external="labels.csv", length=99999999),
    "input-shape-differs": edit("path: model.onnx", "path: model.onnx\n  input_shape: [3, 8, 8]", "model.input_shape"),
    # arrays
    "npz-missing": edit("npz: val.npz", "npz: nope.npz", "nothing there"),
    "npz-is-text": Case(fragment="not an .npz file", change=lambda f: (f / "val.npz").write_text("x")),
    "npz-damaged": Case(fragment="damaged", change=_damage_member),
    "npz-bomb": Case(fragment="unpacks to", change=_huge_claim),
    "npz-header-lies": Case(fragment="cannot be used", change=_long_header),
    "npz-objects": arrays("cannot be used", x=np.array([{}, {}], dtype=object), y=_Y),
    "npz-text-array": arrays("not numbers", x=np.array(["a"] * 6), y=_Y),
    "npz-no-such-array": edit("inputs: x, labels", "inputs: z, labels", "'z'"),
    "npz-no-such-labels": edit("labels: y", "labels: z", "'z'"),
    "npz-no-labels": Case(fragment="no labels", edits=((", labels: y", ""),), change=lambda f: np.savez(f / "val.npz", x=_X)),
    "npz-lengths-differ": arrays("one first dimension", x=_X, y=_Y[:4]),
    "npz-no-samples": arrays("at least one sample", x=_X[:0], y=_Y[:0]),
    "npz-not-finite": arrays("not finite", x=np.full((6, 4, 4, 3), np.nan, np.float32), y=_Y),
    "npz-float-labels": arrays("integer class number", x=_X, y=_Y.astype(np.float32)),
    "npz-labels-with-images": edit("npz: val.npz", "npz: val.npz, images: images", "exactly one of images"),
    "shape-mismatch": arrays("[3, 8, 8]", x=np.zeros((6, 8, 8, 3), np.uint8), y=_Y),
    "wrong-layout": edit("{scale: 0.5,", "{layout: NHWC, scale: 0.5,", "layout: NCHW"),
    "uint8-without-preprocess": edit("  preprocess: {scale: 0.5, mean: [1, 1, 1], std: [1, 1, 1]}\n", "", "data.preprocess"),
    "two-means": edit("mean: [1, 1, 1]", "mean: [1, 1]", "each of the 3 channels"),
    "resize-of-arrays": edit("{scale: 0.5,", "{resize: 4, scale: 0.5,", "image folder only"),
    "wrong-input-name": edit("inputs: x, labels", "inputs: {a: x, b: x}, labels", "one array for each input"),
    # images
    "images-missing": edit(IMAGES[0], "{images: nope, labels: labels.csv}", "an existing folder"),
    "labels-missing": edit(IMAGES[0], "{images: images, labels: nope.csv}", "an existing file"),
    "images-without-labels": edit(IMAGES[0], "{images: images}", "together with labels"),
    "csv-without-file": images("the column file", _csv("name,label,split\n0.png,0,val\n")),
    "csv-without-split": images("with the column split", _csv("file,label\n0.png,0\n")),
    "csv-without-labels": images("no labels", _csv("file,split\n0.png,val\n")),
    "csv-empty": images("columns none", _csv("")),
    "split-empty": images("one of the file's splits: calib", _csv("file,label,split\n2.png,0,calib\n")),
    "label-not-integer": images("labels.csv line 3: the label 'cat'", _csv("file,label,split\n0.png,0,val\n1.png,cat,val\n")),
    "image-missing": images("which is not there", _csv("file,label,split\n9.png,0,val\n")),
    "image-escapes": images("not a path inside", _csv("file,label,split\n../model.onnx,0,val\n")),
    "image-link-out": images("leads out of the folder", _link_out),
    "image-truncated": images("0.png: not a readable image", lambda f: _truncate(f / "images" / "0.png", 60)),
    "image-is-text": images("0.png: not a readable image", lambda f: (f / "images" / "0.png").write_text("x")),
    "image-16-bits": images("8 bits per channel", _sixteen_bits),
    "image-sizes-differ": images("with resize and crop", _other_size),
    "crop-too-large": images("less than the crop", lambda f: None, ("{scale: 0.5,", "{crop: 9, scale: 0.5,")),
    "images-of-other-shape": images("[3, 8, 8]", _wide),
}


def build(name: str, folder: Path) -> Path:
    """The study file of the case, whose files are now in `folder`."""
    case = CASES[name]
    folder.mkdir(parents=True)
    write_good(folder)
    text = STUDY
    for old, new in case.edits:
        if old not in text:
            raise ValueError(f"case {name}: {old!r} is not in the study")
        text = text.replace(old, new, 1)
    (folder / "study.yaml").write_text(text)
    if case.change is not None:
        case.change(folder)
    return folder / "study.yaml"


def cases(folder: Path) -> list[tuple[str, Path, str]]:
    """Every case, written to `folder`/NAME: its name, its study file, and what the error must say."""
    return [(name, build(name, folder / name), case.fragment) for name, case in CASES.items()]
