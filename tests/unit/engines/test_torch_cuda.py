"""torch on a GPU, on a double of its streams and graphs: what is enqueued where, what is waited for, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'autotune[torch]'")
pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed: pip install 'autotune[nvml]'")

from assets import explained_models as explained  # noqa: E402
from assets import fake_torch_cuda  # noqa: E402
from assets.fake_nvml import FakeGpu, install  # noqa: E402

from autotune.candidate import Candidate  # noqa: E402
from autotune.devices.gpu import all_gpus  # noqa: E402
from autotune.engines import torch_cuda  # noqa: E402
from autotune.engines.protocol import Engine  # noqa: E402
from autotune.engines.torch_cuda_session import TorchCudaSession  # noqa: E402
from autotune.errors import OutOfMemory, Unstable, Unsupported  # noqa: E402
from autotune.variants.make import InputSpec  # noqa: E402
from autotune.variants.outline import outline_of  # noqa: E402

WANTED = (InputSpec(name="a", shape=(None, 2), dtype="float32"), InputSpec(name="b", shape=(None, 2), dtype="float32"))
ONES, TWOS = np.ones((3, 2), np.float32), np.full((3, 2), 2, np.float32)


@pytest.fixture(autouse=True)
def double(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_torch_cuda.install(monkeypatch)


def session(*, captured: bool = False, slots: int = 2, calls: list[int] | None = None) -> TorchCudaSession:
    """y = a − b for batches of 3; `calls` counts forward passes."""

    def compute(a: Any, b: Any) -> tuple[Any, ...]:
        if calls is not None:
            calls.append(1)
        return (a - b,)

    return TorchCudaSession(compute, WANTED, ["y"], slots=slots, batch_size=3, captured=captured, device="cpu")


def test_a_slot_computes_what_was_submitted_to_it() -> None:
    """All slots may be submitted before one is awaited, inputs in any order of names; wait synchronizes that stream once."""
    with session() as opened:
        opened.submit({"a": ONES, "b": TWOS}, 0)
        opened.submit({"b": ONES, "a": TWOS}, 1)
        before = [lane.stream.n_synchronized for lane in opened._lanes]
        assert not any(lane.host_outputs[0].any() for lane in opened._lanes), "nothing is awaited in submit"
        assert opened.wait(1)["y"].tolist() == [[1, 1]] * 3 and opened.wait(0)["y"].tolist() == [[-1, -1]] * 3
        assert [lane.stream.n_synchronized for lane in opened._lanes] == [n + 1 for n in before]
    opened.close()


def test_capturing_is_once_per_slot_after_a_warm_up() -> None:
    """Three calls and the capture itself for each slot; a submission replays and calls the module no more."""
    calls: list[int] = []
    opened = session(captured=True, calls=calls)
    assert len(calls) == 2 * 4 and fake_torch_cuda.FakeGraph.captures == 2
    opened.submit({"a": ONES, "b": TWOS}, 0)
    opened.submit({"a": ONES, "b": TWOS}, 0)
    assert len(calls) == 2 * 4 and fake_torch_cuda.FakeGraph.replays == 2


def test_another_batch_is_refused() -> None:
    """Buffers and graphs have fixed shapes; a shorter batch would leave the rest of the last one in place."""
    with pytest.raises(Unstable, match="batch of 2; this session is for 3"):
        session().submit({"a": ONES[:2], "b": ONES[:2]}, 0)


def test_a_kernel_that_fails_shows_when_it_is_awaited() -> None:
    """CUDA reports failures at the next synchronization: it is a rejection, not a bug."""
    opened = session()
    opened.submit({"a": ONES, "b": ONES}, 0)
    opened._lanes[0].stream.fault = RuntimeError("CUDA error: an illegal memory access was encountered")
    with pytest.raises(Unstable, match="illegal memory access"):
        opened.wait(0)


def test_memory_that_ends_while_opening_is_out_of_memory() -> None:
    """The cap of the allocator is met when buffers, weights or graphs are made."""

    def compute(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    with pytest.raises(OutOfMemory, match="Tried to allocate"):
        TorchCudaSession(compute, WANTED, ["y"], slots=1, batch_size=3, captured=False, device="cpu")


@pytest.mark.parametrize(
    ("capability", "architectures", "runs"),
    [
        ((7, 0), ["sm_50", "sm_60", "sm_70", "sm_80"], True),
        ((7, 0), ["sm_75", "sm_80", "sm_90"], False),
        ((8, 9), ["sm_80", "sm_90"], True),
        ((9, 0), ["sm_80", "sm_86"], False),
        ((9, 0), ["sm_80", "compute_80"], True),
        ((10, 0), ["sm_100a"], True),
        ((12, 0), ["sm_90", "sm_100"], False),
    ],
)
def test_code_runs_on_its_major_capability_and_ptx_on_later_ones(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], architectures: list[str], runs: bool
) -> None:
    """CUDA C++ programming guide, binary and PTX compatibility."""
    install(monkeypatch, FakeGpu(capability=capability))
    (gpu,) = all_gpus()
    assert torch_cuda._has_code_for(gpu, architectures) == runs


def test_a_torch_for_cpus_is_told_with_the_wheel_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Volta needs the wheels for CUDA 12.6, the last with sm_70."""
    install(monkeypatch, FakeGpu())
    monkeypatch.setattr(torch_cuda, "library_version", lambda name: "2.11.0+cpu")
    found = torch_cuda.TorchCudaGraph().capabilities()
    assert not found.available and found.device == "cuda"
    assert "compiled for CPUs only" in found.missing and "whl/cu126" in found.remedy


def test_precisions_and_offers_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """By default the captured engines, which are never slower to launch; eager by name. No TF32 or bf16 before Ampere."""
    install(monkeypatch, FakeGpu())
    monkeypatch.setattr(torch_cuda, "_gap", lambda gpu: None)
    eager, graph = torch_cuda.TorchCuda().capabilities(), torch_cuda.TorchCudaGraph().capabilities()
    assert graph.precisions == ("fp32", "fp16", "amp-fp16") and "Q/DQ" in graph.refused["int8"]
    assert (eager.offered, graph.offered) == ("only by name", "by default")


def test_tf32_is_on_only_where_it_was_asked_for() -> None:
    """torch's default lets fp32 convolutions compute in TF32, which would be another precision."""
    some = {"engine": "torch-cuda", "pruning_ratio": 0.0, "batch_size": 1, "streams": 1, "worker_threads": None}
    shown = {
        p: torch_cuda.TorchCuda().deployment(Candidate(**some, precision=p, memory_pool_mib=None)) for p in ("fp32", "tf32")
    }
    assert [shown[p]["allow_tf32"] for p in ("fp32", "tf32")] == [False, True]
    assert [shown[p]["dtype"] for p in ("fp32", "tf32")] == ["fp32", "fp32"]


@pytest.mark.filterwarnings("ignore:CUDA is not available:UserWarning")  # the double is none to the profiler
@pytest.mark.parametrize(("engine", "captures"), [(torch_cuda.TorchCuda, 0), (torch_cuda.TorchCudaGraph, 1)])
def test_layers_are_those_of_the_eager_module(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, engine: type[torch_cuda.TorchCuda], captures: int
) -> None:
    """A captured graph hides the nodes whose kernels it replays: the eager module is profiled, the whole is timed replayed."""
    monkeypatch.setattr(torch_cuda, "_DEVICE", "cpu")
    backend = engine()
    candidate = Candidate(
        engine=backend.name,
        precision="fp32",
        pruning_ratio=0.0,
        batch_size=2,
        streams=1,
        worker_threads=None,
        memory_pool_mib=None,
    )
    variant = explained.variant(tmp_path, "fp32", backend)
    (tmp_path / "engine").mkdir()
    backend.build(variant, candidate, tmp_path / "engine")
    made = Engine(key="k", backend=backend.name, variant=variant, folder=tmp_path / "engine")
    report = backend.layers(made, candidate, [explained.inputs(2)], n_runs=2)
    assert fake_torch_cuda.FakeGraph.captures == captures
    held = [name for layer in report.layers for name in layer.nodes]
    assert sorted(held) == sorted(n.name for n in outline_of(variant.path))
    assert len(report.runs_us) == 2 and any("replays" in note for note in report.notes) == bool(captures)


def test_compiled_engines_say_why_they_have_no_layers(tmp_path: Path) -> None:
    """Inductor's functions carry no names of nodes; a guess would be worse than the refusal."""
    backend = torch_cuda.TorchCudaCompile()
    with pytest.raises(Unsupported, match="Inductor"):
        backend.layers(None, None, [])  # type: ignore[arg-type]  # refused before they are looked at
