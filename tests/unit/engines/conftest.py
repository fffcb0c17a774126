"""Fixtures of the tests of engines: TensorRT's backend on the double of each release."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tensorrt_samples import Bench

RELEASES = tuple(sorted(p.stem for p in (Path(__file__).parents[2] / "assets" / "trt_api").glob("*.json")))


@pytest.fixture(params=RELEASES)
def bench(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """TensorRT's backend on the double of every dumped release, one after the other."""
    yield from _bench(request.param, tmp_path, monkeypatch)


@pytest.fixture
def newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """TensorRT's backend on the newest dumped release, for rules that no release changes."""
    yield from _bench("tensorrt-11.4.0", tmp_path, monkeypatch)


def _bench(release: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed: pip install 'autotune[nvml]'")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'autotune[onnxruntime]'")
    from tensorrt_samples import bench_on

    yield from bench_on(release, folder, monkeypatch)
