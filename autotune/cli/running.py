"""What start, worker and bench do once their arguments are read."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any

import click

from autotune.bench.metrics import load_metric
from autotune.cache.remote import opened as require_openable
from autotune.candidate import KNOBS, Candidate
from autotune.cli.front import front_document
from autotune.cli.logs import LogContext, LoggedProgress
from autotune.cli.progress import LiveProgress, PlainProgress
from autotune.cli.render import emit_json, print_front_notes, print_trials
from autotune.cli.saying import say
from autotune.data.study_data import load_study_data
from autotune.errors import SpecError
from autotune.records import TrialRecord
from autotune.spec.check import check_load, check_model, model_notes
from autotune.spec.load import load_spec
from autotune.spec.model import StudySpec, see_users_modules
from autotune.store.repository import open_store
from autotune.store.worker import this_worker
from autotune.study.apart import run_apart
from autotune.study.lock import device_lock
from autotune.study.loop import StopSwitch, StudyResult, run_study
from autotune.study.plan import StudyPlan, make_plan
from autotune.trial.isolation import TrialProcess


def checked_plan(
    study_file: str,
    changed: Callable[[StudySpec], StudySpec] = lambda spec: spec,
    overrides: Mapping[str, Any] = MappingProxyType({}),
) -> StudyPlan:
    """The plan of a study file whose model and data were looked at as well. `changed`: what is made of the file's study first.

    `overrides`: as those of `load_spec`.

    Raises SpecError or EnvironmentProblem.
    """
    spec = changed(load_spec(Path(study_file), overrides))
    see_users_modules(spec)
    check_load(spec.load)
    if spec.artifacts is not None:
        require_openable(spec.artifacts)
    plan = make_plan(spec)
    _check_metric(spec)
    data = load_study_data(spec, check_model(spec), plan.cache)
    for note in (*model_notes(spec), *data.notes):
        say(note, before="note: ")
    return plan


def _check_metric(spec: StudySpec) -> None:
    try:
        load_metric(spec.data.metric)
    except SpecError as exc:
        raise SpecError([spec.data.problem("metric", p.found, p.allowed) for p in exc.problems]) from exc


def target_of(plan: StudyPlan, storage: str | None) -> int | None:
    """The target with which the study was started; None where it has not begun."""
    row = open_store(storage or plan.spec.storage).study(plan.spec.study)
    return None if row is None else row.target_trials


def run_here(
    plan: StudyPlan,
    *,
    storage: str | None,
    trials: int | None,
    hours: float | None,
    again: bool = False,
    switch: StopSwitch | None = None,
    logged: LogContext | None = None,
) -> tuple[StudyResult, int]:
    """The study, run in this process with progress on stderr; the exit code is 130 when it was asked to stop.

    `switch`: one that signals press already. `logged`: progress goes to the log, whose lines say this.
    """
    store, worker = open_store(storage or plan.spec.storage), this_worker()
    if logged is not None:
        logged.worker = worker.worker_id
    observer = LoggedProgress(logged) if logged else LiveProgress() if sys.stderr.isatty() else PlainProgress()
    with observer, signals_press(StopSwitch()) if switch is None else nullcontext(switch) as pressed:
        result = run_study(plan, store, worker, observer, pressed, trials=trials, hours=hours, again=again)
    return result, 130 if result.ended == "stopped" else 0


def print_result(result: StudyResult, *, as_json: bool) -> None:
    """The front beside the reference, and where the time went."""
    if as_json:
        emit_json(
            front_document(result.reference, result.front, result.n_trials, result.ties, result.regimes, result.warm_start)
            | {"ended": result.ended, "wall_s": result.wall_s}
        )
        return
    n_trials = sum(result.n_trials.values())
    print_trials(result.front, result.reference, f"Pareto front of {n_trials} trials ({result.ended})")
    print_front_notes(result.front, n_trials, result.n_rounds, result.ties, result.regimes, result.warm_start)
    click.echo("  ".join(f"{name} {share:.1%}" for name, share in time_shares(result).items()))


def time_shares(result: StudyResult) -> dict[str, float]:
    """Share of the wall time by what it was spent on; stages of trials made in this run, search, database, everything else."""
    spent = {"search": result.overhead_s.get("search", 0.0), "database": result.overhead_s.get("store", 0.0)}
    spent["waiting"] = sum(seconds for what, seconds in result.overhead_s.items() if what.startswith("waiting"))
    spent |= {name: result.overhead_s.get(name, 0.0) for name in ("trials", "canary", "finalists")}
    wall = max(result.wall_s, 1e-9)
    shares = {name: seconds / wall for name, seconds in spent.items()}
    return shares | {"everything else": max(0.0, 1 - sum(shares.values()))}


def bench_candidate(study_file: str, settings: Sequence[str]) -> TrialRecord:
    """The record of one candidate, paired with a reference whose predictions are made first if the cache lacks them."""
    plan = checked_plan(study_file)
    candidate = candidate_from_settings(plan, settings)
    with TrialProcess(plan.preload) as process, device_lock(plan.lock_name):
        if candidate == plan.reference:
            return run_apart(plan, process, candidate, None)
        reference = run_apart(plan, process, plan.reference, None, with_load=False)
        if reference.state != "complete":
            return reference
        return run_apart(plan, process, candidate, reference.scores_key)


def bench_candidates(plan: StudyPlan, candidates: Mapping[str, Candidate]) -> dict[str, TrialRecord]:
    """The records of several candidates, by the names given to them, paired with the reference as in `bench_candidate`."""
    with TrialProcess(plan.preload) as process, device_lock(plan.lock_name):
        scores = run_apart(plan, process, plan.reference, None, with_load=False).scores_key
        return {name: run_apart(plan, process, candidate, scores) for name, candidate in candidates.items()}


def candidate_from_settings(plan: StudyPlan, settings: Sequence[str]) -> Candidate:
    """The engine's defaults with the named knobs replaced. Raises SpecError on an unknown knob, engine or value."""
    values = parsed_settings(settings)
    engine = values.get("engine", plan.space.engines[0])
    if engine not in plan.space.engines:
        raise SpecError(f"--set engine={engine}: allowed: {', '.join(plan.space.engines)}")
    for name in values:
        if KNOBS[name].stage == "engine" and name != "engine" and name not in plan.space.knobs_of[engine]:
            raise SpecError(
                f"--set {name}=…: {engine} has no such knob; it has {', '.join(sorted(plan.space.knobs_of[engine]))}"
            )
    return Candidate.from_json({**plan.space.default_candidate(engine).as_json(), **values})


def parsed_settings(settings: Sequence[str]) -> dict[str, Any]:
    """The knobs' values by name. Raises SpecError on an unknown knob or value."""
    values: dict[str, Any] = {}
    for setting in settings:
        name, sep, text = setting.partition("=")
        if not sep or name not in KNOBS:
            raise SpecError(f"--set {setting}: found {name!r}; allowed: KNOB=VALUE with KNOB one of {', '.join(KNOBS)}")
        kind = {"int": int, "float": float, "choice": str}[KNOBS[name].kind]
        try:
            values[name] = kind(text)
        except ValueError as exc:
            raise SpecError(f"--set {setting}: found {text!r}; allowed: a value of kind {KNOBS[name].kind}") from exc
        _require_in_bounds(name, values[name])
    return values


def _require_in_bounds(name: str, value: Any) -> None:
    knob = KNOBS[name]
    if knob.choices and value not in knob.choices:
        raise SpecError(f"--set {name}={value}: allowed: {', '.join(knob.choices)}")
    if (knob.low is not None and value < knob.low) or (knob.high is not None and value > knob.high):
        raise SpecError(f"--set {name}={value}: allowed: {knob.low:g} to {knob.high:g}")


@contextmanager
def signals_press(switch: StopSwitch) -> Iterator[StopSwitch]:
    """Ctrl-C and SIGTERM press the switch while the block runs.

    Once it was pressed, a further SIGTERM does nothing after the block either: the process is about to leave, with what it
    measured stored, and is to say so.
    """
    before = {number: signal.signal(number, switch.press) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield switch
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if switch.count and number == signal.SIGTERM else handler)
