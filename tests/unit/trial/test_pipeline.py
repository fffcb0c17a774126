"""run_trial in this process: what a record holds after each outcome, and what is taken from the cache."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faulty_study import N_SAMPLES, fake_candidate, fake_spec, request

from autotune.cache import Cache
from autotune.engines.build import build_engine, load_backend
from autotune.engines.fake import FakeSession
from autotune.engines.protocol import Inputs, Outputs
from autotune.errors import SpecError, Unstable
from autotune.records import TrialRecord
from autotune.spec.model import ConstraintsSpec, StudySpec
from autotune.trial import pipeline
from autotune.trial.known_accuracy import KnownAnswers, measured_answers, scores_exist
from autotune.trial.materialize import materialize
from autotune.trial.pipeline import run_trial
from autotune.trial.stages import bound_split, load_batches, variant_of


@pytest.fixture
def spec(tmp_path: Path) -> StudySpec:
    return fake_spec(tmp_path)


def constrained(spec: StudySpec, **limits: float) -> StudySpec:
    return spec.model_copy(update={"constraints": ConstraintsSpec(**limits)})


def test_a_complete_record_says_where_each_number_is_from(spec: StudySpec) -> None:
    """Every stage is timed, the two sums add up, and versions, device and variant are named."""
    record = run_trial(request(spec, fake_candidate()))
    assert record.state == "complete"
    assert record.cached == ("base",), "the base model was made with the data, whose inputs it names"
    assert set(record.stage_s) == {"data", "variant", "engine", "open", "accuracy", "load"}
    assert record.build_s == pytest.approx(sum(record.stage_s[s] for s in ("variant", "engine", "open")), abs=1e-3)
    assert record.measure_s == pytest.approx(sum(record.stage_s[s] for s in ("accuracy", "load")), abs=1e-3)
    assert record.metric == "top1" and record.device and "numpy" in record.versions
    assert record.variant is not None and record.model_bytes == record.variant.model_bytes > 0
    assert TrialRecord.from_json(record.as_json()) == replace(record, telemetry=())


def test_the_device_is_looked_at_before_the_engine_is_built(spec: StudySpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """A builder leaves a CUDA context of the trial's own, which is then neither foreign nor memory that was there before."""
    order: list[str] = []
    watch, build = pipeline.DeviceWatch, pipeline.build_engine
    monkeypatch.setattr(pipeline, "DeviceWatch", lambda device: (order.append("watch"), watch(device))[1])
    monkeypatch.setattr(pipeline, "build_engine", lambda *words: (order.append("build"), build(*words))[1])
    run_trial(request(spec, fake_candidate()))
    assert order == ["watch", "build"]


def test_run_knobs_reuse_engine_and_accuracy(spec: StudySpec) -> None:
    """Another number of streams rebuilds nothing and predicts nothing anew, but is measured under load."""
    run_trial(request(spec, fake_candidate()))
    record = run_trial(request(spec, fake_candidate(streams=1)))
    assert set(record.cached) == {"base", "variant", "engine", "accuracy"}
    assert record.throughput_items_per_s is not None


def test_a_build_knob_rebuilds_the_engine_only(spec: StudySpec) -> None:
    """The fake builds for a batch size: another one builds again, from the same variant, and the accuracy holds."""
    run_trial(request(spec, fake_candidate()))
    assert set(run_trial(request(spec, fake_candidate(batch_size=4))).cached) == {"base", "variant", "accuracy"}


def test_the_drop_is_paired_with_the_reference(spec: StudySpec) -> None:
    """The fake in int8 errs on numbers below 0.12 instead of 0.10: samples 20…23 are lost, none is won: 4 of 200 is 0.02."""
    pytest.importorskip("onnxruntime", reason="int8 variants are made with onnxruntime")
    calibration = spec.data.validation.model_copy(update={"labels": None})
    spec = spec.model_copy(update={"data": spec.data.model_copy(update={"calibration": calibration})})
    reference = run_trial(request(spec, fake_candidate()))
    other = run_trial(request(spec, fake_candidate(precision="int8"), reference_scores=reference.scores_key))
    assert other.accuracy is not None and other.accuracy.value == pytest.approx(0.88)
    assert other.accuracy_drop is not None and other.accuracy_drop.value == pytest.approx(0.02)
    assert other.accuracy_drop.method == "paired, bonett-price"
    assert other.accuracy_drop.half_width < other.accuracy.half_width, "pairing is what makes a small drop visible"


def test_accuracy_below_the_constraint_ends_the_trial_before_the_load(spec: StudySpec) -> None:
    """0.9 is below 0.95: rejected with what was found and allowed; the accuracy stays in the record, the load is not run."""
    record = run_trial(request(constrained(spec, accuracy=0.95), fake_candidate()))
    assert record.state == "rejected" and record.reject is not None
    assert (record.reject.reason, record.reject.stage) == ("accuracy_too_low", "accuracy")
    assert "0.9000" in record.reject.message and "at least 0.95" in record.reject.message
    assert record.accuracy is not None and record.throughput_items_per_s is None and "load" not in record.stage_s


def test_a_precision_that_the_engine_lacks_is_unsupported(spec: StudySpec) -> None:
    """bf16 is refused with the engine's own reason, before anything is made."""
    record = run_trial(request(spec, fake_candidate(precision="bf16")))
    assert record.reject is not None and record.reject.reason == "unsupported"
    assert "the fake engine has no bf16" in record.reject.message
    assert record.stage_s == {} and record.build_s is None


def test_a_failed_build_is_remembered(spec: StudySpec) -> None:
    """The same engine is not tried again: the second rejection comes from the cache, with the same message."""
    first, second = (run_trial(request(spec, fake_candidate("build", batch_size=3))) for _ in range(2))
    assert first.reject == second.reject is not None
    assert first.reject is not None and first.reject.reason == "build_failed"


def test_without_load_the_trial_ends_after_accuracy(spec: StudySpec) -> None:
    """A reference whose speed nobody asked for is complete with its accuracy alone."""
    record = run_trial(request(spec, fake_candidate(), with_load=False))
    assert record.state == "complete" and record.accuracy is not None
    assert record.throughput_items_per_s is None and "load" not in record.stage_s


def test_bugs_and_study_faults_are_not_records(spec: StudySpec) -> None:
    """run_trial catches rejections only: a ZeroDivisionError and a SpecError come out."""
    with pytest.raises(ZeroDivisionError):
        run_trial(request(spec, fake_candidate("exception")))
    metric = spec.data.model_copy(update={"metric": "no-such-metric"})
    with pytest.raises(SpecError):
        run_trial(request(spec.model_copy(update={"data": metric}), fake_candidate()))


def test_materialize_gives_what_was_measured(spec: StudySpec) -> None:
    """The files of a candidate are those of its trial: the same variant and engine, nothing made again."""
    record = run_trial(request(spec, fake_candidate()))
    assert spec.cache.folder is not None
    found = materialize(spec, fake_candidate(), Cache(spec.cache.folder))
    assert found.engine.key == record.engine_key and (found.engine.folder / "engine.txt").exists()
    assert record.variant is not None and found.variant.key == record.variant.key


@pytest.mark.parametrize("batch_size", [1, 7, 300])
def test_load_batches_are_whole_and_cycle_through_the_data(spec: StudySpec, batch_size: int) -> None:
    """Every batch has its full size, there are at least two, and every sample is in one of them (the last few may be cut)."""
    assert spec.cache.folder is not None
    validation = bound_split(spec, spec.data.validation, Cache(spec.cache.folder))
    batches = load_batches(validation, batch_size)
    assert len(batches) >= 2 and all(len(b["x"]) == batch_size for b in batches)
    seen = {round(float(v) * N_SAMPLES) for b in batches for v in b["x"][:, 1]}
    assert len(seen) >= N_SAMPLES - batch_size


# Known accuracy is trusted only while a session answers alike


class Turned(FakeSession):
    """The fake at a setting where it answers something else entirely."""

    def wait(self, slot: int) -> Outputs:
        return {name: np.roll(value, 3, axis=1) for name, value in super().wait(slot).items()}


class Dead(FakeSession):
    """The fake at a setting where it gives NaN."""

    def wait(self, slot: int) -> Outputs:
        return {name: value * np.nan for name, value in super().wait(slot).items()}


class Counting(FakeSession):
    """The fake, counting samples."""

    n = 0

    def submit(self, inputs: Inputs, slot: int) -> None:
        self.n += len(inputs["x"])
        super().submit(inputs, slot)


def scored(spec: StudySpec, session: FakeSession, **knobs: Any) -> KnownAnswers:
    """The scores of one candidate through `session`."""
    assert spec.cache.folder is not None
    cache, candidate, backend = Cache(spec.cache.folder), fake_candidate(**knobs), load_backend("fake")
    variant, _ = variant_of(spec, candidate, backend, cache)
    engine, _ = build_engine(backend, variant, candidate, cache)
    validation = bound_split(spec, spec.data.validation, cache)
    return measured_answers(session, engine, backend, validation, candidate, "top1", cache)  # type: ignore[arg-type]


def mean(found: KnownAnswers) -> float:
    assert found.answers.scores.per_sample is not None
    return float(found.answers.scores.per_sample.mean())


def test_known_scores_cost_a_few_samples_only(spec: StudySpec) -> None:
    """The second candidate with the same engine and variant answers 16 samples, in whole batches, instead of 200."""
    first = scored(spec, FakeSession(fake_candidate(), None))
    session = Counting(fake_candidate(streams=1), None)
    again = scored(spec, session, streams=1)
    assert (first.hit, again.hit, again.settings_matter) == (False, True, False)
    assert again.key == first.key and mean(again) == mean(first) == 0.9
    assert session.n == 16


def test_a_setting_that_changes_the_answers_gets_scores_of_its_own(spec: StudySpec) -> None:
    """All classes are off by three: its accuracy is 0, and the shared scores stay as they were for the next candidate."""
    shared = scored(spec, FakeSession(fake_candidate(), None))
    other = scored(spec, Turned(fake_candidate(streams=1), None), streams=1)
    assert other.settings_matter and other.key != shared.key and mean(other) == 0
    assert scored(spec, Turned(fake_candidate(streams=1), None), streams=1).hit
    assert mean(scored(spec, FakeSession(fake_candidate(streams=3), None), streams=3)) == 0.9


def test_an_unstable_setting_does_not_condemn_the_others(spec: StudySpec) -> None:
    """NaN with one setting leaves nothing in the cache; the next one of the same engine is scored as if nothing had been."""
    with pytest.raises(Unstable):
        scored(spec, Dead(fake_candidate(), None))
    found = scored(spec, FakeSession(fake_candidate(streams=1), None), streams=1)
    assert mean(found) == 0.9 and not found.hit
    assert spec.cache.folder is not None and scores_exist(Cache(spec.cache.folder), found.key)
    assert not scores_exist(Cache(spec.cache.folder), None)
