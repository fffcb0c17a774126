"""Compiles the double of NVIDIA's driver library, for processes of their own: a process that loaded it believes in a GPU."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("fake_libcuda.c")
ROOT = Path(__file__).parents[2]


def driver_folder(folder: Path) -> Path:
    """`folder`, with libcuda.so.1 in it. Skips where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler (cc, gcc or clang) to make the double of the driver with")
    command = [compiler, "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", str(folder / "libcuda.so.1"), str(SOURCE)]
    subprocess.run([*command, "-lpthread", "-ldl"], check=True, timeout=120)
    return folder


def with_driver(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A Python process that finds the double where CUDA libraries look for the driver."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests"), *(p for p in sys.path if p)])
    environment = {**os.environ, "LD_LIBRARY_PATH": str(folder), "PYTHONPATH": paths}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
