"""ONNX Runtime's GPU engines: never silently on the CPU, and each fixed choice and knob where it belongs."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'autotune[onnxruntime]'")
pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed: pip install 'autotune[nvml]'")

from assets.fake_nvml import FakeGpu, install  # noqa: E402
from assets.fake_onnxruntime_gpu import checked  # noqa: E402

from autotune.candidate import KNOBS, Candidate  # noqa: E402
from autotune.engines import onnxruntime_gpu as gpu  # noqa: E402
from autotune.engines import onnxruntime_tensorrt as trt  # noqa: E402
from autotune.engines.onnxruntime_cuda import OnnxRuntimeCuda  # noqa: E402
from autotune.engines.onnxruntime_probe import why_provider_fails  # noqa: E402
from autotune.engines.onnxruntime_session import create_session  # noqa: E402
from autotune.errors import Unsupported  # noqa: E402


def candidate(**knobs: Any) -> Candidate:
    return Candidate(**{"engine": "e", "precision": "fp32", "pruning_ratio": 0.0, "batch_size": 8, "streams": 1,
                        "worker_threads": None, "memory_pool_mib": None, **knobs})  # fmt: skip


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """x [batch, 3, 4] → y = −x."""
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 3, 4]) for n in "xy"]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", ends[:1], ends[1:])
    path = tmp_path / "model.onnx"
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="this onnxruntime has the CUDA provider")
def test_a_session_that_fell_back_to_the_cpu_is_a_rejection(model: Path) -> None:
    """The real library, asked for CUDA where it has none, warns and takes the CPU."""
    with (
        pytest.warns(UserWarning, match="not in available provider names"),
        pytest.raises(Unsupported, match=r"asked for CUDAExecutionProvider and took .*CPUExecutionProvider"),
    ):
        create_session(model, ort.SessionOptions(), [("CUDAExecutionProvider", {})], stage="open")


@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="this onnxruntime has the CUDA provider")
def test_the_probe_tells_why_a_provider_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own, once: the answer is in the environment for the processes of trials."""
    install(monkeypatch, FakeGpu())
    reason = why_provider_fails("CUDAExecutionProvider")
    assert "not compiled with CUDAExecutionProvider" in reason
    monkeypatch.setattr("autotune.devices.gpu_probe.failure_of", lambda program, provider, telling: "asked again")
    assert why_provider_fails("CUDAExecutionProvider") == reason
    assert why_provider_fails("TensorrtExecutionProvider") == "asked again"


def able(monkeypatch: pytest.MonkeyPatch, card: FakeGpu, reason: str, *, both: bool = False) -> Any:
    """The CUDA engine's capabilities on `card`, where the probe said `reason`."""
    install(monkeypatch, card)
    versions = {"onnxruntime-gpu": "1.24.4", "onnxruntime": "1.24.4" if both else None}
    monkeypatch.setattr(gpu, "library_version", versions.get)
    monkeypatch.setattr(gpu, "why_provider_fails", lambda provider: reason)
    return OnnxRuntimeCuda().capabilities()


def test_precisions_are_those_of_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A V100 has neither tf32 nor bf16, and the CUDA provider no int8 kernels anywhere: each with its reason."""
    found = able(monkeypatch, FakeGpu(), "")
    assert found.available and found.device == "cuda" and found.precisions == ("fp32", "fp16")
    assert "sm_70" in found.refused["bf16"] and "sm_70" in found.refused["tf32"] and "Q/DQ" in found.refused["int8"]
    assert found.limits == {"memory_pool_mib": (1, 16384)}
    ampere = able(monkeypatch, FakeGpu(name="NVIDIA A100", capability=(8, 0)), "")
    assert ampere.precisions == ("fp32", "tf32", "fp16", "bf16")


def test_a_provider_that_does_not_run_comes_with_the_line_that_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two distributions of one import name, a wheel without code for Volta, a missing library: each its own remedy."""
    no_kernel = "no kernel image is available for execution on the device"
    assert "autotune[v100]" in able(monkeypatch, FakeGpu(), no_kernel).remedy
    assert "uninstall -y onnxruntime" in able(monkeypatch, FakeGpu(), "was not compiled with", both=True).remedy
    missing = able(monkeypatch, FakeGpu(capability=(9, 0)), "Failed to load library libcublas.so.12")
    assert not missing.available and missing.missing.startswith("Failed to load") and "autotune[cuda]" in missing.remedy


def test_without_a_gpu_the_engine_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver's absence is the gap, and its remedy the driver's."""
    able(monkeypatch, FakeGpu(), "")
    install(monkeypatch)
    found = trt.OnnxRuntimeTensorRt().capabilities()
    assert not found.available and found.device == "cuda" and "no NVIDIA GPU is visible" in found.missing and found.remedy


def test_cuda_options_follow_the_candidate(model: Path) -> None:
    """A cap is kept by growing the arena by what is asked for; TF32 only where the precision says so; NHWC for 16 bits."""
    engine = OnnxRuntimeCuda()
    ((name, plain),) = engine.providers(candidate(), None, building=False)
    assert name == "CUDAExecutionProvider" and "gpu_mem_limit" not in plain
    assert (plain["use_tf32"], plain["prefer_nhwc"], plain["arena_extend_strategy"]) == ("0", "0", "kNextPowerOfTwo")
    assert (plain["cudnn_conv_algo_search"], plain["enable_cuda_graph"]) == ("EXHAUSTIVE", "0")
    ((_, capped),) = engine.providers(candidate(precision="fp16", memory_pool_mib=64), None, building=False)
    assert (capped["gpu_mem_limit"], capped["arena_extend_strategy"], capped["prefer_nhwc"]) == (
        str(64 << 20), "kSameAsRequested", "1",
    )  # fmt: skip
    ((_, tf32),) = engine.providers(candidate(precision="tf32"), None, building=False)
    assert tf32["use_tf32"] == "1"


def test_what_the_candidate_says_goes_before_what_the_engine_would_choose(model: Path) -> None:
    """Layout, search, growth and graph; a cap is divided by the sessions of captured streams: 90 MiB for 3 are 30 each."""
    chosen = candidate(
        precision="fp16", memory_pool_mib=90, streams=3, cuda_graph="on", layout="nchw", conv_search="heuristic",
        arena_growth="doubling",
    )  # fmt: skip
    ((_, options),) = OnnxRuntimeCuda().providers(chosen, None, building=False)
    assert (options["prefer_nhwc"], options["cudnn_conv_algo_search"]) == ("0", "HEURISTIC")
    assert (options["arena_extend_strategy"], options["enable_cuda_graph"]) == ("kNextPowerOfTwo", "1")
    assert options["gpu_mem_limit"] == str(30 << 20)
    settings = OnnxRuntimeCuda().deployment(chosen)
    assert (settings["sessions"], settings["concurrent_runs"], settings["io_binding"]) == (3, 3, True)
    assert OnnxRuntimeCuda().deployment(candidate(streams=3))["sessions"] == 1


def test_every_option_is_one_that_the_provider_knows(model: Path) -> None:
    """Whatever a candidate says: an option of another name or value is an error in onnxruntime-gpu."""
    for engine in (OnnxRuntimeCuda(), trt.OnnxRuntimeTensorRt()):
        knobs = engine.build_knobs | engine.run_knobs
        values: dict[str, tuple[Any, ...]] = {k: (None, *KNOBS[k].choices) for k in knobs if KNOBS[k].kind == "choice"}
        values |= {"memory_pool_mib": (None, 64), "precision": engine.precisions}
        values |= {"builder_level": (None, 0, 5)} if "builder_level" in knobs else {}
        for building in (True, False):
            for chosen in itertools.product(*values.values()):
                given = candidate(**dict(zip(values, chosen, strict=True)))
                for name, options in engine.providers(given, model.parent, building=building):
                    assert checked(name, options) == options


def test_tensorrt_gets_one_profile_and_keeps_its_engine_beside_the_graph(model: Path) -> None:
    """The candidate's batch at all three ends; the timing cache is touched while building only: an artifact must not change."""
    asked = trt.OnnxRuntimeTensorRt().providers(candidate(precision="int8", memory_pool_mib=256), model.parent, building=True)
    assert [name for name, _ in asked] == ["TensorrtExecutionProvider", "CUDAExecutionProvider"]
    options = asked[0][1]
    assert {options[f"trt_profile_{end}_shapes"] for end in ("min", "opt", "max")} == {"x:8x3x4"}
    assert options["trt_max_workspace_size"] == str(256 << 20)
    assert (options["trt_int8_enable"], options["trt_fp16_enable"]) == ("True", "False")
    assert (options["trt_cuda_graph_enable"], options.get("trt_builder_optimization_level")) == ("False", None)
    assert options["trt_engine_cache_path"] == options["trt_timing_cache_path"] == str(model.parent)
    opened = trt.OnnxRuntimeTensorRt().providers(candidate(), model.parent, building=False)[0][1]
    assert "trt_timing_cache_path" not in opened and opened["trt_engine_cache_path"] == str(model.parent)


def test_integer_graphs_are_symmetric_without_quantized_biases() -> None:
    """The only form that NVIDIA's parser takes."""
    assert trt.OnnxRuntimeTensorRt().scheme("int8").name == "s8-sym@products"


def test_the_builder_may_go_lower_only_where_the_precision_says_weak() -> None:
    """Flags follow the formats in the precision's name; 2:4 kernels are looked for only where the weights are made so."""
    flags = ("trt_fp16_enable", "trt_int8_enable", "trt_sparsity_enable")
    for precision, expected in {
        "fp32": ("False", "False", "False"),
        "int8": ("False", "True", "False"),
        "fp16-sparse": ("True", "False", "True"),
        "weak-fp16": ("True", "False", "False"),
        "weak-fp16-int8": ("True", "True", "False"),
    }.items():
        options = trt.OnnxRuntimeTensorRt().providers(candidate(precision=precision), None, building=False)[0][1]
        assert tuple(options[f] for f in flags) == expected, precision


def test_an_installed_tensorrt_refuses_what_its_release_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The release counts beside the GPU; one that came otherwise than as a package is asked by building."""
    install(monkeypatch, FakeGpu(name="NVIDIA A100", capability=(8, 0)))
    monkeypatch.setattr(gpu, "why_provider_fails", lambda provider: "")
    for version, weak in (("10.16.1", True), ("11.4.0", False), (None, True)):
        versions = {"onnxruntime-gpu": "1.24.4", "tensorrt-cu12": version}
        monkeypatch.setattr(gpu, "library_version", versions.get)
        monkeypatch.setattr(trt, "library_version", versions.get)
        found = trt.OnnxRuntimeTensorRt().capabilities()
        assert ("weak-fp16" in found.precisions) is weak
        assert "fp16-sparse" in found.precisions and "fp8" in found.refused
