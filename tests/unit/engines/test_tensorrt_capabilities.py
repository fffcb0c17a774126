"""What TensorRT's engines say of a machine: the release, the GPU, the precisions, and the line that closes each gap."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed: pip install 'autotune[nvml]'")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'autotune[onnxruntime]'")

from assets import fake_nvml
from assets.trt_installed import installed

from autotune.candidate import Candidate
from autotune.engines import tensorrt_library
from autotune.engines.build import engine_key, load_backend
from autotune.engines.protocol import Capabilities, Engine
from autotune.engines.tensorrt_library import TENSORRT
from autotune.records import VariantInfo
from autotune.testing.engine_contract import tiny_cnn
from autotune.variants.variant import ModelVariant


def able(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    release: str,
    capability: tuple[int, int],
    version: str | None = None,
    name: str = "tensorrt",
) -> Capabilities:
    """The capabilities on a GPU of this capability, with the release's double, called `version` if given."""
    with installed(release, tmp_path, monkeypatch):
        fake_nvml.install(monkeypatch, fake_nvml.FakeGpu(capability=capability))
        if version is not None:
            monkeypatch.setattr(
                tensorrt_library, "library_version", lambda d: version if d == TENSORRT.distributions[0] else None
            )
        return load_backend(name).capabilities()


@pytest.mark.parametrize(
    ("version", "capability", "missing", "remedy"),
    [
        ("8.6.1", (8, 0), "TensorRT 8.6 is installed, and autotune knows 10.0 to 11", "autotune[tensorrt]"),
        ("12.0.0", (8, 0), "TensorRT 12.0 is installed", "autotune[tensorrt]"),
        ("10.5.0", (7, 0), "TensorRT 10.5 has no code for sm_70", "autotune[v100]"),
        ("11.4.0.106", (7, 0), "TensorRT 11.4 has no code for sm_70", "TensorRT 10.4 was the last"),
        ("10.4.0", (6, 1), "has no code for sm_61", "Volta"),
    ],
)
def test_a_release_that_does_not_fit_is_told_with_the_line_that_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, capability: tuple[int, int], missing: str, remedy: str
) -> None:
    """Releases that are not known, and Volta after TensorRT 10.4."""
    found = able(tmp_path, monkeypatch, "tensorrt-11.4.0", capability, version)
    assert not found.available and missing in found.missing and remedy in found.remedy


@pytest.mark.parametrize(
    ("version", "capability"), [("10.4.0", (7, 0)), ("10.0.1", (7, 5)), ("11.4.0", (7, 5)), ("10.16.1.11", (9, 0))]
)
def test_a_release_that_fits_is_available(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, capability: tuple[int, int]
) -> None:
    """TensorRT 10.4 on Volta, and later releases from Turing on."""
    assert able(tmp_path, monkeypatch, "tensorrt-10.16.1", capability, version).available


def test_precisions_follow_the_gpu_and_the_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A V100 has no tf32, bf16, fp8, int4 and 2:4; before TensorRT 11 the builder may choose, each refusal with its reason."""
    volta = able(tmp_path / "a", monkeypatch, "tensorrt-10.4.0", (7, 0))
    assert volta.precisions == ("fp32", "fp16", "int8", "int8-tensor", "weak-fp16", "weak-fp16-int8")
    assert set(volta.refused) == {"tf32", "bf16", "fp8", "int4", "fp16-sparse"} and "sm_70" in volta.refused["bf16"]
    hopper = able(tmp_path / "b", monkeypatch, "tensorrt-11.4.0", (9, 0))
    assert set(hopper.refused) == {"weak-fp16", "weak-fp16-int8"} and "fp8" in hopper.precisions
    assert volta.limits == {"streams": (1, 32), "worker_threads": (1, 32), "memory_pool_mib": (1, 16384)}


def test_tensorrt_for_rtx_serves_the_gpus_that_it_builds_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its ComputeCapability has no Hopper and no Volta; there TensorRT itself is the remedy."""
    ada = able(tmp_path / "a", monkeypatch, "tensorrt-rtx-1.7.1", (8, 9), name="tensorrt-rtx")
    assert ada.available and "fp8" in ada.precisions and "weak-fp16" in ada.refused
    hopper = able(tmp_path / "b", monkeypatch, "tensorrt-rtx-1.7.1", (9, 0), name="tensorrt-rtx")
    assert not hopper.available and "sm_120, sm_121, sm_75, sm_80, sm_86, sm_89 only" in hopper.missing
    assert hopper.remedy == "pip install 'autotune[tensorrt]'"
    assert "tried on the GPU that is here: TensorRT built no engine" in hopper.missing
    volta = able(tmp_path / "c", monkeypatch, "tensorrt-rtx-1.7.1", (7, 0), name="tensorrt-rtx")
    assert not volta.available and "tried" not in volta.missing


def test_a_gpu_without_a_name_is_served_where_tensorrt_for_rtx_builds_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked in a process of its own; engines are then for the GPU that is here, and open."""
    monkeypatch.setattr("autotune.devices.gpu_probe.digest_of", lambda about: "WITHOUT_A_NAME")
    monkeypatch.setenv("AUTOTUNE_TEST_RTX_CURRENT", "1")
    for release, capability, targets in (("tensorrt-rtx-1.7.1", (9, 0), {0: "CURRENT"}), ("tensorrt-rtx-1.7.1", (8, 9), {})):
        folder = tmp_path / str(capability[1])
        with installed(release, folder, monkeypatch, capability=capability) as world:
            backend = load_backend("tensorrt-rtx")
            found = backend.capabilities()
            assert found.available and "fp8" in found.precisions, found
            info = VariantInfo(key="v", precision="fp32", scheme="", pruning_ratio=0.0, achieved_pruning=0.0, params=1, macs=1,
                               model_bytes=1)  # fmt: skip
            variant = ModelVariant(key="v", path=tiny_cnn(folder / "tiny.onnx"), info=info)
            candidate = Candidate(engine="tensorrt-rtx", precision="fp32", pruning_ratio=0.0, batch_size=2, streams=1,
                                  worker_threads=None, memory_pool_mib=None)  # fmt: skip
            backend.build(variant, candidate, folder)
            assert world.configs[-1]._targets == targets
            with backend.open(Engine(key="k", backend="tensorrt-rtx", variant=variant, folder=folder), candidate) as session:
                assert session.slots == 1
        os.environ.pop("AUTOTUNE_PROBED_WITHOUT_A_NAME")


def test_without_a_gpu_the_driver_is_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library is there; doctor says what else it takes."""
    import pynvml

    with installed("tensorrt-10.4.0", tmp_path, monkeypatch):
        fake_nvml.install(monkeypatch, init=pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)
        found = load_backend("tensorrt").capabilities()
    assert not found.available and "no NVIDIA driver" in found.missing and "--gpus all" in found.remedy


def test_a_release_that_does_not_start_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its distribution is there, and a library that it links to is not: doctor says so, and no trial finds it out."""
    with installed("tensorrt-11.4.0", tmp_path, monkeypatch):
        (tmp_path / "site" / "tensorrt" / "__init__.py").write_text("raise ImportError('libcudart.so.13: cannot open')\n")
        monkeypatch.setattr("autotune.devices.gpu_probe.digest_of", lambda about: "OF_THIS_TEST")
        found = load_backend("tensorrt").capabilities()
        monkeypatch.delenv("AUTOTUNE_PROBED_OF_THIS_TEST")
    assert not found.available and "does not start: ImportError: libcudart.so.13: cannot open" in found.missing
    assert "autotune[cuda12]" in found.remedy and "serves CUDA" in found.remedy


def test_without_a_library_for_cuda_nothing_can_be_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams and buffers come from another library than TensorRT; a missing one is told before a study begins."""
    from autotune.errors import EnvironmentProblem

    def none() -> str:
        raise EnvironmentProblem("no library here drives CUDA from Python (…).", remedy="pip install 'autotune[cuda-core]'")

    monkeypatch.setattr("autotune.engines.tensorrt_backend.runtime_name", none)
    found = able(tmp_path, monkeypatch, "tensorrt-10.4.0", (7, 0))
    assert not found.available and "drives CUDA" in found.missing and "cuda-core" in found.remedy


def test_the_key_of_an_engine_holds_the_release_and_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans are tied to both; knobs of a session are not in it, and the level of the builder is."""
    info = VariantInfo(key="v", precision="fp32", scheme="", pruning_ratio=0.0, achieved_pruning=0.0, params=1, macs=1,
                       model_bytes=1)  # fmt: skip
    variant = ModelVariant(key="v", path=tmp_path, info=info)

    def key(release: str, card: dict[str, Any], folder: str, **knobs: Any) -> str:
        with installed(release, tmp_path / folder, monkeypatch):
            fake_nvml.install(monkeypatch, fake_nvml.FakeGpu(**card))
            known: dict[str, Any] = {"precision": "fp32", "pruning_ratio": 0.0, "batch_size": 1, "streams": 1}
            known |= {"worker_threads": None, "memory_pool_mib": 64, "builder_level": 3, "cuda_graph": "off"}
            return engine_key(load_backend("tensorrt"), variant, Candidate(engine="tensorrt", **{**known, **knobs}))

    volta: dict[str, Any] = {"capability": (7, 0)}
    base = key("tensorrt-10.4.0", volta, "a")
    assert key("tensorrt-10.4.0", volta, "b", streams=4, cuda_graph="on", worker_threads=2) == base
    others = [
        key("tensorrt-10.3.0", volta, "c"),
        key("tensorrt-10.4.0", {"capability": (7, 0), "name": "Tesla V100-PCIE-32GB"}, "d"),
        *(key("tensorrt-10.4.0", volta, f"e{i}", **k) for i, k in enumerate(({"builder_level": 5}, {"memory_pool_mib": 65}))),
    ]
    assert len({base, *others}) == 5
