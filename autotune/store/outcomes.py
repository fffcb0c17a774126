"""What the finished trials of a study came to, as columns: thousands can be compared without reading one of them whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import ColumnElement, Connection, FromClause, and_, select

from autotune.records import FINISHED
from autotune.store.reported import RegimeClock, fetch_repetitions, with_estimate
from autotune.store.tables import loads, trials

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One estimate of every trial, shape (n,) each; NaN where it was not measured."""

    value: Array
    low: Array
    high: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """The finished search trials of a study by number; every array has shape (n,).

    `measured`: the estimates that were asked for, by their metric in at_measurements; of a load's, the reported ones.
    `repeated`: measured again as a finalist. `failed_again`: ran once, and failed when it was repeated.
    """

    number: NDArray[np.int64]
    precision: Sequence[str]
    complete: Mask
    regime: NDArray[np.int64]
    repeated: Mask
    failed_again: Mask
    peak_memory_mib: Array
    slo_percentile: Array
    measured: Mapping[str, Column]

    def __len__(self) -> int:
        return len(self.number)


def fetch_outcomes(connection: Connection, study_id: int, metrics: Iterable[str]) -> Outcomes:
    """The outcomes of one study, in two or three statements however many trials it has."""
    import numpy as np  # a tenth of a second, which commands that only list studies need not wait

    names = tuple(dict.fromkeys(metrics))
    ours = and_(trials.c.study_id == study_id, trials.c.role == "search")
    clock = RegimeClock(connection, study_id)
    source: FromClause = trials.outerjoin(loads, loads.c.trial_id == trials.c.id)
    wanted: list[ColumnElement[object]] = [
        trials.c.id, trials.c.number, trials.c.state, trials.c.peak_memory_mib, loads.c.slo_percentile, trials.c.precision,
    ]  # fmt: skip
    for name in names:
        source, columns = with_estimate(source, trials.c.id, name)
        wanted += columns
    if clock.has_changes:
        wanted.append(trials.c.started_at)
    statement = select(*wanted).select_from(source).where(ours, trials.c.state.in_(FINISHED)).order_by(trials.c.number)
    rows = connection.execute(statement).all()
    found = list(zip(*rows, strict=True)) if rows else [()] * len(wanted)
    again = fetch_repetitions(connection, clock, ours)
    regime = np.ones(len(rows), dtype=np.int64)
    if clock.has_changes:
        regime[:] = [clock.regime(study_id, started_at) for started_at in found[-1]]
    repeated, failed = np.zeros(len(rows), dtype=bool), np.zeros(len(rows), dtype=bool)
    for i, trial_id in enumerate(found[0]):
        repetitions = again.get(trial_id, ())
        if repetitions:
            regime[i] = max((r.regime for r in repetitions if r.throughput_items_per_s), default=regime[i])
            repeated[i] = any(r.role == "final" and r.throughput_items_per_s for r in repetitions)
            failed[i] = any(r.state != "complete" for r in repetitions)
    return Outcomes(
        number=np.array(found[1], dtype=np.int64),
        precision=found[5],
        complete=np.array([state == "complete" for state in found[2]], dtype=bool),
        regime=regime,
        repeated=repeated,
        failed_again=failed,
        peak_memory_mib=_floats(found[3]),
        slo_percentile=_floats(found[4]),
        measured={
            name: Column(value=_floats(found[i]), low=_floats(found[i + 1]), high=_floats(found[i + 2]))
            for name, i in zip(names, range(6, 6 + 3 * len(names), 3), strict=True)
        },
    )


def _floats(values: Iterable[float | None]) -> Array:
    import numpy as np

    return np.array(list(values), dtype=np.float64)
