"""Values and edits that loaders fall over: used by the mutations of every kind."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

PATHS = (
    "../outside/secret",
    "/etc/hostname",
    "~",
    "~root/x",
    ".",
    "..",
    "images",
    "x" * 5000,
    "a/" * 600 + "b",
    "CON",
    "\\\\host\\x",
    "link",
    "model.onnx",
    "val.npz",
    "/dev/zero",
    "/proc/self/mem",
    "/dev/stdin",
    "./././study.yaml",
    "nul\0l",
    "new\nline",
    "é\u202ex",
)
TEXTS = (
    *PATHS,
    "",
    " ",
    "0",
    "-1",
    "1e400",
    "nan",
    ".nan",
    ".inf",
    "true",
    "off",
    "null",
    "[]",
    "{}",
    "${HOME}",
    "$(id)",
    "a:b",
    "os:system",
    "sqlite:////tmp/../x.db",
    "sqlite:///:memory:",
    "postgresql://me:hush@host:99999999/x",
    "mysql://x",
    "x" * 70_000,
    "\ud800",
    "\ufeff",
    "%s%s%n",
    "{0.__class__}",
    "cpu",
    "cuda:99999999999999999999",
    "fp32",
    "int8",
    "top1",
    "1:30",
    "0x1F",
    "2001-01-01",
)
NUMBERS: tuple[float | int, ...] = (
    0,
    1,
    -1,
    2,
    255,
    256,
    65535,
    65537,
    2**31 - 1,
    2**31,
    -(2**31),
    2**32,
    2**53,
    2**63 - 1,
    2**63,
    -(2**63),
    2**64,
    10**30,
    10**400,
    0.0,
    -0.0,
    1e-320,
    1e308,
    -1e308,
    0.1,
    1.5,
    float("nan"),
    float("inf"),
    float("-inf"),
)


def anything(rng: random.Random, depth: int = 0) -> Any:
    """A value of any YAML or JSON type."""
    kind = rng.randrange(8)
    if kind < 3:
        return rng.choice(TEXTS)
    if kind < 6:
        return rng.choice(NUMBERS)
    if kind == 6 or depth > 2:
        return rng.choice([None, True, False])
    if rng.random() < 0.5:
        return [anything(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {rng.choice(TEXTS): anything(rng, depth + 1) for _ in range(rng.randrange(4))}


def places(tree: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, Any]]:
    """(container, key or index) of every value in a tree of dicts and lists."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in list(items):
        yield tree, key
        if len(above) < 40:
            yield from places(value, (*above, key))


def edit_tree(tree: Any, rng: random.Random) -> None:
    """One edit of a document in place: a value replaced, removed, moved, doubled, nested, or a key renamed."""
    found = list(places(tree))
    if not found:
        return
    inside, key = rng.choice(found)
    edit = rng.randrange(12)
    if edit < 3:
        inside[key] = anything(rng)
    elif edit > 7:
        inside[key] = _nearby(inside[key], rng)
    elif edit == 3:
        del inside[key]
    elif edit == 4:
        other, there = rng.choice(found)
        if there in other if isinstance(other, dict) else there < len(other):
            inside[key], other[there] = other[there], inside[key]
    elif edit == 5:
        inside[key] = [inside[key]] * rng.choice([1, 2, 50]) if rng.random() < 0.5 else {rng.choice(TEXTS): inside[key]}
    elif edit == 6 and isinstance(inside, dict):
        name = str(key)
        at = rng.randrange(len(name) + 1)
        inside[rng.choice([name[:at] + name[at + 1 :], name + "s", name.upper(), rng.choice(TEXTS)])] = inside.pop(key)
    else:
        for _ in range(rng.choice([1, 3, 40])):
            inside[key] = [inside[key]]


def _nearby(value: Any, rng: random.Random) -> Any:
    """A value of the same type that a loader may well take."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + rng.choice([-1, 1, 2, 7])
    if isinstance(value, float):
        return value * rng.choice([0.5, 0.99, 2.0])
    if isinstance(value, list):
        return rng.sample(value, len(value)) if rng.random() < 0.5 else value[:-1]
    if isinstance(value, dict):
        return dict(rng.sample(list(value.items()), len(value)))
    return rng.choice([value, str(value) + "2", str(value).capitalize(), f" {value}"])


def edit_bytes(content: bytes, rng: random.Random) -> bytes:
    """One edit of raw bytes: flips, a cut, a splice, a block doubled, or numbers that are lengths elsewhere."""
    if not content:
        return bytes(rng.randrange(256) for _ in range(rng.randrange(50)))
    data, at = bytearray(content), rng.randrange(len(content))
    edit = rng.randrange(7)
    if edit < 2:
        for _ in range(rng.choice([1, 1, 2, 8])):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif edit == 2:
        del data[at:]
    elif edit == 3:
        end = min(len(data), at + rng.randrange(1, 64))
        data[at:at] = data[at:end] * rng.choice([1, 2, 100])
    elif edit == 4:
        del data[at : at + rng.randrange(1, 32)]
    elif edit == 5:
        data[at : at + 4] = rng.choice(
            [b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x80" * 4]
        )
    else:
        data[at : at + 1] = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 16)))
    return bytes(data)
