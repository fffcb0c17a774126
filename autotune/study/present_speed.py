"""How fast a trial of an earlier regime would be now: a guess, only for choosing what is worth another measurement."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace

from autotune.records import LOADED, Estimate, Regime, TrialRecord, loaded, loaded_fields, own_load, regime_at
from autotune.study.objectives import THROUGHPUT


def at_present_speed(record: TrialRecord, records: Sequence[TrialRecord], regimes: Sequence[Regime]) -> TrialRecord:
    """The record with its load's figures as the machine's changes since suggest them; as it is where it ran under the present
    regime.

    A trial that may have run before or after a change gets the better of both: finding out costs only one more measurement.
    """
    later = [r for r in regimes if r.number > record.regime]
    if record.throughput_items_per_s is None or not later:
        return record
    possible = [record.regime]
    if not record.repetitions and (record.started_at or "") > later[0].steady_until:
        possible.append(later[0].number)
    scaled: dict[str, Estimate] = {}
    for metric in LOADED:
        found = loaded(record, metric)
        if found is not None:
            factors = [change(records, regime, regimes, metric) for regime in possible]
            scaled[metric] = _scaled(found, max(factors) if metric == THROUGHPUT else min(factors))
    return replace(record, **loaded_fields(scaled, {}))


def change(records: Sequence[TrialRecord], before: int, regimes: Sequence[Regime], metric: str = THROUGHPUT) -> float:
    """By what factor the metric has changed from the regime `before` to the present one.

    The median over all candidates that ran under both, the reference among them: a change may hit some much harder than others
    (a tiny model on two threads fell to 40 % where larger batches kept 95 %). Where none did, the reference's own ratio of
    throughput, by which latency goes the other way; what energy and power then do is not known, and they stay as they are.
    """
    present, since = len(regimes) + 1, [r.since for r in regimes]
    if before == present:
        return 1.0
    ratios = []
    for record in records:
        values = _by_regime(record, since, metric)
        if before in values and present in values:
            ratios.append(statistics.fmean(values[present]) / statistics.fmean(values[before]))
    if ratios:
        return statistics.median(ratios)
    speed = math.prod(r.ratio for r in regimes if r.number > before)
    if metric == THROUGHPUT:
        return speed
    return 1.0 / speed if metric.startswith("latency") else 1.0


def _scaled(found: Estimate, factor: float) -> Estimate:
    return replace(found, value=found.value * factor, low=found.low * factor, high=found.high * factor)


def _by_regime(record: TrialRecord, since: Sequence[str], metric: str) -> dict[int, list[float]]:
    """The metric's value in every process of the trial, its own load among them, by regime."""
    found: dict[int, list[float]] = {}
    own = [(regime_at(record.started_at, since), own_load(record, metric))]
    for regime, measured in (*own, *((p.regime, loaded(p, metric)) for p in record.repetitions)):
        if measured is not None and measured.value > 0:
            found.setdefault(regime, []).append(measured.value)
    return found
