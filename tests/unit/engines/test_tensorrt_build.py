"""What TensorRT's builder is told for each candidate, and what becomes of its refusals, on the double of every release."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from autotune.cache import Cache
from autotune.devices.build_target import BuildTarget, set_build_target
from autotune.engines.build import build_engine, engine_key
from autotune.engines.tensorrt_api import Trt
from autotune.engines.tensorrt_log import Log, make_log, rejection
from autotune.errors import BuildFailed, CandidateRejected, OutOfMemory, Unsupported

if TYPE_CHECKING:
    from tensorrt_samples import Bench

BATCH = 2


def flags(bench: Bench) -> set[str]:
    return {f.name for f in bench.world.configs[-1]._flags}


def test_networks_are_strongly_typed_and_tf32_is_set_for_tf32_only(bench: Bench) -> None:
    """The graph carries the types. TensorRT sets TF32 by itself: an fp32 engine would be measured in another precision."""
    for precision, wanted in (("fp32", set()), ("fp16", set()), ("tf32", {"TF32"}), ("fp16-sparse", {"SPARSE_WEIGHTS"})):
        bench.built(precision=precision)
        assert bench.world.networks[-1]._typed and flags(bench) == wanted, precision


def test_weak_precisions_set_builder_flags_where_there_are_any(bench: Bench) -> None:
    """FP16, and INT8 beside it for a Q/DQ graph, on a network that is not strongly typed; refused since TensorRT 11 and RTX."""
    quantized = bench.quantized()
    if hasattr(bench.world.module.BuilderFlag, "FP16"):
        bench.built(precision="weak-fp16")
        assert not bench.world.networks[-1]._typed and flags(bench) == {"FP16"}
        quantized.built(precision="weak-fp16-int8")
        assert not bench.world.networks[-1]._typed and flags(bench) == {"FP16", "INT8"}
        return
    assert {"weak-fp16", "weak-fp16-int8"} <= set(bench.backend.capabilities().refused)
    with pytest.raises(Unsupported, match="builder flag FP16"):
        bench.built(precision="weak-fp16")


def test_knobs_reach_the_builder(bench: Bench) -> None:
    """Batch: min, opt and max of the one profile. Pool: the workspace limit in bytes. Level where the engine has one."""
    bench.built(memory_pool_mib=64, builder_level=5, batch_size=7)
    config = bench.world.configs[-1]
    assert config._pools == {"WORKSPACE": 64 << 20}
    assert [p._shapes for p in config._profiles] == [{"input": ((7, 1, 8, 8),) * 3}]
    assert config._level == (3 if bench.world.surface.is_rtx else 5)
    assert config._verbosity.name == "DETAILED"
    bench.built()
    assert bench.world.configs[-1]._pools == {} and bench.world.configs[-1]._level == 3


def test_the_engine_lies_beside_the_log_of_its_build(bench: Bench) -> None:
    """Whoever wonders about an engine finds what the builder said."""
    engine = bench.built()
    assert sorted(p.name for p in engine.folder.iterdir()) == ["build.log", "engine.plan"]
    assert "[INFO] Engine generation completed" in (engine.folder / "build.log").read_text()


REFUSALS = [
    ("Builder", "CUDA initialization failure with error: 35", BuildFailed, "initialization failure"),
    ("create_network", "no network", BuildFailed, "no network"),
    ("create_builder_config", "no config", BuildFailed, "no config"),
    ("create_optimization_profile", "no profile", BuildFailed, "no profile"),
    ("add_optimization_profile", "bad profile", BuildFailed, "batch of 2: bad profile"),
    ("parse_from_file", "Unsupported operator Foo", Unsupported, "Conv node_7: Unsupported operator Foo"),
    ("build_serialized_network", "Could not find any implementation for node {conv}", BuildFailed, "implementation for node"),
    ("build_serialized_network", "Target GPU SM 70 is not supported by this TensorRT release.", Unsupported, "SM 70 is not"),
    ("build_serialized_network", "HW-specific datatypes: b16", Unsupported, "b16"),
    ("build_serialized_network", "OutOfMemory (Requested size was 8 bytes.)", OutOfMemory, "OutOfMemory"),
]


@pytest.mark.parametrize(("fault", "line", "kind", "told"), REFUSALS, ids=[f"{f}-{k.__name__}" for f, _, k, _ in REFUSALS])
def test_every_refusal_is_a_rejection_in_tensorrts_words(
    bench: Bench, fault: str, line: str, kind: type[CandidateRejected], told: str
) -> None:
    """None, False, -1 and a null factory: each is the right rejection at the stage "engine", and the log is kept."""
    bench.world.faults[fault] = line
    with pytest.raises(kind, match=told) as caught:
        bench.built()
    assert type(caught.value) is kind and caught.value.stage == "engine"
    assert caught.value.log_path == bench.folder / "build.log"
    assert line in (bench.folder / "build.log").read_text()


def test_too_small_a_workspace_names_the_knob(bench: Bench) -> None:
    """It is the candidate's own fault and will be so again, so the cache may remember it; without the knob, memory is short."""
    with pytest.raises(BuildFailed, match=r"memory_pool_mib=1 is too small a workspace.*within workspace limit"):
        bench.built(memory_pool_mib=1)
    bench.world.faults["build_serialized_network"] = "no tactics within workspace limit"
    with pytest.raises(OutOfMemory, match="within workspace limit"):
        bench.built()


def test_sizes_beside_the_batch_must_be_known(bench: Bench) -> None:
    """An engine is built for one size; a free width is told, with the input's name."""
    import onnx

    model = onnx.load(str(bench.variant.path))
    model.graph.input[0].type.tensor_type.shape.dim[3].dim_param = "width"
    onnx.save_model(model, str(bench.variant.path))
    with pytest.raises(Unsupported, match=r"input input has the shape \(-1, 1, 8, -1\)"):
        bench.built()


def test_the_log_of_a_refused_build_stays_in_the_cache(newest: Bench, tmp_path: Path) -> None:
    """A remembered rejection keeps the builder's log beside it, and is raised again without building."""
    newest.world.faults["build_serialized_network"] = "Could not find any implementation"
    cache = Cache(tmp_path / "cache")
    for _ in range(2):
        with pytest.raises(BuildFailed, match="any implementation"):
            build_engine(newest.backend, newest.variant, newest.candidate(), cache)
    (log,) = (tmp_path / "cache" / "engines").glob("*/build.log")
    assert "Could not find any implementation" in log.read_text() and len(newest.world.configs) == 1


# Timings


def test_timings_are_kept_between_builds_and_are_no_part_of_the_key(bench: Bench, tmp_path: Path) -> None:
    """One file per engine, release and device in the cache, which every build extends; none where nothing is timed (RTX)."""
    cache, candidate = Cache(tmp_path / "cache"), bench.candidate()
    before = engine_key(bench.backend, bench.variant, candidate)
    build_engine(bench.backend, bench.variant, candidate, cache)
    files = list((tmp_path / "cache" / "timings").glob("*.timings")) if (tmp_path / "cache" / "timings").exists() else []
    if bench.world.surface.is_rtx:
        assert files == [] and bench.world.configs[-1]._cache is None
        return
    (file,) = files
    card = "sm_70" if bench.world.surface.version.startswith(("10.0", "10.3", "10.4")) else "sm_90"
    assert file.name.startswith(f"tensorrt-{bench.world.surface.version}-{card}-") and len(json.loads(file.read_text())) == 1
    other = bench.quantized()
    build_engine(other.backend, other.variant, bench.candidate(batch_size=3), cache)
    assert len(json.loads(file.read_text())) == 2, "what others measured is kept"
    assert len(bench.world.configs[-1]._cache._known) == 2, "and the second build began with what the first measured"
    assert engine_key(bench.backend, bench.variant, candidate) == before
    assert [p.name for p in file.parent.iterdir() if p.name.startswith(".")] == [], "no half-written file is left"


@pytest.mark.parametrize("fault", ["create_timing_cache", "set_timing_cache", "combine", "damaged"])
def test_a_timing_cache_that_fails_costs_nothing_but_time(newest: Bench, tmp_path: Path, fault: str) -> None:
    """It is a help: a build without it is the same build."""
    cache = Cache(tmp_path / "cache")
    build_engine(newest.backend, newest.variant, newest.candidate(), cache)
    (file,) = (tmp_path / "cache" / "timings").glob("*.timings")
    if fault == "damaged":
        file.write_bytes(b"\x00 not a cache")
    else:
        newest.world.faults[fault] = "planted"
    engine, hit = build_engine(newest.backend, newest.variant, newest.candidate(batch_size=3), cache)
    assert not hit and (engine.folder / "engine.plan").exists()
    if fault in ("damaged", "combine"):
        assert len(json.loads(file.read_text())) == 1, "a cache that cannot be read or combined is replaced"


# Building ahead of time


def test_an_engine_may_be_built_for_gpus_that_are_not_there(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT for RTX takes targets; TensorRT builds where it runs, and says what builds ahead."""
    monkeypatch.setenv("AUTOTUNE_BUILD_TARGET", "")
    set_build_target(BuildTarget(capabilities=((8, 6), (8, 9))))
    able = bench.backend.capabilities()
    if not bench.world.surface.is_rtx:
        assert not able.available and "tensorrt-rtx" in able.remedy
        return
    assert able.available and "fp8" in able.refused and "sm_86" in able.refused["fp8"]
    bench.built()
    config = bench.world.configs[-1]
    assert (config._num_targets, config._targets) == (2, {0: "SM86", 1: "SM89"})
    with pytest.raises(Unsupported, match=r"ahead of time for sm_86, sm_89; nothing here runs it"):
        bench.backend.open(bench.built(), bench.candidate())
    bench.world.faults["set_compute_capability"] = "planted"
    with pytest.raises(Unsupported, match="does not build for SM86"):
        bench.built()


def log_with(trt: Trt, *lines: tuple[str, str]) -> Log:
    log = make_log(trt)
    for severity, text in lines:
        log.log(getattr(trt.ILogger, "Severity", None) or _Severity(severity), text)  # type: ignore[attr-defined]
    return log


class _Severity:
    def __init__(self, name: str) -> None:
        self.name = name


def test_words_are_the_first_errors_once_each(newest: Bench) -> None:
    """TensorRT repeats itself as it unwinds; what it said first is the cause. Warnings count where nothing else is."""
    trt = newest.world.module
    log = log_with(
        trt, ("WARNING", "w"), ("ERROR", "first  cause"), ("ERROR", "first  cause"), ("INFO", "i"), ("ERROR", "then")
    )
    assert str(rejection(log, "asked", "open")) == "asked: first cause | then"
    assert str(rejection(log_with(trt, ("WARNING", "only this")), "asked", "open")) == "asked: only this"
    assert str(rejection(make_log(trt), "asked", "open")) == "asked: TensorRT gave no reason"


def test_a_harmless_warning_decides_nothing(newest: Bench) -> None:
    """TensorRT warns that much is unsupported while it builds well; only errors tell what kind of refusal it was."""
    log = log_with(newest.world.module, ("WARNING", "TF32 is not supported on this device"), ("ERROR", "an assertion failed"))
    assert type(rejection(log, "asked", "engine", pool_mib=64)) is BuildFailed
