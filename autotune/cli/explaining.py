"""From trials to explanations: who can be explained, the profiles of their engines, and the document."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from autotune.cli.context import OpenStudy
from autotune.cli.render import reject_line
from autotune.errors import CandidateRejected, EnvironmentProblem, SpecError
from autotune.explain.comparison import compare
from autotune.explain.document import CAVEATS, comparison_document, subject_document
from autotune.explain.explanation import explain
from autotune.explain.subject import Subject
from autotune.explain.verdict import comparison_verdict, verdict
from autotune.records import TrialRecord
from autotune.spec.model import see_users_modules
from autotune.study.lock import device_lock
from autotune.study.machine import engines_here, lock_name
from autotune.trial.artifacts import cache_root_of
from autotune.trial.isolation import TrialProcess
from autotune.trial.profile import TrialProfile
from autotune.trial.request import TrialRequest

_HAS_ENGINE = ("open", "accuracy", "load")
"""Stages that come after the engine was built."""
_KILLS_ITS_PROCESS = ("worker_crashed", "worker_died")
"""Reasons of trials whose engine would take the profiling process along as well."""


def require_engine(record: TrialRecord) -> None:
    """Returns when the trial had an engine that ran or might have. Raises SpecError saying what became of it otherwise."""
    if record.state == "complete":
        return
    why = record.reject
    if record.state == "rejected" and why is not None and why.stage in _HAS_ENGINE and why.reason not in _KILLS_ITS_PROCESS:
        return
    raise SpecError(
        f"trial {record.number} has no engine to explain: {reject_line(record)}. allowed: a trial that is complete, or was "
        "rejected after its engine was built"
    )


def profiled(found: OpenStudy, records: Sequence[TrialRecord], n_runs: int) -> tuple[list[Subject], list[str]]:
    """The trials' profiles, one after the other on a device that nobody else measures on meanwhile."""
    see_users_modules(found.spec)
    names = tuple(dict.fromkeys(r.candidate.engine for r in records))
    kind, engines = engines_here(found.spec.model_copy(update={"engines": names}))
    preload = tuple(dict.fromkeys(m for backend, _ in engines.values() for m in backend.preload))
    lock = lock_name(kind)
    with TrialProcess(preload) as process, device_lock(lock, _said_once(f"waiting: another process measures on {lock}")):
        profiles = [_profile(found, record, n_runs, process) for record in records]
    labels = _labels(records)
    subjects = [_subject(r, p, label) for r, p, label in zip(records, profiles, labels, strict=True)]
    notes = [note for r, p in zip(records, profiles, strict=True) for note in _notes(r, p)]
    return subjects, [*dict.fromkeys(note for p in profiles for note in p.report.notes), *notes]


def _said_once(text: str) -> Callable[[], bool]:
    """Asked while waiting, it says so the first time, and never ends the wait."""
    said: list[str] = []

    def ask() -> bool:
        if not said:
            said.append(text)
            click.echo(text, err=True)
        return False

    return ask


def _profile(found: OpenStudy, record: TrialRecord, n_runs: int, process: TrialProcess) -> TrialProfile:
    click.echo(f"profiling trial {record.number} [{record.candidate}]", err=True)
    with tempfile.TemporaryDirectory() as folder:
        request = TrialRequest(
            spec=found.spec,
            number=record.number,
            role="bench",
            candidate=record.candidate,
            cache_root=cache_root_of(found.spec),
            log_path=Path(folder) / "explain.log",
        )
        try:
            return process.profile(request, n_runs)
        except CandidateRejected as exc:
            raise EnvironmentProblem(
                f"trial {record.number} could not be profiled, it failed in stage {exc.stage} ({exc.reason}): {exc}.",
                remedy=f"autotune show {found.row.name} {record.number}, and whether it still runs: autotune bench",
            ) from exc


def _labels(records: Sequence[TrialRecord]) -> list[str]:
    """How the trials are called in sentences: by what they differ in, and by number where that does not tell them apart."""
    precisions = [r.candidate.precision for r in records]
    pairs = [f"{r.candidate.engine} {r.candidate.precision}" for r in records]
    if len({r.candidate.engine for r in records}) == 1 and len(set(precisions)) == len(records):
        return precisions
    if len(set(pairs)) == len(records):
        return pairs
    return [f"{pair} (trial {r.number})" for pair, r in zip(pairs, records, strict=True)]


def _subject(record: TrialRecord, profile: TrialProfile, label: str) -> Subject:
    return Subject(
        label=label,
        engine=record.candidate.engine,
        precision=record.candidate.precision,
        batch_size=record.candidate.batch_size,
        report=profile.report,
        outline=profile.outline,
        plain_us=profile.plain_us,
        measured=record.throughput_items_per_s,
    )


def _notes(record: TrialRecord, profile: TrialProfile) -> list[str]:
    """What of this trial's profile is not as it was measured."""
    notes = []
    asked, ran = record.candidate, profile.candidate
    if asked.streams is not None and asked.streams > 1:
        threads = "" if ran.worker_threads is None else f" with {ran.worker_threads} of its {asked.worker_threads} threads"
        notes.append(f"trial {record.number} was profiled on one of its {asked.streams} streams{threads}")
    then, now = record.variant, profile.variant_key
    if then is not None and then.key != now:
        notes.append(
            f"trial {record.number} was measured on the variant {then.key}, and {now} is what is made today: the model, the "
            "data or a library changed since, so this explains today's"
        )
    elif record.engine_key is not None and record.engine_key != profile.engine_key:
        notes.append(f"trial {record.number}'s engine was built with other versions or on another device than today's")
    return notes


def explain_document(subjects: Sequence[Subject], records: Sequence[TrialRecord], notes: Sequence[str]) -> dict[str, Any]:
    """The document of `explain --json`, without the study's name."""
    parts = [explain(s) for s in subjects]
    documents = [
        {"trial": r.number, "candidate": r.candidate.as_json()} | subject_document(s, e)
        for s, r, e in zip(subjects, records, parts, strict=True)
    ]
    document: dict[str, Any] = {"trial": documents[0], "against": None, "comparison": None}
    sentences = verdict(subjects[0], parts[0])
    if len(subjects) > 1:
        comparison = compare(subjects[0], subjects[1])
        document |= {"against": documents[1], "comparison": comparison_document(comparison)}
        sentences = comparison_verdict(subjects[0], subjects[1], parts[0], parts[1], comparison)
    return document | {"verdict": list(sentences), "caveats": [*CAVEATS, *notes]}
