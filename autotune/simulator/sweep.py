"""record_sweep: every point of a study's grid measured on this machine through ordinary trials, in random order."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autotune import __version__
from autotune.candidate import Candidate, Scalar
from autotune.errors import EnvironmentProblem
from autotune.fingerprint import digest_of, file_digest
from autotune.records import TrialRecord, TrialRole
from autotune.simulator.compile import compiled_table, implied_rejection, model_of
from autotune.simulator.grid import candidates_of, grid_values
from autotune.simulator.journal import Journal, wall_s
from autotune.simulator.table import SweepTable
from autotune.simulator.table_file import save_table
from autotune.study.lock import device_lock
from autotune.study.plan import StudyPlan
from autotune.trial.isolation import TrialProcess
from autotune.trial.pipeline import now_utc
from autotune.trial.request import TrialRequest

_SHARE_REPEATED_AT_ONCE = 1 / 6

Report = Callable[[int, int, int, TrialRecord], None]
"""Hears of each measurement: how many of the grid's points are settled, of how many, the pass from 1, and the record."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepPlan:
    """What a sweep is to measure: each candidate of `grid` in at most `repeats` processes, for at most `limit_s` seconds.

    `out`: the table; beside it lie the journal and, unless the study names none of its own, the cache, both gone at the end.
    """

    study: StudyPlan
    values: Mapping[str, tuple[Scalar, ...]]
    grid: tuple[Candidate, ...]
    repeats: int
    limit_s: float
    out: Path

    @property
    def journal_path(self) -> Path:
        """Where the sweep writes down what it measured, at once."""
        return self.out.with_name(self.out.name + ".journal")

    @property
    def cache_root(self) -> Path:
        """A cache of its own: the first use of an artifact must find none, or its time would be that of a hit."""
        return self.out.with_name(self.out.name + ".cache")


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """A candidate's turn to be measured for the `nth` time; `number` is its place in the grid, from 1."""

    number: int
    candidate: Candidate
    nth: int


@dataclass(slots=True)
class _Run:
    plan: SweepPlan
    process: TrialProcess
    journal: Journal
    report: Report
    should_stop: Callable[[], bool]
    should_abort: Callable[[], bool]
    settled: int = 0
    rejected: list[TrialRecord] = field(default_factory=list)


def sweep_plan(
    study: StudyPlan, asked: Mapping[str, tuple[Scalar, ...]], *, repeats: int, hours: float | None, out: Path
) -> SweepPlan:
    """The sweep of the study's space. Raises SpecError where `asked` names what is not in it."""
    values = grid_values(study.space, asked)
    grid = tuple(candidates_of(study.space, values))
    limit_s = float("inf") if hours is None else hours * 3600
    return SweepPlan(study=study, values=values, grid=grid, repeats=repeats, limit_s=limit_s, out=out)


def record_sweep(
    plan: SweepPlan, report: Report, should_stop: Callable[[], bool], should_abort: Callable[[], bool]
) -> tuple[SweepTable, bool]:
    """The table, also in `plan.out`, and whether it is complete: no point missing and nothing left to repeat in the time given.

    It goes on where a sweep of the same study, grid and machine was stopped or killed. The first pass covers every point, each
    further one repeats them in fresh processes; all in random order. `should_stop` ends it after the measurement under way.
    Raises Interrupted when `should_abort` turns true, EnvironmentProblem where the reference cannot be measured.
    """
    journal = Journal.open(plan.journal_path, _identity(plan), now_utc())
    journal.forget_interrupted(plan.cache_root)
    with TrialProcess(plan.study.preload) as process:
        run = _Run(plan, process, journal, report, should_stop, should_abort)
        if journal.reference is None:
            _measure(run, plan.study.reference, "reference", 0)
        ended = _passes(run)
    table = _table(plan, journal)
    save_table(table, plan.out)
    return table, ended and table.missing == 0


def _passes(run: _Run) -> bool:
    """False when it was stopped, or its time was up before every point was measured once."""
    run.rejected = [r for found in run.journal.records.values() for r in found if r.state == "rejected"]
    for turn in range(1, run.plan.repeats + 1):
        run.settled = 0
        for visit in order_of(run.plan, turn):
            number, candidate = visit.number, visit.candidate
            if run.should_stop():
                return False
            if not _is_settled(run, candidate, visit.nth):
                if run.journal.spent_s >= run.plan.limit_s:
                    return turn > 1
                record = _measure(run, candidate, "bench", number)
                run.rejected += [record] if record.state == "rejected" else []
                run.report(run.settled + (visit.nth == turn), len(run.plan.grid), turn, record)
            run.settled += visit.nth == turn
    return True


def order_of(plan: SweepPlan, turn: int) -> list[Visit]:
    """The visits of a pass, each of the grid's candidates once, in a random order that is the same after a restart.

    Where there are to be repeats, the first pass visits a sixth of the candidates a second time, some while after the first: so
    a sweep whose time is up after one pass has seen how fresh processes differ.
    """
    rng = random.Random(f"{plan.study.spec.seed}/{turn}")
    visits = []
    for number, candidate in enumerate(plan.grid, 1):
        first = rng.random()
        visits.append((first, Visit(number=number, candidate=candidate, nth=turn)))
        again = rng.random() < _SHARE_REPEATED_AT_ONCE
        if again and turn == 1 and plan.repeats > 1:
            visits.append((rng.uniform(first, 1.0), Visit(number=number, candidate=candidate, nth=2)))
    return [visit for _, visit in sorted(visits, key=lambda pair: pair[0])]


def _is_settled(run: _Run, candidate: Candidate, nth: int) -> bool:
    """True when there is nothing to measure here: done, failed before, or rejected along with another."""
    found = run.journal.records.get(candidate, [])
    if len(found) >= nth or any(r.state != "complete" for r in found):
        return True
    return implied_rejection(run.plan.study, candidate, run.rejected) is not None


def _measure(run: _Run, candidate: Candidate, role: TrialRole, number: int) -> TrialRecord:
    plan, reference = run.plan, run.journal.reference
    request = TrialRequest(
        spec=plan.study.spec,
        number=number,
        role=role,
        candidate=candidate,
        cache_root=plan.cache_root,
        log_path=plan.cache_root / "logs" / "sweep.log",
        reference_scores=reference.scores_key if reference else None,
    )
    with device_lock(plan.study.lock_name, run.should_abort):
        run.journal.begin(wall_s())
        record = run.process.run(request, should_abort=run.should_abort)
    if role == "reference" and record.state != "complete":
        why = record.reject.message if record.reject else record.state
        raise EnvironmentProblem(
            f"the reference (the unmodified model at {candidate.engine}'s defaults) could not be measured: {why}",
            remedy=f"autotune bench {plan.study.spec.file or 'STUDY.yaml'}",
        )
    run.journal.add(record)
    return record


def _table(plan: SweepPlan, journal: Journal) -> SweepTable:
    if journal.reference is None:
        raise EnvironmentProblem("the sweep was stopped before its reference was measured.")
    recorded: dict[str, Any] = {
        "begun_at": journal.begun_at,
        "ended_at": now_utc(),
        "measured_s": round(journal.spent_s, 1),
        "autotune": __version__,
    }
    model = model_of(plan.study, _model_digest(plan.study))
    return compiled_table(plan.study, plan.values, plan.grid, journal.reference, journal.records, model, recorded)


def _model_digest(study: StudyPlan) -> str:
    source = study.spec.model.path or study.spec.model.weights
    return file_digest(source) if source else digest_of(study.spec.model.torch)


def _identity(plan: SweepPlan) -> str:
    """Of everything that a measurement depends on. More repeats or hours do not begin another sweep."""
    spec = plan.study.spec.model_dump(
        mode="json", exclude={"budget", "storage", "cache", "artifacts", "priors", "finalists", "canary"}
    )
    grid: Sequence[dict[str, Scalar | None]] = [c.as_json() for c in plan.grid]
    return digest_of([spec, grid, plan.study.fingerprint.key, _model_digest(plan.study)])


def clean_up(plan: SweepPlan) -> None:
    """Journal and cache of a finished sweep are gone."""
    import shutil

    plan.journal_path.unlink(missing_ok=True)
    shutil.rmtree(plan.cache_root, ignore_errors=True)
