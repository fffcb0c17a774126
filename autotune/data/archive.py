"""An .npz file's arrays, unpacked once into the cache and memory-mapped from then on. Nothing in the file can run code."""

from __future__ import annotations

import lzma
import shutil
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotune.cache import Cache
from autotune.errors import SpecError
from autotune.fingerprint import digest_of, file_digest
from autotune.spec.model import SplitSpec

MAX_BYTES = 64 << 30
"""Unpacked size that is taken for data and not for a zip bomb."""

_ROWS_AT_ONCE = 1024
# what zipfile was seen to raise on damaged archives (bytes changed at random); RuntimeError: encrypted members
_ZIP_ERRORS = (
    OSError, EOFError, ValueError, RuntimeError, OverflowError, struct.error, zlib.error, lzma.LZMAError, zipfile.BadZipFile
)  # fmt: skip
# and numpy on damaged headers, which it reads as Python literals
_NPY_ERRORS = (OSError, EOFError, ValueError, TypeError, OverflowError, RecursionError, SyntaxError, tokenize.TokenError)


class ArchiveFault(Exception):
    """The archive cannot be used; the message says what was found."""


def array_names(path: Path) -> tuple[str, ...]:
    """The names of the arrays in the archive. Raises ArchiveFault when it is no .npz file."""
    with _opened(path) as archive:
        return tuple(name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy"))


def arrays_from_archive(
    split: SplitSpec, path: Path, names: Sequence[str], cache: Cache
) -> tuple[dict[str, NDArray[Any]], str]:
    """The named arrays, memory-mapped read-only, and the key of the archive's content. Raises SpecError.

    Refused: a file that is no archive or is damaged, arrays of Python objects, values that are not finite, and archives
    that unpack to more than MAX_BYTES or than the cache's disk can hold.
    """
    key = digest_of({"archive": file_digest(path), "arrays": list(names)})

    def make(folder: Path) -> Mapping[str, Any]:
        with _opened(path) as archive:
            _require_room(archive, names, folder)
            for i, name in enumerate(names):
                _unpack(archive, name, folder / f"{i}.npy")
        return {"arrays": list(names)}

    try:
        made = cache.get_or_make("samples", key, make)
    except ArchiveFault as exc:
        raise SpecError(
            [split.problem("npz", f"{path.name}, {exc}", "an .npz file of numeric arrays, from numpy.savez")]
        ) from exc
    arrays = {name: np.load(made.folder / f"{i}.npy", mmap_mode="r", allow_pickle=False) for i, name in enumerate(names)}
    return arrays, key


def _opened(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except _ZIP_ERRORS as exc:
        raise ArchiveFault(f"which is not an .npz file ({exc})") from exc


def _require_room(archive: zipfile.ZipFile, names: Sequence[str], folder: Path) -> None:
    """The sizes that the archive declares are bounds: zipfile stops reading a member there."""
    declared = sum(archive.getinfo(f"{name}.npy").file_size for name in names)
    free = shutil.disk_usage(folder).free
    if declared > min(MAX_BYTES, free):
        raise ArchiveFault(
            f"which unpacks to {declared >> 20} MiB (limit {MAX_BYTES >> 20} MiB, free on disk {free >> 20} MiB)"
        )


def _unpack(archive: zipfile.ZipFile, name: str, target: Path) -> None:
    """A member of an .npz file is an .npy file: copied as it is, then opened as a memory map, which checks its header."""
    try:
        with archive.open(f"{name}.npy") as packed, target.open("wb") as handle:
            shutil.copyfileobj(packed, handle, 1 << 20)
    except _ZIP_ERRORS as exc:
        raise ArchiveFault(f"whose array {name} is damaged ({exc})") from exc
    try:
        array = np.load(target, mmap_mode="r", allow_pickle=False)
    except _NPY_ERRORS as exc:
        raise ArchiveFault(f"whose array {name} cannot be used ({exc})") from exc
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
        kind = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise ArchiveFault(f"whose array {name} holds {kind}, not numbers")
    if array.dtype.kind == "f":
        for start in range(0, len(array) if array.ndim else 0, _ROWS_AT_ONCE):
            if not np.isfinite(array[start : start + _ROWS_AT_ONCE]).all():
                raise ArchiveFault(f"whose array {name} holds values that are not finite (rows from {start})")
