"""A whole study on the fake engine, whose accuracy and throughput are formulas, so that its front is known beforehand."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from assets import fake_study as fake

from autotune.candidate import Candidate
from autotune.engines.fake import error_rate, throughput_items_per_s
from autotune.pareto import front_mask
from autotune.study.strategy import fresh_seed

N_FIRST, N_SECOND = 6, 12
SPEED = 0.2
"""Of the fake's machine: it sleeps five times as long, so that waking up late on a busy machine is a fifth of it as much."""


class Run:
    """The study after two starts: to 6 trials, then on to 12; and what each of them said."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # The front hangs on a tenth of throughput (17,778 and 16,000 items/s), which other tests beside this one can cost.
        fake.write_study(folder, ("window_s: 0.05, min_windows: 4, max_s: 0.2", "window_s: 0.25, min_windows: 4, max_s: 1.0"))
        self.first = fake.autotune(folder, "start", "study.yaml", "--trials", N_FIRST)
        self.early = self.json("trials")
        self.again = fake.autotune(folder, "start", "study.yaml", "--trials", N_FIRST)
        self.second = fake.autotune(folder, "start", "study.yaml")
        self.trials = self.json("trials")
        self.front = self.json("front")
        self.optuna = {t.number: t for t in fake.optuna_trials(folder)}

    def json(self, *words: str) -> Any:
        return json.loads(fake.autotune(self.folder, words[0], "study.yaml", *words[1:], "--json").stdout)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("study")
    (folder / "speed").write_text(str(SPEED))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOTUNE_FAKE_SPEED", str(folder / "speed"))
        yield Run(folder)


def accuracy(candidate: Candidate) -> float:
    """By the fake's formula: the share of samples whose feature 1 is not below the error rate."""
    numbers = (np.arange(fake.N_SAMPLES) + 0.5) / fake.N_SAMPLES
    return float(np.mean(numbers >= error_rate(candidate)))


def test_the_reference_comes_first_and_is_the_unmodified_model(run: Run) -> None:
    """Nothing is measured before the engine's defaults in fp32 without pruning, 90 % of whose answers are right."""
    measured = [line for line in run.first.stderr.splitlines() if line.startswith(("reference", "trial"))]
    assert measured[0].startswith("reference [engine=fake precision=fp32 pruning_ratio=0.0 batch_size=1")
    reference = run.front["reference"]
    assert reference["accuracy"]["value"] == pytest.approx(0.90)
    assert reference["accuracy_drop"] is None or reference["accuracy_drop"]["value"] == 0
    assert run.optuna[0].state.name == "FAIL" and run.optuna[0].user_attrs["autotune:reference"] is True


def test_priors_are_tried_first_and_in_order(run: Run) -> None:
    """The engine's defaults moved into the space, then what the study file names, unnamed knobs at the defaults."""
    first = fake.candidates(run.trials)[:3]
    assert [(c.precision, c.batch_size, c.streams, c.worker_threads) for c in first] == [
        ("fp32", 8, 1, 1),
        ("int8-tensor", 8, 1, 1),
        ("int8", 32, 4, 4),
    ]


def test_the_target_is_met_exactly_and_a_resumed_study_adds_only_what_is_missing(run: Run) -> None:
    """6 trials, then none more at the same target, then 6 more; what was measured stays as it was."""
    assert (len(run.early), len(run.trials)) == (N_FIRST, N_SECOND)
    assert run.trials[:N_FIRST] == run.early
    assert "6 of 6 trials done" in run.again.stderr and "trial " not in run.again.stderr
    assert "6 of 12 trials done" in run.second.stderr
    assert run.second.stderr.count("\ntrial ") == N_SECOND - N_FIRST
    assert "reference [" not in run.second.stderr


def test_accuracy_is_exact_and_throughput_follows_the_formula(run: Run) -> None:
    """Accuracy is counted, so it is exact; throughput is within 10 % on half the trials at least, and never above by more."""
    complete = [t for t in run.trials if t["state"] == "complete"]
    ratios = []
    for document, candidate in zip(complete, fake.candidates(complete), strict=True):
        assert document["accuracy"]["value"] == pytest.approx(accuracy(candidate))
        assert document["accuracy"]["n"] == fake.N_SAMPLES
        ratios.append(document["throughput_items_per_s"]["value"] / (SPEED * throughput_items_per_s(candidate)))
    # A busy machine wakes sleepers late, so single trials may be slower than the formula; none can be faster.
    assert statistics.median(ratios) >= 0.9 and max(ratios) <= 1.1


def test_the_front_is_the_known_front(run: Run) -> None:
    """Of the measured candidates that keep to the constraint, the front is what the formulas say."""
    kept = [c for c in fake.candidates(run.trials) if accuracy(c) >= 0.90 - 0.05]
    points = np.array([[accuracy(c), round(throughput_items_per_s(c), 6)] for c in kept])
    expected = {tuple(p) for p in points[front_mask(points)]}
    found = {(accuracy(c), round(throughput_items_per_s(c), 6)) for c in fake.candidates(run.front["front"])}
    assert found == expected


def test_no_candidate_is_measured_twice(run: Run) -> None:
    """Every trial is another candidate; one proposed again is told to Optuna with its twin's numbers."""
    assert len(set(fake.candidates(run.trials))) == N_SECOND


def test_a_rejected_trial_is_complete_with_violated_constraints_in_optuna(run: Run) -> None:
    """A sampler learns from COMPLETE trials only, so a rejection is one, never FAIL, with constraints that say so."""
    rejected = [t for t in run.trials if t["state"] == "rejected"]
    assert rejected and all(t["reject"]["reason"] == "accuracy_too_low" for t in rejected)
    for document in rejected:
        trial = run.optuna[document["number"]]
        assert trial.state.name == "COMPLETE" and all(np.isfinite(trial.values))
        # int8-tensor errs on 60 %: a drop of 0.5, which is (0.5 − 0.05) / 0.05 = 9 times the allowed drop above it
        assert fake.violated(trial) == {"runs": 1.0, "accuracy_drop": pytest.approx(9.0)}


def test_every_complete_trial_carries_the_same_constraints(run: Run) -> None:
    """A missing constraint would make Optuna's constrained samplers fail or take the trial as feasible."""
    complete = [t for t in run.optuna.values() if t.state.name == "COMPLETE"]
    assert {tuple(sorted(fake.constraints(t))) for t in complete} == {("accuracy_drop", "runs")}


def test_our_rows_and_optunas_agree(run: Run) -> None:
    """One number, one candidate, one result in both halves of the database; nothing is left running in either."""
    from autotune.space.sampling import candidate_from_params

    for document, candidate in zip(run.trials, fake.candidates(run.trials), strict=True):
        trial = run.optuna[document["number"]]
        assert candidate_from_params(trial.params) == candidate
        if document["state"] == "complete":
            assert trial.values == [document["accuracy"]["value"], document["throughput_items_per_s"]["value"]]
    assert {t.state.name for t in run.optuna.values()} <= {"COMPLETE", "FAIL"}


def test_a_failing_reference_stops_the_study_with_the_reason(tmp_path: Path) -> None:
    """Without a reference nothing can be compared: exit code 3, the reason, and no trial."""
    study = fake.write_study(tmp_path, ("deadline_s: 60", "deadline_s: 0.01"))
    done = fake.autotune(tmp_path, "start", study.name, expect=3)
    assert "the reference" in done.stderr and "allowed: limits.deadline_s 0.01" in done.stderr
    assert json.loads(fake.autotune(tmp_path, "trials", study.name, "--json").stdout) == []


FAULTY = (
    ("worker_threads: [1, 2, 4]\n", "worker_threads: [1, 2, 4]\n  memory_pool_mib: [13, 16, 17, 18, 19, 64]\n"),
    (
        fake.PRIORS,
        "priors: [{batch_size: 32, memory_pool_mib: 17}, "
        + ", ".join(f"{{memory_pool_mib: {m}}}" for m in (13, 16, 18, 19))
        + "]",
    ),
    ("trials: 12", "trials: 6"),
)
"""memory_pool_mib names the fake's faults: 13 SIGSEGV, 16 exception, 17 no build, 18 out of memory, 19 exit; 64 none.

The pool is no part of an engine's key, so the one that cannot be built has a batch size of its own.
"""


def test_trials_that_die_are_recorded_with_their_reason_and_the_study_goes_on(tmp_path: Path) -> None:
    """A crash, an exception, a failed build, out of memory and an exit are rows with a reason; the study meets its target.

    What crashed was tried a second time before it was rejected.
    """
    fake.write_study(tmp_path, *FAULTY)
    fake.autotune(tmp_path, "start", "study.yaml")
    trials = json.loads(fake.autotune(tmp_path, "trials", "study.yaml", "--json").stdout)
    outcome = {t["candidate"]["memory_pool_mib"]: (t["state"], (t["reject"] or {}).get("reason")) for t in trials}
    assert outcome == {
        64: ("complete", None),
        13: ("rejected", "worker_crashed"),
        16: ("rejected", "worker_crashed"),
        17: ("rejected", "build_failed"),
        18: ("rejected", "out_of_memory"),
        19: ("rejected", "worker_crashed"),
    }
    messages = {t["candidate"]["memory_pool_mib"]: (t["reject"] or {}).get("message", "") for t in trials}
    assert all(messages[pool].startswith("2 tries failed") for pool in (13, 16, 19))
    assert "SIGSEGV" in messages[13] and "ZeroDivisionError" in messages[16] and "exit code 7" in messages[19]
    states = {t.number: t for t in fake.optuna_trials(tmp_path)}
    for t in trials:
        assert states[t["number"]].state.name == "COMPLETE"
        assert bool(fake.violated(states[t["number"]])) is (t["state"] != "complete")


def test_an_exhausted_space_ends_the_study(tmp_path: Path) -> None:
    """When every candidate was measured the study ends instead of asking forever."""
    fake.write_study(
        tmp_path, ("[fp32, int8, int8-tensor]", "[fp32]"), ("batch_size: [8, 16, 32]", "batch_size: [8, 16]"),
        ("streams: [1, 2, 4]", "streams: 1"), ("worker_threads: [1, 2, 4]", "worker_threads: 1"), (fake.PRIORS, ""),
    )  # fmt: skip
    done = fake.autotune(tmp_path, "start", "study.yaml")
    assert "(exhausted)" in done.stdout
    assert len(json.loads(fake.autotune(tmp_path, "trials", "study.yaml", "--json").stdout)) == 2


def test_a_study_keeps_its_model_and_its_constraints(tmp_path: Path) -> None:
    """Results under another model or other constraints are not comparable, so the study refuses to go on: exit code 2."""
    fake.write_study(tmp_path, ("trials: 12", "trials: 1"))
    fake.autotune(tmp_path, "start", "study.yaml")
    text = (tmp_path / "study.yaml").read_text()
    (tmp_path / "study.yaml").write_text(text.replace("accuracy_drop: 0.05", "accuracy_drop: 0.06"))
    assert "began" in fake.autotune(tmp_path, "start", "study.yaml", expect=2).stderr
    (tmp_path / "study.yaml").write_text(text)
    content = (tmp_path / "model.onnx").read_bytes()
    (tmp_path / "model.onnx").write_bytes(content.replace(b"tiny", b"tinz"))
    assert "model" in fake.autotune(tmp_path, "start", "study.yaml", expect=2).stderr


def test_every_start_draws_from_a_fresh_seed() -> None:
    """The same seed after a restart would make a sampler repeat its first draws; seeds depend on the worker and the trials."""
    seeds = {fresh_seed(base, worker, n) for base in (0, 1) for worker in ("a", "b", "c") for n in range(50)}
    assert len(seeds) == 300
    assert fresh_seed(0, "a", 7) == fresh_seed(0, "a", 7)


def test_what_was_measured_is_measured_again_only_when_asked(tmp_path: Path) -> None:
    """A space of one point is exhausted after one trial; with --again it is measured as often as the target says."""
    one = ("[8, 16, 32]", "8"), ("[1, 2, 4]", "1"), ("[fp32, int8, int8-tensor]", "fp32"), (fake.PRIORS, "")
    fake.write_study(tmp_path, *one)
    fake.autotune(tmp_path, "start", "study.yaml")
    fake.autotune(tmp_path, "start", "study.yaml", "--trials", 3, "--again")
    trials = json.loads(fake.autotune(tmp_path, "trials", "study.yaml", "--json").stdout)
    assert len(trials) == 3 and len(set(fake.candidates(trials))) == 1


def test_importances_name_the_knobs_that_varied(run: Run) -> None:
    """By the fake's formula throughput rises with batch, streams and threads; resetting a knob is measured when asked for."""
    found = run.json("importances", "--measure")
    assert found["objective"] == "throughput" and found["best"] == run.front["front"][0]["number"]
    knobs = {k["knob"]: k for k in found["knobs"]}
    assert {"precision", "batch_size", "streams", "worker_threads"} <= set(knobs)
    batch = knobs["batch_size"]
    top = next(t for t in run.trials if t["number"] == found["best"])["candidate"]
    alone = Candidate.from_json({**top, "batch_size": batch["default"]})
    expected = 1 - throughput_items_per_s(alone) / throughput_items_per_s(Candidate.from_json(top))
    assert batch["loss_alone"]["value"] == pytest.approx(expected, abs=0.1)
