"""TensorRT's contexts in one capped pool, on the double of every release: memory, graphs, threads, and each failure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from autotune.engines.protocol import CountsPool, driving_threads
from autotune.errors import BuildFailed, CandidateRejected, OutOfMemory, Unstable, Unsupported

if TYPE_CHECKING:
    from tensorrt_samples import Bench

ALIGNED_BYTES, INPUT_BYTES, OUTPUT_BYTES = 1000 + 256, 2 * 64 * 4, 2 * 4 * 4
"""What a context of the double takes at batch 2: activations that can be aligned, input of 1×8×8 and output of 4, in fp32."""


def test_contexts_have_their_memory_from_the_sessions_pool(bench: Bench) -> None:
    """Each of three contexts allocates nothing itself, and its activations and buffers are counted; weights are outside."""
    with bench.opened(streams=3) as session:
        assert isinstance(session, CountsPool) and session.slots == 3
        assert [c._strategy for c in bench.world.contexts] == ["USER_MANAGED"] * 3
        memories = [c._memory for c in bench.world.contexts]
        assert len({pointer for pointer, _ in memories}) == 3 and all(p % 256 == 0 and n >= 1000 for p, n in memories)
        peak_mib = 3 * (ALIGNED_BYTES + INPUT_BYTES + OUTPUT_BYTES) / 2**20
        assert session.pool_peak_mib() == pytest.approx(peak_mib)
    assert session.pool_peak_mib() == pytest.approx(peak_mib), "known also after the session is closed"


def test_a_pool_too_small_for_all_contexts_says_how_many_it_holds(newest: Bench) -> None:
    """The third context's first buffer does not fit: two of three fit, and nothing of them is left open."""
    engine = newest.built(memory_pool_mib=64)
    newest.runtime.fail_at("allocate", nth=7)  # three buffers for each context
    with pytest.raises(OutOfMemory, match="memory_pool_mib=64 holds 2 of 3 contexts"):
        newest.backend.open(engine, newest.candidate(streams=3, memory_pool_mib=64))


def test_the_cap_of_the_pool_is_the_knob(newest: Bench) -> None:
    """One context of a batch of 2048 needs 0.5 MiB for its input: the second does not fit into 1 MiB with its output."""
    folder = newest.folder
    newest.built(batch_size=2048)  # the builder's own workspace limit; the double's tactics want 2 MiB
    engine = type(newest.built(batch_size=2048))(key="k", backend="tensorrt", variant=newest.variant, folder=folder)
    with pytest.raises(OutOfMemory, match="memory_pool_mib=1 holds 1 of 2 contexts"):
        newest.backend.open(engine, newest.candidate(batch_size=2048, streams=2, memory_pool_mib=1))


def test_a_graph_is_captured_once_and_replayed(bench: Bench) -> None:
    """After two executions to warm up, the third is recorded with its copies; submitting launches it and enqueues nothing.

    TensorRT for RTX captures by itself when its context is made, and is told not to otherwise.
    """
    from tensorrt_samples import expected, inputs

    for graph in ("on", "off"):
        with bench.opened(cuda_graph=graph) as session:
            (context,) = bench.world.contexts[-1:]
            for seed in range(3):
                session.submit(inputs(seed), 0)
                found = session.wait(0)["logits"]
                np.testing.assert_allclose(found, expected(bench, inputs(seed)), rtol=1e-5, atol=1e-6)
            if bench.world.surface.is_rtx:
                wanted = "WHOLE_GRAPH_CAPTURE" if graph == "on" else "DISABLED"
                assert context._config.cuda_graph_strategy.name == wanted
                assert context._config.dynamic_shapes_kernel_specialization_strategy.name == "EAGER"
                assert context._n_enqueued == 2 + 3 and bench.runtime.leaks().get("graph", 0) == 0
            else:
                assert context._n_enqueued == (2 + 1 if graph == "on" else 2 + 3)
                assert bench.runtime.leaks().get("graph", 0) == (1 if graph == "on" else 0)


def test_an_engine_that_cannot_be_captured_is_told_with_the_knob(newest: Bench) -> None:
    """The candidate without cuda_graph may do well."""
    newest.runtime.fail_at("capture")
    with pytest.raises(Unsupported, match="cuda_graph=on: this engine cannot be captured"):
        newest.opened(cuda_graph="on")


@pytest.mark.parametrize(("streams", "worker_threads", "threads"), [(4, None, 4), (4, 2, 2), (2, 32, 2), (1, 1, 1)])
def test_worker_threads_drive_the_contexts(newest: Bench, streams: int, worker_threads: int | None, threads: int) -> None:
    """At most one thread per context: a context belongs to one thread at a time."""
    with newest.opened(streams=streams, worker_threads=worker_threads) as session:
        assert driving_threads(session) == threads


OPEN_FAILURES = [
    ("Runtime", "no CUDA", BuildFailed),
    ("deserialize_cuda_engine", "incompatible device", BuildFailed),
    ("deserialize_cuda_engine", "The engine plan file is not supported on this device", Unsupported),
    ("deserialize_cuda_engine", "Cuda failure: out of memory", OutOfMemory),
    ("create_execution_context", "no context", BuildFailed),
    ("set_optimization_profile_async", "no profile", BuildFailed),
    ("set_input_shape", "bad shape", BuildFailed),
    ("infer_shapes", "shape of logits is unknown", BuildFailed),
    ("set_tensor_address", "bad address", BuildFailed),
    ("execute_async_v3", "no enqueue", BuildFailed),
    ("dtype", "BF16", Unsupported),
    ("data-dependent", "", Unsupported),
]


@pytest.mark.parametrize(("fault", "line", "kind"), OPEN_FAILURES, ids=[f"{f}-{k.__name__}" for f, _, k in OPEN_FAILURES])
def test_every_refusal_while_opening_is_a_rejection(bench: Bench, fault: str, line: str, kind: type[CandidateRejected]) -> None:
    """In TensorRT's words, at the stage "open", and nothing stays open: the fixture looks for leaks."""
    engine = bench.built()
    bench.world.faults[fault] = line
    with pytest.raises(kind, match=line or "logits") as caught:
        bench.backend.open(engine, bench.candidate(streams=2, cuda_graph="on"))
    assert type(caught.value) is kind and caught.value.stage == "open"


def test_a_runtime_configuration_that_is_not_made_is_a_rejection(bench: Bench) -> None:
    """TensorRT for RTX makes its contexts from one."""
    if not bench.world.surface.is_rtx:
        pytest.skip("only TensorRT for RTX asks for one")
    engine = bench.built()
    bench.world.faults["create_runtime_config"] = "no configuration"
    with pytest.raises(BuildFailed, match="no configuration"):
        bench.backend.open(engine, bench.candidate())


def test_an_engine_of_another_release_is_not_opened(newest: Bench) -> None:
    """Plans are tied to the release; the engine's key keeps them apart, and TensorRT tells the rest."""
    engine = newest.built()
    plan = engine.folder / "engine.plan"
    plan.write_bytes(plan.read_bytes().replace(b"11.4.0", b"11.3.0"))
    with pytest.raises(BuildFailed, match="built by another release"):
        newest.backend.open(engine, newest.candidate())


def test_a_refused_enqueue_is_unstable(bench: Bench) -> None:
    """False under load: the engine ran before, so the candidate is unstable."""
    from tensorrt_samples import inputs

    with bench.opened() as session:
        bench.world.faults["execute_async_v3"] = "an illegal memory access was encountered"
        with pytest.raises(Unstable, match="illegal memory access"):
            session.submit(inputs(), 0)


@pytest.mark.parametrize("graph", ["off", "on"])
def test_a_kernel_that_fails_shows_when_it_is_waited_for(newest: Bench, graph: str) -> None:
    """CUDA reports it at the synchronization, and the device is lost then; closing hides nothing of it."""
    from tensorrt_samples import inputs

    with pytest.raises(Unstable, match="work: failed"), newest.opened(cuda_graph=graph) as session:
        newest.runtime.fail_at("work", nth=2)
        session.submit(inputs(), 0)
        session.wait(0)
    session.close()


WRONG: list[dict[str, Any]] = [
    {},
    {"other": np.zeros((2, 1, 8, 8), np.float32)},
    {"input": np.zeros((3, 1, 8, 8), np.float32)},
    {"input": np.zeros((2, 1, 8, 8), np.complex64)},
    {"input": np.zeros((2, 1, 8, 8), np.float32), "more": np.zeros(2)},
]


@pytest.mark.parametrize("given", WRONG, ids=["none", "name", "batch", "type", "too many"])
def test_inputs_that_do_not_fit_are_told_with_what_would(newest: Bench, given: dict[str, Any]) -> None:
    """Another name, batch or type is a rejection that says what the engine takes; nothing is enqueued."""
    with newest.opened() as session:
        enqueued = newest.world.contexts[-1]._n_enqueued
        with pytest.raises(Unstable, match="input"):
            session.submit(given, 0)
        assert newest.world.contexts[-1]._n_enqueued == enqueued


def test_outputs_come_from_the_device_and_not_from_before(newest: Bench) -> None:
    """What an execution leaves in pinned memory is its own: the host double poisons what nobody wrote."""
    from tensorrt_samples import expected, inputs

    with newest.opened(streams=2) as session:
        for slot in (0, 1):
            session.submit(inputs(slot), slot)
        for slot in (1, 0):
            np.testing.assert_allclose(session.wait(slot)["logits"], expected(newest, inputs(slot)), rtol=1e-5, atol=1e-6)


def test_deployment_says_what_a_program_must_set(bench: Bench) -> None:
    """In TensorRT's own words, and as JSON."""
    settings = bench.backend.deployment(bench.candidate(precision="tf32", streams=4, memory_pool_mib=64, cuda_graph="on"))
    assert settings["strongly_typed"] is True and settings["builder_flags"] == ["TF32"]
    assert settings["workspace_bytes"] == settings["device_pool_bytes"] == 64 << 20
    assert (settings["execution_contexts"], settings["cuda_graph"]) == (4, True)
    weak = bench.backend.deployment(bench.candidate(precision="weak-fp16-int8"))
    assert weak["strongly_typed"] is False and weak["builder_flags"] == ["FP16", "INT8"]
