"""The regimes of the machine, from the reference's throughput over time: noted when it moves beyond its own noise."""

from __future__ import annotations

import math
from collections.abc import Sequence

from autotune.bench.control import EXPECTED_SD, Verdict, changed
from autotune.records import Regime
from autotune.study.reporting import Process, reference_processes
from autotune.study.session import StudySession

_HOPS = 2
"""So many changes within one study make the next one part of the noise."""


def verdict(found: Sequence[Process], regimes: Sequence[Regime]) -> Verdict:
    """The control chart over the processes of the present regime, the last of `regimes`."""
    return changed([math.log(p.value) for p in found], [p.own_sd for p in found], expected_sd(regimes))


def expected_sd(regimes: Sequence[Regime]) -> float:
    """The noise of log throughput that the chart expects between processes: more on a machine that has changed twice already.

    Hopping between two speeds is a kind of noise with half their distance as its standard deviation. To call each hop a regime
    would have the front measured again without end, and always too little.
    """
    if len(regimes) < _HOPS:
        return EXPECTED_SD
    hops = sum(math.log(r.ratio) ** 2 for r in regimes) / len(regimes)
    return math.hypot(EXPECTED_SD, math.sqrt(hops) / 2)


def next_regime(found: Sequence[Process], regimes: Sequence[Regime]) -> Regime | None:
    """The regime that began among the processes of the present one; None while it is steady.

    It begins with the first process that shows it; nobody knows when between that and the one before the machine changed.
    """
    at = verdict(found, regimes).changed_at
    if at is None:
        return None
    before, after = (_mean(found[:at]), _mean(found[at:]))
    ratio = after / before
    reason = f"the reference went from {before:.1f} to {after:.1f} items/s ({ratio - 1:+.1%}), more than its noise"
    since, steady_until = found[at].started_at, found[at - 1].finished_at
    return Regime(number=len(regimes) + 2, since=since, steady_until=steady_until, ratio=ratio, reason=reason)


def _mean(found: Sequence[Process]) -> float:
    return math.exp(sum(math.log(p.value) for p in found) / len(found))


def note_changes(run: StudySession) -> bool:
    """Every change that the reference shows is stored and told; True when there was one."""
    noted = False
    while True:
        regimes = run.store.regimes(run.study.id)
        run.regime = len(regimes) + 1
        references = run.store.trials(run.study.id, ["complete"], ["reference"])
        found = next_regime(reference_processes(references, regimes), regimes)
        if found is None or not run.store.add_regime(run.study.id, found):
            return noted
        run.observer.note(f"regime {found.number}: {found.reason}; since {found.since}")
        noted = True
