"""How fast a trial of an earlier regime would be now: a guess, only for choosing what is worth another measurement."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace

from autotune.records import Regime, TrialRecord, regime_at
from autotune.study.reporting import own_estimate


def at_present_speed(record: TrialRecord, records: Sequence[TrialRecord], regimes: Sequence[Regime]) -> TrialRecord:
    """The record with its throughput as the machine's changes since suggest it; as it is where it ran under the present regime.

    A trial that may have run before or after a change gets the higher of both: finding out costs only one more measurement.
    """
    later = [r for r in regimes if r.number > record.regime]
    rate = record.throughput_items_per_s
    if rate is None or not later:
        return record
    factor = change(records, record.regime, regimes)
    if not record.repetitions and (record.started_at or "") > later[0].steady_until:
        factor = max(factor, change(records, later[0].number, regimes))
    scaled = replace(rate, value=rate.value * factor, low=rate.low * factor, high=rate.high * factor)
    return replace(record, throughput_items_per_s=scaled)


def change(records: Sequence[TrialRecord], before: int, regimes: Sequence[Regime]) -> float:
    """By what factor the machine's speed has changed from the regime `before` to the present one.

    The median over all candidates that ran under both, the reference among them: a change may hit some much harder than others
    (a tiny model on two threads fell to 40 % where larger batches kept 95 %). Where none did, the reference's own ratio.
    """
    present, since = len(regimes) + 1, [r.since for r in regimes]
    if before == present:
        return 1.0
    ratios = []
    for record in records:
        rates = _by_regime(record, since)
        if before in rates and present in rates:
            ratios.append(statistics.fmean(rates[present]) / statistics.fmean(rates[before]))
    return statistics.median(ratios) if ratios else math.prod(r.ratio for r in regimes if r.number > before)


def _by_regime(record: TrialRecord, since: Sequence[str]) -> dict[int, list[float]]:
    """Items per second of every process of the trial, its own load among them, by regime."""
    found: dict[int, list[float]] = {}
    own = [(regime_at(record.started_at, since), own_estimate(record))]
    for regime, rate in (*own, *((p.regime, p.throughput_items_per_s) for p in record.repetitions)):
        if rate is not None and rate.value > 0:
            found.setdefault(regime, []).append(rate.value)
    return found
