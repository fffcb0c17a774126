"""ONNX Runtime's GPU engines on a double of its GPU providers: captured graphs, and never a node on the CPU without a word."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'autotune[onnxruntime]'")
pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed: pip install 'autotune[nvml]'")

from assets import fake_nvml
from assets import fake_onnxruntime_gpu as double

from autotune.candidate import Candidate
from autotune.engines.onnxruntime_cuda import OnnxRuntimeCuda
from autotune.engines.onnxruntime_placement import RECORD, placements
from autotune.engines.onnxruntime_tensorrt import OnnxRuntimeTensorRt
from autotune.engines.protocol import Engine
from autotune.errors import OutOfMemory, Unstable, Unsupported

BASE = Candidate(
    engine="onnxruntime-cuda", precision="fp32", pruning_ratio=0.0, batch_size=2, streams=3, worker_threads=None,
    memory_pool_mib=None, cuda_graph="on",
)  # fmt: skip


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> double.World:
    """A GPU and an onnxruntime-gpu."""
    fake_nvml.install(monkeypatch, fake_nvml.FakeGpu(name="A GPU", capability=(9, 0)))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-aaaa")
    return double.install(monkeypatch)


def written(path: Path, *, open_size: bool = False) -> Path:
    """x [batch, 3] → neg → abs → y = |−x|, and more: [batch, 3], or an open size in place of the 3."""
    size = "n" if open_size else 3
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", size]) for n in ("x", "y")]
    nodes = [
        helper.make_node("Neg", ["x"], ["a"], name="neg"),
        helper.make_node("Abs", ["a"], ["b"], name="abs"),
        helper.make_node("Exp", ["b"], ["y"], name="exp"),
    ]
    graph = helper.make_graph(nodes, "main", ends[:1], ends[1:])
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    """The small model as an engine of either provider's: both keep the graph."""
    (tmp_path / "engine").mkdir()
    path = written(tmp_path / "engine" / "model.onnx")
    return engine_in(path)


def engine_in(path: Path) -> Engine:
    """Of the variant only the file is looked at."""
    variant: Any = SimpleNamespace(key="v", path=path)
    return Engine(key="k", backend="onnxruntime-cuda", variant=variant, folder=path.parent)


def batch(n: float, rows: int = 2) -> dict[str, Any]:
    return {"x": np.full((rows, 3), n, np.float32)}


def test_each_stream_has_a_session_that_one_thread_captures_and_replays(engine: Engine, world: double.World) -> None:
    """The double refuses another thread, another address, and a run while a graph is captured; answers belong to their slot."""
    with OnnxRuntimeCuda().open(engine, BASE) as session:
        assert session.slots == 3 == len(world.sessions) == len({s.thread for s in world.sessions})
        assert threading.get_ident() not in {s.thread for s in world.sessions}

        def drive(slot: int) -> None:
            for turn in range(20):
                session.submit(batch(-slot - turn), slot)
                np.testing.assert_allclose(session.wait(slot)["y"], np.full((2, 3), np.exp(slot + turn)), rtol=1e-6)

        threads = [threading.Thread(target=drive, args=(slot,)) for slot in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        for slot in range(3):  # another thread than before: the slot's own still runs the session
            session.submit(batch(0), slot)
        assert [float(session.wait(slot)["y"][0, 0]) for slot in range(3)] == [1.0, 1.0, 1.0]
    assert all(s.options[double.CUDA]["enable_cuda_graph"] == "1" for s in world.sessions)


def test_without_the_graph_one_session_serves_all_streams(engine: Engine, world: double.World) -> None:
    """And takes no more memory than one."""
    with OnnxRuntimeCuda().open(engine, replace(BASE, cuda_graph="off")) as session:
        assert session.slots == 3 and len(world.sessions) == 1
        session.submit(batch(1), 2)
        assert session.wait(2)["y"].shape == (2, 3)


def test_a_result_stays_when_the_slot_runs_again(engine: Engine, world: double.World) -> None:
    """Outputs are copies, as the seam promises until the next submit, and longer."""
    with OnnxRuntimeCuda().open(engine, BASE) as session:
        session.submit(batch(0), 0)
        first = session.wait(0)["y"]
        session.submit(batch(5), 0)
        session.wait(0)
        assert float(first[0, 0]) == 1.0


@pytest.mark.parametrize(("inputs", "words"), [({"z": np.zeros(1)}, "inputs are z"), (batch(1, rows=1), r"shape \(1, 3\)")])
def test_what_the_graph_was_not_captured_for_is_refused(
    engine: Engine, world: double.World, inputs: dict[str, Any], words: str
) -> None:
    """A replay would compute with whatever lies there; the right inputs still run afterwards."""
    with OnnxRuntimeCuda().open(engine, BASE) as session:
        with pytest.raises(Unstable, match=words):
            session.submit(inputs, 0)
        session.submit(batch(0), 0)
        assert float(session.wait(0)["y"][0, 0]) == 1.0


def test_a_graph_with_a_node_elsewhere_is_refused_and_runs_without(engine: Engine, world: double.World) -> None:
    """In ONNX Runtime's words, when it is opened: the same file serves the candidate without the graph."""
    world.lacks = {double.TENSORRT: {"Abs"}}
    backend = OnnxRuntimeTensorRt()
    asked = replace(BASE, engine="onnxruntime-tensorrt", streams=None)
    with pytest.raises(Unsupported, match=r"cuda_graph=on: .*not been partitioned to the TensorrtExecutionProvider") as caught:
        backend.open(engine, asked)
    assert caught.value.stage == "open"
    backend.open(engine, replace(asked, cuda_graph="off")).close()


def test_an_open_size_beside_the_batch_cannot_be_captured(tmp_path: Path, world: double.World) -> None:
    """Shapes are fixed in a graph: named with the tensor."""
    path = written(tmp_path / "model.onnx", open_size=True)
    with pytest.raises(Unsupported, match=r"cuda_graph=on: x has the shape \['batch', 'n'\]"):
        OnnxRuntimeCuda().open(engine_in(path), BASE)


@pytest.mark.parametrize("graph", ["on", "off"])
def test_a_failure_of_the_gpu_is_a_rejection_and_no_run_on_the_cpu(engine: Engine, world: double.World, graph: str) -> None:
    """The Python session would be made anew on the CPU by itself (`enable_fallback`), and the trial would measure that."""
    from onnxruntime.capi.onnxruntime_pybind11_state import EPFail

    with OnnxRuntimeCuda().open(engine, replace(BASE, cuda_graph=graph)) as session:
        assert not any(s.fallback for s in world.sessions)
        for error, kind in ((EPFail("CUDA failure 700"), Unstable), (EPFail("out of memory"), OutOfMemory)):
            world.run_error = error
            session.submit(batch(1), 0)
            with pytest.raises(kind):
                session.wait(0)


def test_memory_that_is_short_is_told_with_the_cap_and_who_shares_it(engine: Engine, world: double.World) -> None:
    """Three sessions have a third each."""
    from onnxruntime.capi.onnxruntime_pybind11_state import EPFail

    world.run_error = EPFail("Failed to allocate memory for requested buffer")
    with pytest.raises(OutOfMemory, match="memory_pool_mib=90, shared by 3 sessions"):
        OnnxRuntimeCuda().open(engine, replace(BASE, memory_pool_mib=90))


def test_an_option_that_the_release_lacks_is_told_and_not_a_session_on_the_cpu(
    engine: Engine, world: double.World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real library answers it with a session on the CPU, unless told otherwise."""
    monkeypatch.delitem(double.OPTIONS[double.CUDA], "prefer_nhwc")
    with pytest.raises(Exception, match="Invalid CUDA EP option: prefer_nhwc"):
        OnnxRuntimeCuda().open(engine, replace(BASE, cuda_graph="off"))


@pytest.mark.parametrize(("tells", "words"), [(True, "does not take Abs abs, Exp exp"), (False, "some nodes")])
def test_nodes_for_the_cpu_are_named(engine: Engine, world: double.World, tells: bool, words: str) -> None:
    """ONNX Runtime only says that there are some; from 1.24 on a second session tells which."""
    world.lacks, world.tells_placement = {double.CUDA: {"Abs", "Exp"}}, tells
    with pytest.raises(Unsupported, match=words):
        OnnxRuntimeCuda().open(engine, BASE)


def test_the_real_library_tells_placements_in_this_form(tmp_path: Path) -> None:
    """Names and operations of the installed onnxruntime, on the CPU; a session that did not record has none to tell."""
    import onnxruntime as ort

    if not hasattr(ort.InferenceSession, "get_provider_graph_assignment_info"):
        pytest.skip("this onnxruntime does not tell placements")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry(RECORD, "1")
    session = ort.InferenceSession(str(written(tmp_path / "m.onnx")), options, providers=["CPUExecutionProvider"])
    told = placements(session)
    assert told is not None and {p.provider for p in told} == {"CPUExecutionProvider"}
    assert sorted(node for p in told for node in p.nodes) == [("abs", "Abs"), ("exp", "Exp"), ("neg", "Neg")]


def test_tensorrts_timings_lie_outside_the_engine_and_are_left_alone_when_it_is_opened(
    tmp_path: Path, engine: Engine, world: double.World
) -> None:
    """All builds on a device share them; an artifact holds the graph and the engine only."""
    backend = OnnxRuntimeTensorRt()
    backend.keep_timings(tmp_path / "timings")
    candidate = replace(BASE, engine="onnxruntime-tensorrt", streams=None, builder_level=5)
    (tmp_path / "built").mkdir()
    backend.build(engine.variant, candidate, tmp_path / "built")
    assert sorted(p.suffix for p in (tmp_path / "built").iterdir()) == [".engine", ".onnx"]
    (folder,) = [p for p in (tmp_path / "timings").iterdir() if p.is_dir()]
    assert folder.name.startswith("onnxruntime-tensorrt-sm_90-") and list(folder.glob("*.timing"))
    assert world.sessions[0].options[double.TENSORRT]["trt_builder_optimization_level"] == "5"
    assert not world.sessions[0].captures, "whether a graph can be captured is learnt when the engine is opened"
    with backend.open(replace(engine, folder=tmp_path / "built"), candidate) as session:
        session.submit(batch(0), 0)
        assert float(session.wait(0)["y"][0, 0]) == 1.0
    assert world.sessions[-1].captures and "trt_timing_cache_path" not in world.sessions[-1].options[double.TENSORRT]


def test_an_explanation_tells_what_went_to_tensorrt_to_cuda_and_to_neither(engine: Engine, world: double.World) -> None:
    """TensorRT has neg, and exp as a second subgraph; abs is CUDA's, whose time needs CUPTI. The captured graph is left out."""
    world.lacks = {double.TENSORRT: {"Abs"}}
    candidate = replace(BASE, engine="onnxruntime-tensorrt", streams=None, cuda_graph="off")
    report = OnnxRuntimeTensorRt().layers(engine, candidate, [batch(1)], n_runs=2)
    told = [(layer.provider, layer.kind, layer.nodes, layer.time_us) for layer in report.layers]
    assert told == [
        ("TensorRT", "TensorRT subgraph", ("neg",), 10.0),
        ("CUDA", "Abs", ("abs",), None),
        ("TensorRT", "TensorRT subgraph", ("exp",), 10.0),
    ]
    assert any("engines: [tensorrt]" in note for note in report.notes) and any("CUPTI" in note for note in report.notes)
    assert report.n_runs == 2 and not any("CUDA graph" in note for note in report.notes)
    captured = OnnxRuntimeCuda().layers(engine, BASE, [batch(1)], n_runs=2)
    assert any("without the CUDA graph" in note for note in captured.notes) and not world.sessions[-1].captures
