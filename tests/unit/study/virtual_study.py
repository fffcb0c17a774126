"""A study session whose trials take no time: throughput is drawn around a known truth, everything else is the real thing."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import numpy as np
from study_samples import candidate, estimate, record, rejected, study

from autotune.candidate import Candidate, Choices
from autotune.records import TrialRecord
from autotune.store.repository import COMPARABLE, open_store
from autotune.store.worker import this_worker
from autotune.study.build_ahead import BuildAhead
from autotune.study.loop import register_study
from autotune.study.observer import Silent
from autotune.study.plan import make_plan
from autotune.study.session import StopSwitch, StudySession
from autotune.trial.request import TrialRequest


class Killed(BaseException):
    """Stands for kill -9: nothing in the code may catch it."""


@dataclass(kw_only=True)
class VirtualMachine:
    """Runs trials at once. `truth`: items/s of a candidate; `noise`: sd of log throughput; `own`: relative half-width of a run.

    `speed`: of the machine now."""

    truth: Callable[[Candidate], float]
    noise: float = 0.0
    speed: float = 1.0
    own: float = 0.0
    seed: int = 0
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    kill_at: int = -1
    fails: Callable[[Candidate], bool] = lambda c: False
    seen: list[TrialRequest] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.seed)

    def run(self, request: TrialRequest, *_: object) -> TrialRecord:
        """The trial's record a second later."""
        self.seen.append(request)
        if len(self.seen) == self.kill_at:
            raise Killed
        began = self.now
        self.now += timedelta(seconds=1)
        times: dict[str, Any] = {"started_at": began.isoformat(), "finished_at": self.now.isoformat()}
        c = request.candidate
        if self.fails(c):
            return replace(rejected(request.number, "crashed"), role=request.role, candidate=c, **times)
        rate = self.truth(c) * self.speed * math.exp(self._rng.normal(0, self.noise))
        found = record(request.number, rate=rate, half=rate * self.own, role=request.role, **times)
        return replace(found, candidate=c, accuracy=estimate(accuracy_of(c)), scores_key="k")


def accuracy_of(c: Candidate) -> float:
    """fp32 is right more often."""
    return {"fp32": 0.9, "fp16": 0.88}[c.precision]


REFERENCE = candidate(streams=1, worker_threads=1)


def session(folder: Path, machine: VirtualMachine, **sections: Any) -> StudySession:
    """The study in `folder`, new or found; like a process that has just begun with it."""
    space = {"precision": Choices(values=("fp32", "fp16")), "batch_size": Choices(values=tuple(range(1, 65)))}
    plan = make_plan(study(**({"space": space, "cache": folder / "cache"} | sections)))
    store = open_store(f"sqlite:///{folder / 'study.db'}")
    row = register_study(replace_model(plan), store, 12)
    for trial in store.running(row.id):
        store.discard_trial(trial.trial_id)
    # Nothing here asks Optuna, and the machine runs a trial in no time.
    parts: Any = {"proposer": None, "process": machine, "ahead": BuildAhead(plan, cast("Any", None), Silent().note)}
    return StudySession(
        plan=plan, store=store, study=row, worker=this_worker(), observer=Silent(), switch=StopSwitch(), target=12, began=0.0,
        **parts,
    )  # fmt: skip


def replace_model(plan: Any) -> Any:
    """The plan without the model's file, which does not exist and which nothing here opens."""
    spec = plan.spec.model_copy(update={"model": plan.spec.model.model_copy(update={"path": None, "torch": "math:sqrt"})})
    return replace(plan, spec=spec)


def searched(run: StudySession, machine: VirtualMachine, candidates: list[Candidate], first: int = 1) -> TrialRecord:
    """The reference and one search trial per candidate are stored; the reference."""
    for number, role, c in [
        *([(0, "reference", REFERENCE)] if first == 1 else []),
        *((first + i, "search", c) for i, c in enumerate(candidates)),
    ]:
        found = machine.run(request(run, number, role, c))
        run.store.save_finished(run.study.id, found, run.worker)
    machine.seen.clear()
    return run.store.trials(run.study.id, ["complete"], ["reference"])[-1]


def request(run: StudySession, number: int, role: Any, c: Candidate) -> TrialRequest:
    """What the machine is asked for one trial."""
    return TrialRequest(
        spec=run.plan.spec, number=number, role=role, candidate=c, cache_root=run.plan.cache_root, log_path=Path("log")
    )


def known(run: StudySession) -> dict[tuple[str, int], TrialRecord]:
    """Every complete trial and reference as it is reported."""
    return {(r.role, r.number): r for r in run.store.trials(run.study.id, ["complete"], COMPARABLE)}
