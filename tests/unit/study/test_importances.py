"""Importances: shares follow what the knobs do, losses compare measured trials, and what was not measured is None."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from study_samples import candidate, estimate, record, rejected, study

from autotune.candidate import Candidate, Choices
from autotune.records import TrialRecord
from autotune.study.importances import importances, reset, with_measured

SPACE = {"precision": Choices(values=("fp32", "fp16")), "batch_size": Choices(values=(1, 2, 4, 8, 16))}
REFERENCE = replace(record(0, rate=10.0, half=0.1, role="reference"), candidate=candidate(batch_size=1, streams=1))


def trial(number: int, rate: float, **knobs: Any) -> TrialRecord:
    found = replace(record(number, rate=rate, half=0.01 * rate), candidate=candidate(**({"streams": 1} | knobs)))
    return replace(found, accuracy=estimate(0.9 if found.candidate.precision == "fp32" else 0.88))


def test_the_knob_that_decides_has_the_largest_share() -> None:
    """Throughput follows the batch and nothing else, accuracy the precision and nothing else."""
    rng = np.random.default_rng(0)
    trials = [
        trial(
            i, 10.0 * batch, batch_size=batch, streams=int(rng.integers(1, 5)), precision=("fp32", "fp16")[int(rng.integers(2))]
        )
        for i, batch in enumerate([1, 2, 4, 8, 16] * 8, start=1)
    ]
    found = importances(trials, REFERENCE, study(space=SPACE))
    assert found is not None and found.objective == "throughput"
    assert found.knobs[0].knob == "batch_size"
    shares = {k.knob: k.shares for k in found.knobs}
    assert (shares["batch_size"]["throughput"] or 0) > 0.8
    assert (shares["precision"]["accuracy"] or 0) > 0.8
    assert sum(s["throughput"] or 0 for s in shares.values()) == pytest.approx(1)


def test_losses_compare_measured_trials() -> None:
    """Best 100. Batch at 1: the best other trial has 40, so 60 % is lost; reset alone it has 25, so 75 %."""
    trials = [
        trial(1, 100, batch_size=8, streams=4),
        trial(2, 25, batch_size=1, streams=4),
        trial(3, 40, batch_size=1, streams=2),
        trial(4, 90, batch_size=8, streams=1),
    ]
    found = importances(trials, REFERENCE, study(space=SPACE))
    assert found is not None and found.best == 1
    knobs = {k.knob: k for k in found.knobs}
    batch, streams = knobs["batch_size"], knobs["streams"]
    assert (batch.value, batch.default, batch.trial, batch.trial_alone) == (8, 1, 3, 2)
    assert batch.loss is not None and batch.loss.value == pytest.approx(0.6)
    assert batch.loss_alone is not None and batch.loss_alone.value == pytest.approx(0.75)
    # 1 % and 1 % half-widths make √2 % of the ratio 0.4
    assert batch.loss.half_width == pytest.approx(0.4 * 0.01 * 2**0.5)
    assert streams.trial == streams.trial_alone == 4
    assert batch.shares == {"accuracy": None, "throughput": None}  # four trials say nothing


def test_what_was_not_measured_is_none() -> None:
    """No feasible trial has the knob at its default and the rejected one does not count; nothing feasible gives nothing."""
    spec = study(space=SPACE, constraints={"throughput": 50})
    trials = [trial(1, 100, batch_size=8), trial(2, 20, batch_size=1)]
    found = importances([*trials, rejected(3)], REFERENCE, spec)
    assert found is not None
    batch = next(k for k in found.knobs if k.knob == "batch_size")
    assert batch.loss is None and batch.loss_alone is None
    assert importances([trial(1, 20, batch_size=1)], REFERENCE, spec) is None


def test_measured_resets_fill_in() -> None:
    """What --measure ran is compared with the best as it was in the same run."""
    spec = study(space=SPACE)
    trials = [trial(1, 100, batch_size=8, streams=4), trial(2, 90, batch_size=4, streams=2)]
    found = importances(trials, REFERENCE, spec)
    assert found is not None
    changed: Candidate = reset(trials[0].candidate, "streams", REFERENCE.candidate)
    assert (changed.streams, changed.batch_size) == (1, 8)
    again, alone = trial(0, 80, batch_size=8, streams=4), replace(trial(0, 60), candidate=changed)
    filled = with_measured(found, {"streams": replace(alone, number=7)}, again, spec)
    loss = next(k for k in filled.knobs if k.knob == "streams").loss_alone
    assert loss is not None and loss.value == pytest.approx(0.25)
