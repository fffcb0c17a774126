"""What a report shows, gathered from a study's database."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np

from autotune.cli.context import OpenStudy
from autotune.records import FINISHED
from autotune.report.cloud import Cloud
from autotune.report.page import Rejected, ReportContent
from autotune.study.standing import Standing

_LONGEST = 300


def report_content(found: OpenStudy) -> ReportContent:
    """The study as it stands now."""
    standing, store, spec = found.standing(), found.store, found.spec
    counts, gain = store.counts(found.row.id), standing.warm_start()
    limits = {k: v for k, v in spec.constraints.model_dump(exclude_none=True).items() if v is not None}
    return ReportContent(
        study=found.row.name,
        written_at=datetime.now(UTC).isoformat(timespec="seconds"),
        n_trials={state: counts[state] for state in FINISHED},
        target=found.row.target_trials,
        cloud=cloud_from(standing),
        front=standing.front,
        best=standing.best(),
        reference=found.reference(),
        ties=standing.ties(),
        regimes=store.regimes(found.row.id),
        asked_for={knob: str(domain) for knob, domain in spec.space.items()},
        rejected=[
            Rejected(state=r.state, reason=r.reason, stage=r.stage, n=r.n, example=_first_line(r.message))
            for r in store.rejections(found.row.id)
        ],
        environment=found.environment(),
        facts={
            "objectives": ", ".join(spec.objectives),
            "constraints": ", ".join(f"{k} {v:g}" for k, v in limits.items()),
            "measured again": f"{len(standing.n_rounds())} finalists" if standing.n_rounds() else "",
            "warm start": str(gain).removeprefix("warm start: ") if gain else "",
        },
    )


def cloud_from(standing: Standing) -> Cloud:
    """The trials that have both a throughput and an accuracy."""
    outcomes = standing.outcomes
    rate, accuracy = outcomes.measured["throughput_items_per_s"], outcomes.measured["accuracy"]
    both = np.isfinite(rate.value) & np.isfinite(accuracy.value)
    present = np.max(outcomes.regime, initial=1)
    return Cloud(
        number=outcomes.number, rate=rate.value, rate_low=rate.low, rate_high=rate.high, accuracy=accuracy.value,
        accuracy_low=accuracy.low, accuracy_high=accuracy.high, precision=outcomes.precision, older=outcomes.regime < present,
    ).where(both)  # fmt: skip


def _first_line(message: str) -> str:
    lines = message.strip().splitlines() or [""]
    return lines[0][:_LONGEST]
