"""Hopeless candidates run on few samples, and what was seen of them is a part of their accuracy, never taken for the whole."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faulty_study import N_SAMPLES, fake_candidate, fake_spec, request

from autotune.bench.sequential import DropTest
from autotune.bench.visit import visiting_order
from autotune.cache import Cache
from autotune.engines.build import build_engine, load_backend
from autotune.engines.fake import FakeSession
from autotune.engines.protocol import Inputs, Outputs
from autotune.errors import SpecError
from autotune.records import STOPPED_EARLY, TrialRecord
from autotune.spec.model import CacheSpec, ConstraintsSpec, StudySpec
from autotune.trial.known_accuracy import KnownAnswers, measured_answers, per_sample, scores_exist
from autotune.trial.pipeline import run_trial
from autotune.trial.stages import bound_split, variant_of


class Session(FakeSession):
    """The fake, counting samples, whose answers are `shift` classes off on the samples whose number is below `below`."""

    def __init__(self, shift: int = 0, below: float = 1.0, **knobs: Any) -> None:
        super().__init__(fake_candidate(**knobs), None)
        self.n, self._shift, self._below = 0, shift, below

    def submit(self, inputs: Inputs, slot: int) -> None:
        self.n += len(inputs["x"])
        super().submit(inputs, slot)

    def wait(self, slot: int) -> Outputs:
        turned = self._pending[slot]["x"][:, 1] < self._below
        logits = super().wait(slot)["logits"]
        return {"logits": np.where(turned[:, None], np.roll(logits, self._shift, axis=1), logits)}


@pytest.fixture
def spec(tmp_path: Path) -> StudySpec:
    """Calibrated, so that the fake has an int8-tensor, which errs on 60 % where fp32 errs on 10 %."""
    spec = fake_spec(tmp_path)
    calibration = spec.data.validation.model_copy(update={"labels": None})
    return limited(spec.model_copy(update={"data": spec.data.model_copy(update={"calibration": calibration})}), 0.05)


def limited(spec: StudySpec, accuracy_drop: float | None, **limits: float) -> StudySpec:
    return spec.model_copy(update={"constraints": ConstraintsSpec(accuracy_drop=accuracy_drop, **limits)})


def without_early_stop(spec: StudySpec) -> StudySpec:
    off = spec.accuracy.early_stop.model_copy(update={"error_rate": 0.0})
    return spec.model_copy(update={"accuracy": spec.accuracy.model_copy(update={"early_stop": off})})


def cached(spec: StudySpec) -> Cache:
    assert spec.cache.folder is not None
    return Cache(spec.cache.folder)


def drop_test(spec: StudySpec, limit: float = 0.05) -> DropTest:
    """The test against the fake in fp32, which is right on the samples from 20 on."""
    validation = bound_split(spec, spec.data.validation, cached(spec))
    right = (np.arange(N_SAMPLES) >= 20).astype(float)
    visited = right[visiting_order(validation.digest, N_SAMPLES)]
    return DropTest(reference=visited, score_range=(0.0, 1.0), limit=limit, error_rate=0.01)


def measured(spec: StudySpec, session: FakeSession, test: DropTest | None, **knobs: Any) -> KnownAnswers:
    candidate, backend = fake_candidate(**knobs), load_backend("fake")
    variant, _ = variant_of(spec, candidate, backend, cached(spec))
    engine, _ = build_engine(backend, variant, candidate, cached(spec))
    validation = bound_split(spec, spec.data.validation, cached(spec))
    return measured_answers(session, engine, backend, validation, candidate, "top1", cached(spec), test)


def tensor(spec: StudySpec, **changes: Any) -> TrialRecord:
    """The int8-tensor trial, after the reference."""
    pytest.importorskip("onnxruntime", reason="int8 variants are made with onnxruntime")
    reference = run_trial(request(spec, fake_candidate()))
    knobs = changes.pop("knobs", {})
    candidate = fake_candidate(precision="int8-tensor", **knobs)
    return run_trial(request(spec, candidate, reference_scores=reference.scores_key, **changes))


def test_a_hopeless_candidate_is_rejected_on_its_first_samples(spec: StudySpec) -> None:
    """A drop of 0.5 at a limit of 0.05: rejected on a part of the 200 samples, with estimates that hold 0.4 and 0.5."""
    record = tensor(spec)
    assert record.state == "rejected" and record.reject is not None and record.reject.reason == "accuracy_too_low"
    assert STOPPED_EARLY in record.flags and record.scores_key is None and record.agreement is None
    accuracy, drop = record.accuracy, record.accuracy_drop
    assert accuracy is not None and drop is not None and drop.n == accuracy.n < N_SAMPLES / 2
    assert drop.low <= 0.5 <= drop.high and accuracy.low <= 0.4 <= accuracy.high and drop.value > 0.05
    assert f"stopped after {drop.n} of 200 samples" in record.reject.message
    assert "accuracy_drop 0.05" in record.reject.message and "probability of at most 0.01" in record.reject.message
    assert "load" not in record.stage_s


def test_off_measures_all_samples(spec: StudySpec) -> None:
    """Without early stop the same candidate is rejected on 200 samples, with the exact drop."""
    record = tensor(without_early_stop(spec))
    assert record.state == "rejected" and STOPPED_EARLY not in record.flags
    assert record.accuracy_drop is not None and (record.accuracy_drop.value, record.accuracy_drop.n) == (0.5, 200)
    assert record.agreement is not None and record.agreement.top1 is not None


def test_what_keeps_to_the_limit_is_measured_in_full(spec: StudySpec) -> None:
    """int8 lies 0.02 under: within 0.05, so it has all 200 samples and agreement with the reference beside the drop."""
    pytest.importorskip("onnxruntime", reason="int8 variants are made with onnxruntime")
    reference = run_trial(request(spec, fake_candidate()))
    record = run_trial(request(spec, fake_candidate(precision="int8"), reference_scores=reference.scores_key))
    assert record.state == "complete" and record.accuracy_drop is not None
    assert record.accuracy_drop.value == pytest.approx(0.02) and record.accuracy_drop.n == 200
    assert reference.agreement is None and record.agreement is not None and record.agreement.top1 is not None
    assert record.agreement.top1.value == pytest.approx(0.98), "the four lost samples are answered otherwise"
    assert record.agreement.n_classes == 10 and record.agreement.classes == ()
    assert record.agreement.output_difference is not None
    assert record.agreement.output_difference.value == pytest.approx(0.02 * 2**0.5, abs=1e-6), "unit vectors, 4 of 200 turned"
    assert TrialRecord.from_json(record.as_json()).agreement == record.agreement


@pytest.mark.parametrize("role", ["final", "canary"])
def test_what_is_measured_again_is_never_stopped(spec: StudySpec, role: str) -> None:
    """A repetition was accepted on all samples once; should its answers be lost, it gets all of them again."""
    record = tensor(spec, role=role)
    assert record.accuracy_drop is not None and record.accuracy_drop.n == 200 and STOPPED_EARLY not in record.flags


def test_a_least_accuracy_stops_as_well(spec: StudySpec) -> None:
    """At least 0.85 where the reference has 0.9 allows the same drop of 0.05."""
    record = tensor(limited(spec, None, accuracy=0.85))
    assert STOPPED_EARLY in record.flags and record.reject is not None and "accuracy at least 0.85" in record.reject.message


def test_without_a_constraint_nothing_is_stopped(spec: StudySpec) -> None:
    """Nobody said what is hopeless."""
    record = tensor(limited(spec, None))
    assert record.state == "complete" and record.accuracy is not None and record.accuracy.n == 200


# What is kept of a part


def test_a_part_is_known_and_not_taken_for_the_whole(spec: StudySpec) -> None:
    """The second candidate of the variant runs the probe only and is rejected on what is known; no whole accuracy is there."""
    first = measured(spec, Session(shift=3), drop_test(spec))
    session = Session(shift=3, streams=1)
    again = measured(spec, session, drop_test(spec), streams=1)
    assert (first.stopped, first.hit, again.stopped, again.hit) == (True, False, True, True)
    assert again.key == first.key and not scores_exist(cached(spec), first.key)
    assert session.n == 16
    assert per_sample(again.answers.scores).tolist() == per_sample(first.answers.scores).tolist()


def test_a_looser_limit_goes_on_where_it_stopped(spec: StudySpec) -> None:
    """A limit of 0.95 lets the same answers through: the samples seen are not run again, and the whole is in its order."""
    first = measured(spec, Session(shift=3, below=0.6), drop_test(spec))
    seen = first.answers.scores.n
    session = Session(shift=3, below=0.6)
    whole = measured(spec, session, drop_test(spec, limit=0.95))
    assert first.stopped and not whole.stopped and seen < N_SAMPLES
    assert session.n <= 16 + (N_SAMPLES - seen) + 8 * 8, "the probe, the rest, and the padding of each look's last batch"
    wanted = [0.0] * 120 + [1.0] * 80
    assert per_sample(whole.answers.scores).tolist() == wanted
    assert scores_exist(cached(spec), whole.key)


def test_a_stricter_limit_after_the_whole_is_the_whole(spec: StudySpec) -> None:
    """What is known of all samples is never estimated from some."""
    measured(spec, Session(shift=3), None)
    found = measured(spec, Session(shift=3), drop_test(spec, limit=0.0))
    assert found.hit and not found.stopped and found.answers.scores.n == N_SAMPLES


def test_the_rest_is_measured_without_looks_where_early_stop_is_off(spec: StudySpec) -> None:
    """A part is gone on with also when nobody may stop any more."""
    seen = measured(spec, Session(shift=3), drop_test(spec)).answers.scores.n
    session = Session(shift=3)
    found = measured(spec, session, None)
    assert not found.stopped and found.answers.scores.n == N_SAMPLES and session.n < 16 + N_SAMPLES - seen + 8


def test_a_part_is_trusted_only_while_the_answers_agree(spec: StudySpec) -> None:
    """A setting that answers rightly is not rejected for what another setting of the same engine got wrong."""
    measured(spec, Session(shift=3), drop_test(spec))
    found = measured(spec, Session(streams=1), drop_test(spec), streams=1)
    assert found.settings_matter and not found.stopped and float(per_sample(found.answers.scores).mean()) == 0.9


def test_answers_do_not_depend_on_how_they_were_run(spec: StudySpec) -> None:
    """Stopped, gone on with or in one go, with another batch size: the same scores, classes and outputs of every sample."""
    measured(spec, Session(shift=3, below=0.6), drop_test(spec))
    parts = measured(spec, Session(shift=3, below=0.6, batch_size=4), None, batch_size=4).answers
    other = spec.model_copy(update={"cache": CacheSpec(folder=cached(spec).root / "other")})
    whole = measured(other, Session(shift=3, below=0.6), None).answers
    assert per_sample(parts.scores).tolist() == per_sample(whole.scores).tolist()
    assert parts.named is not None and whole.named is not None and parts.named.tolist() == whole.named.tolist()
    assert parts.outputs["logits"].tolist() == whole.outputs["logits"].tolist()


# Metrics of the user


def whole_set(outputs: Any, labels: Any) -> float:
    """A share that does not say that it is one."""
    return float(np.mean(next(iter(outputs.values())).argmax(axis=1) == labels))


def unbounded(outputs: Any, labels: Any) -> Any:
    """A score per sample without a range."""
    return (next(iter(outputs.values())).argmax(axis=1) == labels).astype(float)


def bounded(outputs: Any, labels: Any) -> Any:
    """The same with its range."""
    return unbounded(outputs, labels)


def liar(outputs: Any, labels: Any) -> Any:
    """Scores beyond the range that it states."""
    return 2 * unbounded(outputs, labels)


bounded.score_range = (0.0, 1.0)  # type: ignore[attr-defined]  # what a user's metric says of itself
liar.score_range = (0.0, 1.0)  # type: ignore[attr-defined]  # the same


def with_metric(spec: StudySpec, name: str, monkeypatch: pytest.MonkeyPatch) -> StudySpec:
    monkeypatch.setitem(sys.modules, "users_metrics", sys.modules[__name__])
    return spec.model_copy(update={"data": spec.data.model_copy(update={"metric": f"users_metrics:{name}"})})


@pytest.mark.parametrize(("name", "stops"), [("whole_set", False), ("unbounded", False), ("bounded", True)])
def test_only_a_metric_with_a_range_stops_early(
    spec: StudySpec, name: str, stops: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A metric of the whole set, or without a stated range of its scores, is measured on all samples."""
    record = tensor(with_metric(spec, name, monkeypatch))
    assert record.state == "rejected" and record.accuracy is not None
    assert (STOPPED_EARLY in record.flags, record.accuracy.n < N_SAMPLES) == (stops, stops)


def test_scores_outside_the_stated_range_are_the_users_mistake(spec: StudySpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test would be wrong about them, so they are refused with what was found."""
    with pytest.raises(SpecError, match=r"scores from 0 to 2; allowed by its score_range: 0 to 1"):
        run_trial(request(with_metric(spec, "liar", monkeypatch), fake_candidate()))
