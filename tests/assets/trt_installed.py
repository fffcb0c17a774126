"""A release of TensorRT that is installed as far as Python can tell: a package, its metadata, a GPU and a way to drive it."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from assets.trt_double import World

_SHIM = "from assets.trt_installed import take_over\ntake_over(__name__, {release!r})\n"


def take_over(module: str, release: str) -> None:
    """The import under way gives the double."""
    sys.modules[module] = World(release).module


def give_gpu() -> None:
    """A process that no test prepared has the GPU of the test that started it."""
    if card := os.environ.get("AUTOTUNE_TEST_GPU"):
        import pynvml
        import pytest
        from assets import fake_nvml

        if not isinstance(pynvml.nvmlLib, fake_nvml.FakeLibrary):
            capability = tuple(int(n) for n in card.split("."))
            fake_nvml.install(pytest.MonkeyPatch(), fake_nvml.FakeGpu(capability=capability))  # type: ignore[arg-type]


CARD = {"tensorrt-10.0.1": (7, 0), "tensorrt-10.3.0": (7, 0), "tensorrt-10.4.0": (7, 0), "tensorrt-rtx-1.7.1": (8, 9)}
"""The GPU on which a release is tried: the last for Volta on Volta, later ones on Hopper."""


@contextlib.contextmanager
def installed(release: str, folder: Path, monkeypatch: Any, *, capability: tuple[int, int] | None = None) -> Iterator[World]:
    """The release is installed as far as Python can tell, in this process and in those that it starts, with a GPU and the host
    double of CUDA; yields its world."""
    from assets import fake_nvml

    from autotune.fingerprint import cpu_fingerprint, library_version

    with contextlib.suppress(ImportError):  # it puts a folder on sys.path, which must outlive what monkeypatch restores
        import_module("onnxruntime.transformers")
    module = "tensorrt_rtx" if "rtx" in release else "tensorrt"
    name, _, version = release.rpartition("-")
    package = folder / "site" / module
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(_SHIM.format(release=release))
    (package.parent / "sitecustomize.py").write_text("from assets.trt_installed import give_gpu\n\ngive_gpu()\n")
    facts = package.parent / f"{name.replace('-', '_')}-{version}.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (facts / "top_level.txt").write_text(module + "\n")
    monkeypatch.syspath_prepend(str(package.parent))
    world = World(release)
    monkeypatch.setitem(sys.modules, module, world.module)
    capability = capability or CARD.get(release, (9, 0))
    fake_nvml.install(monkeypatch, fake_nvml.FakeGpu(name="A GPU", capability=capability))
    monkeypatch.setenv("AUTOTUNE_TEST_GPU", f"{capability[0]}.{capability[1]}")
    monkeypatch.setenv("AUTOTUNE_CUDA_RUNTIME", "host")
    caches = (library_version, cpu_fingerprint)
    try:
        for cache in caches:
            cache.cache_clear()
        yield world
    finally:
        for cache in caches:
            cache.cache_clear()
