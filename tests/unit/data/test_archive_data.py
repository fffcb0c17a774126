"""Rules of .npz splits and of binding them to a model's inputs."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autotune.cache import Cache
from autotune.data.binding import bind_inputs
from autotune.data.dataset import Dataset, InputSpec
from autotune.data.split import load_split
from autotune.errors import SpecError
from autotune.spec.model import PreprocessSpec, SplitSpec


def dataset(preprocess: PreprocessSpec | None = None, **arrays: np.ndarray[Any, Any]) -> Dataset:
    return Dataset(arrays=arrays, labels=None, preprocess=preprocess, digest="d")


def wanted(name: str, shape: tuple[int | None, ...], dtype: str = "float32") -> InputSpec:
    return InputSpec(name=name, shape=shape, dtype=dtype)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_come_back_memory_mapped(tmp_path: Path, save: Any) -> None:
    """Compressed or not, Fortran order or C: the values are those that were saved, and nothing is held in memory."""
    x = np.asfortranarray(np.arange(12, dtype=np.int8).reshape(3, 4))
    save(tmp_path / "a.npz", x=x, y=np.array([2, 1, 0]))
    data = load_split(SplitSpec(npz=tmp_path / "a.npz"), None, Cache(tmp_path / "cache"))
    assert isinstance(data.arrays["x"], np.memmap)
    assert np.array_equal(data.arrays["x"], x)
    assert data.labels is not None and data.labels.tolist() == [2, 1, 0]


def test_inputs_are_named_as_the_study_says(tmp_path: Path) -> None:
    """A mapping gives the model's names, a list keeps the arrays' own, and one lone array needs no name."""
    np.savez(tmp_path / "a.npz", a=np.zeros((2, 1)), b=np.ones((2, 1)))
    np.savez(tmp_path / "lone.npz", pixels=np.zeros((2, 1)), y=np.zeros(2, int))
    cache = Cache(tmp_path / "cache")
    assert set(load_split(SplitSpec(npz=tmp_path / "a.npz", inputs={"p": "a", "q": "b"}), None, cache).arrays) == {"p", "q"}
    assert set(load_split(SplitSpec(npz=tmp_path / "a.npz", inputs=("a", "b")), None, cache).arrays) == {"a", "b"}
    assert set(load_split(SplitSpec(npz=tmp_path / "lone.npz"), None, cache).arrays) == {"pixels"}
    with pytest.raises(SpecError, match="a, b"):
        load_split(SplitSpec(npz=tmp_path / "a.npz"), None, cache)


def test_limit_and_preprocess_enter_the_digest(tmp_path: Path) -> None:
    """Fewer samples or other inputs are other data: an accuracy must not be taken from one for the other."""
    np.savez(tmp_path / "a.npz", x=np.zeros((4, 2, 2, 3), np.uint8), y=np.zeros(4, int))
    split, cache = SplitSpec(npz=tmp_path / "a.npz"), Cache(tmp_path / "cache")
    digests = {
        load_split(split, None, cache).digest,
        load_split(split, PreprocessSpec(scale=2), cache).digest,
        load_split(split.model_copy(update={"limit": 2}), None, cache).digest,
    }
    assert len(digests) == 3


def test_a_single_array_goes_to_the_only_input() -> None:
    """Whatever the array is called."""
    bound = bind_inputs(dataset(x=np.zeros((2, 5), np.float32)), [wanted("input", (None, 5))])
    assert bound.batch(0, 2)["input"].shape == (2, 5)


@pytest.mark.parametrize(
    ("found", "dtype"),
    [
        ("int32", "int64"),
        ("uint8", "int64"),
        ("int64", "int32"),
        ("float64", "float32"),
        ("float16", "float32"),
        ("float32", "float16"),
    ],
)
def test_numbers_are_converted_where_no_value_changes_its_meaning(found: str, dtype: str) -> None:
    """Integers to integers that hold every value, floating point to floating point."""
    bound = bind_inputs(dataset(x=np.arange(6, dtype=found).reshape(2, 3)), [wanted("x", (None, 3), dtype)])
    batch = bound.batch(0, 2)["x"]
    assert batch.dtype == dtype
    assert batch.tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(("values", "dtype"), [([1 << 40], "int32"), ([-1], "uint8"), ([1], "float32"), ([1.5], "int64")])
def test_numbers_that_would_change_are_refused(values: list[float], dtype: str) -> None:
    """An integer too large for the model, and integers for a float input, whose scale nobody knows."""
    with pytest.raises(SpecError, match=dtype):
        bind_inputs(dataset(x=np.array([values])), [wanted("x", (None, 1), dtype)])


def test_shape_and_type_are_told_together_with_a_way_out() -> None:
    """A transposed image is recognised: the message names the layout that fits."""
    pixels = np.zeros((2, 8, 8, 3), np.uint8)
    with pytest.raises(SpecError) as caught:
        bind_inputs(dataset(x=pixels), [wanted("input", (None, 3, 8, 8))])
    assert len(caught.value.problems) == 2
    assert "layout: NCHW" in str(caught.value) and "data.preprocess" in str(caught.value)
    bound = bind_inputs(dataset(PreprocessSpec(), x=pixels), [wanted("input", (None, 3, 8, None))])
    assert bound.batch(0, 1)["input"].shape == (1, 3, 8, 8)


def test_preprocessing_is_the_formula_of_the_study_file() -> None:
    """(pixel·scale − mean)/std per channel: (10·0.5 − 1)/2 = 2, (20·0.5 − 2)/4 = 2."""
    spec = PreprocessSpec(scale=0.5, mean=(1, 2), std=(2, 4), layout="NHWC")
    data = dataset(spec, x=np.array([[[[10, 20]]]], np.uint8))
    assert data.batch(0, 1)["x"].tolist() == [[[[2.0, 2.0]]]]


def npy(header: str, payload: bytes = b"\0" * 16) -> bytes:
    """An .npy file of version 1 with that header."""
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + payload


HEADERS = {
    "a shape below nothing": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-6, 4), }"),
    "a shape of sizes whose product overflows": npy(
        "{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296), }"
    ),
    "an open bracket": npy("(" * 30),
    "brackets without end": npy("[" * 3000),
    "a call": npy("__import__('os').system('id')"),
    "no header": b"\x93NUMPY\x01\x00",
    "nothing": b"",
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_that_numpy_cannot_read_is_a_fault_of_the_file(name: str, tmp_path: Path) -> None:
    """Numpy raises half a dozen types on them (found by benchmarks/fuzz.py); nothing of the file is evaluated."""
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", HEADERS[name])
    with pytest.raises(SpecError, match=r"a\.npz|samples"):
        load_split(SplitSpec(npz=tmp_path / "a.npz"), None, Cache(tmp_path / "cache"))


def test_a_damaged_lzma_member_is_a_fault_of_the_file(tmp_path: Path) -> None:
    """Its error is no OSError."""
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("x.npy", npy("{'descr': '|u1', 'fortran_order': False, 'shape': (2, 8), }"))
    content = bytearray(path.read_bytes())
    content[30 + len("x.npy") + 4] ^= 0xFF  # the first byte of LZMA's properties, behind the local header
    path.write_bytes(content)
    with pytest.raises(SpecError, match="whose array x is damaged"):
        load_split(SplitSpec(npz=path), None, Cache(tmp_path / "cache"))
