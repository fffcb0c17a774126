"""What must hold of a study that met faults, against one of the same candidates that met none."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autotune.candidate import Candidate
from autotune.records import FINISHED, TrialRecord
from autotune.spec.load import load_spec
from autotune.spec.model import StudySpec
from autotune.store.repository import SEARCHED, open_store
from autotune.study.comparison import Comparison
from autotune.study.objectives import objectives_of
from autotune.study.scoring import comparable, front, of_present_regime

_TOLD = re.compile(r"trial=(\d+) state=(\w+)")


def records_of(url: str, study: str) -> list[TrialRecord]:
    """The study's finished search trials."""
    store = open_store(url)
    row = store.study(study)
    found = [] if row is None else store.trials(row.id, FINISHED, SEARCHED)
    store.close()
    return found


def violations(
    url: str, study: str, study_file: Path, wanted: Sequence[Candidate], logs: Sequence[Path], calm: Sequence[TrialRecord]
) -> list[str]:
    """Everything that does not hold, in words; empty where all does."""
    store = open_store(url)
    row = store.study(study)
    if row is None:
        return ["the study is not in the database"]
    found, running = store.trials(row.id, FINISHED, SEARCHED), store.running(row.id)
    stored_front = store.front_numbers(row.id)
    store.close()
    spec = load_spec(study_file)
    wrong = [f"{t.role} trial {t.number} runs for ever" for t in running]
    wrong += _each_once(found, wanted)
    wrong += _told_and_stored(found, logs)
    wrong += _optuna(url, study, found)
    members = front(found, spec)
    if stored_front != tuple(sorted(r.number for r in members)):
        wrong.append(f"the stored front {stored_front} is not that of the trials")
    return wrong + _accuracies(found, calm) + front_differences(found, calm, spec)


def _each_once(found: Sequence[TrialRecord], wanted: Sequence[Candidate]) -> list[str]:
    names = [r.candidate for r in found]
    wrong = [f"{c} is there {names.count(c)} times" for c in dict.fromkeys(names) if names.count(c) > 1]
    wrong += [f"{c} is not there" for c in wanted if c not in names]
    wrong += [f"{c} was not asked for" for c in names if c not in wanted]
    return wrong + [
        f"trial {r.number} is {r.state}: {r.reject.message.splitlines()[0] if r.reject else ''}"
        for r in found
        if r.state != "complete"
    ]


def _told_and_stored(found: Sequence[TrialRecord], logs: Sequence[Path]) -> list[str]:
    """What a process said that it had stored must be there, as it said."""
    stored = {r.number: r.state for r in found}
    told = {(int(n), state) for log in logs if log.exists() for n, state in _TOLD.findall(log.read_text(errors="replace"))}
    return [f"trial {n} was {state} and is {stored.get(n, 'lost')}" for n, state in sorted(told) if stored.get(n) != state]


def _optuna(url: str, study: str, found: Sequence[TrialRecord]) -> list[str]:
    import optuna

    from autotune.store.connection import parse_url

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    full = parse_url(url).render_as_string(hide_password=False)
    trials = optuna.load_study(study_name=study, storage=full).get_trials(deepcopy=False)
    wrong = [f"Optuna's trial {t.number} runs for ever" for t in trials if t.state.name == "RUNNING"]
    finished = {r.number for r in found}
    states = {t.number: t.state.name for t in trials}
    # A trial that was put back and then carried over is told under the number under which it was asked for again.
    again = {t.user_attrs["duplicate_of"] for t in trials if "duplicate_of" in t.user_attrs}
    return wrong + [f"Optuna does not know trial {n}" for n in finished - again if states.get(n) != "COMPLETE"]


def _accuracies(found: Sequence[TrialRecord], calm: Sequence[TrialRecord]) -> list[str]:
    """A damaged artifact that was used, or another candidate's answers, would show here: accuracy has no noise."""
    expected = {r.candidate: r.accuracy.value for r in calm if r.accuracy}
    return [
        f"{r.candidate} has the accuracy {r.accuracy.value}, without faults {expected[r.candidate]}"
        for r in found
        if r.accuracy and r.candidate in expected and r.accuracy.value != expected[r.candidate]
    ]


def front_differences(found: Sequence[TrialRecord], calm: Sequence[TrialRecord], spec: StudySpec) -> list[str]:
    """Members of one front that the other study holds to be dominated for certain.

    For each candidate in one front and not in the other: a member of the other front must not be better than it in some
    objective beyond noise while it is better than that member in none. "Beyond noise" is the project's own rule
    (study.comparison), applied to the measurements of the study whose front the candidate is not in.
    """
    return [
        *_missing(front(calm, spec), found, spec, "in the front without faults, and dominated with them"),
        *_missing(front(found, spec), calm, spec, "in the front with faults, and dominated without them"),
    ]


def _missing(members: Sequence[TrialRecord], others: Sequence[TrialRecord], spec: StudySpec, what: str) -> list[str]:
    usable = of_present_regime(comparable(others, spec))
    comparison, objectives = Comparison(usable), objectives_of(spec)
    there = front(others, spec)
    by_candidate = {r.candidate: r for r in usable}
    wrong = []
    for member in members:
        own = by_candidate.get(member.candidate)
        if own is None:
            wrong += [f"{member.candidate} is {what}: it has no comparable measurement there"] if others else []
            continue
        for rival in there:
            worse = any(comparison.is_better(rival, own, o) for o in objectives)
            if worse and not any(comparison.is_better(own, rival, o) for o in objectives):
                wrong.append(f"{member.candidate} is {what}, by {rival.candidate}")
                break
    return wrong


def damaged_artifacts(cache: Path) -> list[str]:
    """Artifacts of the cache whose files are not those of their manifests: nobody asked for them since they were damaged."""
    from autotune.fingerprint import file_digest

    found = []
    for manifest in sorted(cache.glob("*/[!.]*/artifact.json")):
        try:
            files: dict[str, Any] = json.loads(manifest.read_text())["files"]
            if any(file_digest(manifest.parent / name) != digest for name, digest in files.items()):
                found.append(manifest.parent.name)
        except (OSError, ValueError, KeyError):
            found.append(manifest.parent.name)
    return found
