"""The capability filter: what this machine cannot honour is removed with its reason, and an empty space is the study's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from autotune.candidate import Choices, Domain, Range
from autotune.errors import EnvironmentProblem, SpecError
from autotune.space.capability import EngineView, SearchSpace, filtered_space
from autotune.spec.model import LoadSpec, StudySpec

SPLIT = {"npz": Path("val.npz"), "inputs": "x", "labels": "y"}


def study(calibrated: bool = True, **space: Domain) -> StudySpec:
    """A study with this space; `filtered_space` opens no file."""
    data: dict[str, Any] = {"validation": SPLIT} | ({"calibration": SPLIT} if calibrated else {})
    return StudySpec(study="s", model={"path": Path("m.onnx")}, data=data, space=space)  # type: ignore[arg-type]


def engine(name: str = "small", **changes: Any) -> EngineView:
    """An engine with three knobs that takes 1…4 threads, knows three precisions and says why not bf16."""
    values: dict[str, Any] = {
        "knobs": frozenset({"batch_size", "streams", "worker_threads"}),
        "precisions": ("fp32", "fp16", "int8"),
        "refused": {"bf16": "no AVX512_BF16"},
        "limits": {"worker_threads": (1, 4)},
        "defaults": {"batch_size": 1, "streams": 1, "worker_threads": 4},
    }
    return EngineView(name=name, **(values | changes))


def choices(*values: Any) -> Choices:
    return Choices(values=values)


def reasons(space: SearchSpace) -> list[str]:
    return [str(removal) for removal in space.removed]


def test_a_refused_precision_goes_with_the_engines_reason() -> None:
    """Each engine keeps what it can; the removal names knob, value, engine and why."""
    space = filtered_space(
        study(precision=choices("fp32", "bf16", "int8-tensor")),
        [engine(), engine("other", precisions=("fp32", "bf16"), refused={})],
    )
    assert space.pairs == (("small", "fp32"), ("other", "fp32"), ("other", "bf16"))
    assert "precision=bf16 on small: no AVX512_BF16" in reasons(space)
    assert "precision=int8-tensor on small: the engine does not know it" in reasons(space)
    assert space.engines == ("small", "other")


def test_quantization_needs_calibration_data() -> None:
    """Without data.calibration int8 goes, and the reason says what is missing."""
    space = filtered_space(study(calibrated=False, precision=choices("fp32", "int8")), [engine()])
    assert space.pairs == (("small", "fp32"),)
    assert "precision=int8 on small: quantization needs data.calibration" in reasons(space)


def test_no_precision_left_is_the_studys_fault() -> None:
    """The error has every reason, and what each engine could do."""
    with pytest.raises(SpecError, match=r"space\.precision.*no AVX512_BF16.*small: fp32, fp16, int8"):
        filtered_space(study(precision=choices("bf16")), [engine()])


def test_no_engine_is_the_machines_fault() -> None:
    """Exit code 3 and not 2: the study may be right."""
    with pytest.raises(EnvironmentProblem, match="autotune doctor"):
        filtered_space(study(), [])


def test_ranges_are_clipped_at_both_ends_with_a_removal_each() -> None:
    """2…16 on a device that takes 4…8: 4…8 is left; 2…3 and 9…16 are told; the scale stays."""
    space = filtered_space(study(streams=Range(low=2, high=16, log=True)), [engine(limits={"streams": (4, 8)})])
    assert space.domains["streams"] == Range(low=4, high=8, log=True)
    assert {"streams=9…16: this device takes 4…8", "streams=2…3: this device takes 4…8"} <= set(reasons(space))


def test_a_stepped_range_keeps_its_own_grid_when_it_is_clipped() -> None:
    """1, 4, 7, 10 on a device that takes 3…8: 4 and 7 are left; a range from 3 would propose 3 and 6, unasked for."""
    space = filtered_space(study(streams=Range(low=1, high=10, step=3)), [engine(limits={"streams": (3, 8)})])
    assert space.domains["streams"] == Range(low=4, high=7, step=3)


def test_a_stepped_range_without_a_step_inside_is_the_studys_fault() -> None:
    """1 and 10 on a device that takes 3…8: nothing is left."""
    with pytest.raises(SpecError, match="3…8 on this device"):
        filtered_space(study(streams=Range(low=1, high=10, step=9)), [engine(limits={"streams": (3, 8)})])


def test_a_stepped_range_ends_at_its_last_step() -> None:
    """0, 0.2, 0.4 of 0…0.5 in steps of 0.2: what Optuna would do with a warning; fractions keep their steps."""
    space = filtered_space(study(pruning_ratio=Range(low=0.0, high=0.5, step=0.2)), [engine()])
    found = space.domains["pruning_ratio"]
    assert isinstance(found, Range) and found.high == pytest.approx(0.4) and found.low == 0


def test_choices_outside_the_limits_go_one_by_one() -> None:
    """Of 1, 2, 8 and 16 threads two fit on 4 cores."""
    space = filtered_space(study(worker_threads=choices(1, 2, 8, 16)), [engine()])
    assert space.domains["worker_threads"] == choices(1, 2)
    assert [r for r in reasons(space) if r.startswith("worker_threads=")] == [
        "worker_threads=8: this device takes 1…4",
        "worker_threads=16: this device takes 1…4",
    ]


@pytest.mark.parametrize("domain", [Choices(values=(8, 16)), Range(low=8, high=16)])
def test_nothing_left_of_a_knob_is_the_studys_fault(domain: Domain) -> None:
    """8…16 threads on 4 cores: the error names the knob, what was asked and what the device takes."""
    with pytest.raises(SpecError, match=r"space\.worker_threads.*8.*1…4 on this device"):
        filtered_space(study(worker_threads=domain), [engine()])


def test_limits_of_all_engines_hold_for_a_shared_knob() -> None:
    """One engine takes 1…4 and the other 1…2 threads: candidates of both are drawn from 1…2."""
    views = [engine(), engine("other", limits={"worker_threads": (1, 2)})]
    space = filtered_space(study(worker_threads=Range(low=1, high=8)), views)
    assert space.domains["worker_threads"] == Range(low=1, high=2)


def test_a_knob_that_no_engine_has_is_removed_and_read_as_absent() -> None:
    """memory_pool_mib without a taker: removed with the reason, and `has` is false for every engine."""
    space = filtered_space(study(memory_pool_mib=choices(64, 128)), [engine()])
    assert "memory_pool_mib=64, 128: none of the engines has this knob" in reasons(space)
    assert "memory_pool_mib" not in space.domains and not space.has("small", "memory_pool_mib")


def test_a_knob_belongs_to_those_engines_that_have_it() -> None:
    """pool is only other's; precision's and pruning's stage is the variant, so pruning is everybody's."""
    views = [engine(), engine("other", knobs=frozenset({"batch_size", "memory_pool_mib"}))]
    space = filtered_space(study(memory_pool_mib=choices(64)), views)
    assert space.has("other", "memory_pool_mib") and not space.has("small", "memory_pool_mib")
    assert space.has("small", "pruning_ratio") and space.has("other", "pruning_ratio")
    assert space.has("small", "streams") and not space.has("other", "streams")


def test_a_knob_the_study_leaves_out_is_left_to_the_engine() -> None:
    """worker_threads has no default of its own: not in the space, hence not sampled. streams defaults to 1."""
    space = filtered_space(study(), [engine()])
    assert "worker_threads" not in space.domains
    assert space.domains["streams"] == choices(1) and space.domains["batch_size"] == choices(1)


@pytest.mark.parametrize(
    ("calibrated", "can_prune", "reason"),
    [
        (True, "pruning needs torch: pip install 'autotune[prune]'", "pruning needs torch"),
        (False, "", "recovery after pruning needs data.train or data.calibration"),
    ],
)
def test_pruning_that_cannot_be_done_is_fixed_at_zero(calibrated: bool, can_prune: str, reason: str) -> None:
    """Without the libraries, or without data to recover with, the ratio is 0 and the reason told."""
    space = filtered_space(
        study(calibrated=calibrated, pruning_ratio=Range(low=0.0, high=0.5)), [engine()], can_prune=can_prune
    )
    assert space.domains["pruning_ratio"] == choices(0.0)
    assert any(r.startswith("pruning_ratio=0…0.5: ") and reason in r for r in reasons(space))


def test_pruning_that_was_not_asked_for_needs_no_reason() -> None:
    """A study without pruning is not told what it would need."""
    space = filtered_space(study(calibrated=False, pruning_ratio=choices(0.0)), [engine()], can_prune="no torch")
    assert not any("pruning" in r for r in reasons(space))


def test_pairs_of_one_scheme_are_built_from_one_graph() -> None:
    """fp32 is the same for all; int8 for those whose scheme is the same."""
    engines = [engine("a", schemes={"int8": "u8"}), engine("b", schemes={"int8": "u8"}), engine("c", schemes={"int8": "s8"})]
    space = filtered_space(study(precision=choices("fp32", "int8")), engines)
    fp32, int8 = ([space.graph_of(name, precision) for name in "abc"] for precision in ("fp32", "int8"))
    assert fp32[0] == fp32[1] == fp32[2] != int8[0]
    assert int8[0] == int8[1] != int8[2]


def test_the_default_candidate_is_the_engines_own() -> None:
    """What a user gets who sets nothing, even where the study's space does not contain it."""
    space = filtered_space(study(batch_size=choices(8, 16)), [engine()])
    found = space.default_candidate("small", "int8")
    assert (found.batch_size, found.streams, found.worker_threads, found.memory_pool_mib) == (1, 1, 4, None)
    assert (found.engine, found.precision, found.pruning_ratio) == ("small", "int8", 0.0)


@pytest.mark.parametrize(
    ("load", "batches", "streams"),
    [
        ({}, choices(1, 4, 16), choices(1, 2)),
        ({"scenario": "singlestream"}, choices(1), choices(1)),
        ({"scenario": "multistream"}, choices(1, 4), choices(1, 2)),
    ],
)
def test_queries_of_few_samples_fill_no_larger_batches(load: dict[str, Any], batches: Domain, streams: Domain) -> None:
    """One sample at a time needs one stream and no batch; eight fill batches of at most eight. The reasons are told."""
    spec = study(batch_size=choices(1, 4, 16), streams=choices(1, 2)).model_copy(update={"load": LoadSpec.model_validate(load)})
    space = filtered_space(spec, [engine()])
    assert (space.domains["batch_size"], space.domains["streams"]) == (batches, streams)
    assert any("at a time" in r for r in reasons(space)) == bool(load)


def test_ranges_are_cut_to_the_query_and_never_to_nothing() -> None:
    """1…16 becomes 1…8, or the one value 1; a study that insists on batches of 16 gets them, padded."""
    multi, single = (LoadSpec(scenario=s) for s in ("multistream", "singlestream"))
    spec = study(batch_size=Range(low=1, high=16))
    for load, expected in ((multi, Range(low=1, high=8)), (single, choices(1))):
        assert filtered_space(spec.model_copy(update={"load": load}), [engine()]).domains["batch_size"] == expected
    fixed = study(batch_size=choices(16)).model_copy(update={"load": single})
    assert filtered_space(fixed, [engine()]).domains["batch_size"] == choices(16)
