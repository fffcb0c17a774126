"""A trial is tried twice at most, whatever ended the first try, also over restarts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from study_samples import candidate, record, rejected
from virtual_study import VirtualMachine, request, session

from autotune.errors import EnvironmentProblem
from autotune.records import PROCESS_ENDED, Rejection, TrialRecord
from autotune.study.loop import _stop_if_nothing_runs
from autotune.study.observer import Silent
from autotune.study.session import StudySession
from autotune.study.tries import tried

CANDIDATE = candidate(streams=1)


@dataclass
class Noted(Silent):
    """Remembers what was noted."""

    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        self.notes.append(text)


def crashed(number: int = 7, reason: str = "worker_crashed", **changes: Any) -> TrialRecord:
    reject = Rejection(reason=reason, stage="load", message="the trial's process was ended by SIGSEGV\n log line")
    return replace(rejected(number, "crashed"), candidate=CANDIDATE, reject=reject, flags=(PROCESS_ENDED,), **changes)


def answers(*found: TrialRecord) -> Callable[[], TrialRecord]:
    """The records, one per call."""
    left = iter(found)
    return lambda: next(left)


@pytest.fixture
def run(tmp_path: Path) -> StudySession:
    found = session(tmp_path, VirtualMachine(truth=lambda c: 100.0))
    found.observer = Noted()
    return found


def asked(run: StudySession, number: int = 7, role: Any = "search") -> Any:
    return request(run, number, role, CANDIDATE)


def test_one_crash_is_tried_again(run: StudySession) -> None:
    """The second try's record stands; the person is told of the first."""
    good = replace(record(7), candidate=CANDIDATE)
    assert tried(run, asked(run), answers(crashed(), good)) == good
    assert isinstance(run.observer, Noted) and "tried once more" in run.observer.notes[0]
    assert "SIGSEGV" in run.observer.notes[0]


def test_two_crashes_are_a_rejection_with_both_reasons(run: StudySession) -> None:
    """No third try; the record is rejected for the last reason, and tells of both."""
    found = tried(run, asked(run), answers(crashed(), crashed(reason="deadline_exceeded")))
    assert found.state == "rejected" and found.reject is not None and found.reject.reason == "deadline_exceeded"
    assert found.reject.message.startswith("2 tries failed, so it is not tried again")
    assert "log line" in found.reject.message


def test_tries_are_remembered_over_restarts(run: StudySession, tmp_path: Path) -> None:
    """A crash, then a worker killed by its trial: the next worker does not try at all."""
    with pytest.raises(StopIteration):  # this worker ends after the first crash
        tried(run, asked(run), answers(crashed()))
    again = session(tmp_path, VirtualMachine(truth=lambda c: 100.0))
    begun = again.store.begin_trial(again.study.id, 8, "search", CANDIDATE, again.worker)
    assert again.store.bury_trial(again.study.id, begun, again.worker)
    found = tried(again, asked(again, 9), answers())
    assert found.state == "rejected" and found.number == 9 and found.reject is not None
    assert found.reject.reason == "worker_died" and "SIGSEGV" in found.reject.message


def test_the_references_tries_are_not_remembered(run: StudySession, tmp_path: Path) -> None:
    """Without it nothing runs, so a later start tries it anew, twice."""
    tried(run, asked(run, 0, "reference"), answers(crashed(0), crashed(0)))
    good = replace(record(0), candidate=CANDIDATE)
    assert tried(run, asked(run, 0, "reference"), answers(crashed(0), good)) == good


def test_a_rejection_of_its_own_is_no_failed_try(run: StudySession) -> None:
    """A build that fails was found out by a healthy process: it is not repeated."""
    found = replace(rejected(7), candidate=CANDIDATE)
    assert tried(run, asked(run), answers(found)) == found
    assert run.store.failed_tries(run.study.id, "search", CANDIDATE, 7) == []


def test_a_sticky_device_error_is_tried_in_a_fresh_process(run: StudySession) -> None:
    """CUDA's sticky errors end with their process; the next process has a device again."""
    lost = replace(rejected(7), candidate=CANDIDATE, reject=Rejection(reason="device_fault", stage="load", message="700"))
    good = replace(record(7), candidate=CANDIDATE)
    assert tried(run, asked(run), answers(lost, good)) == good


# When everything fails


def failing(reasons: Sequence[str]) -> list[TrialRecord]:
    return [
        replace(rejected(i), reject=Rejection(reason=r, stage="load", message=f"message {i}")) for i, r in enumerate(reasons)
    ]


@pytest.mark.parametrize(
    ("reasons", "message"),
    [
        (["worker_crashed"] * 8, r"nothing runs any more: the last 8 trials .*worker_crashed.*message 7"),
        (["deadline_exceeded", "worker_died"] * 4, "nothing runs any more"),
        (["device_fault"] * 3, "the device stays broken.*reset of the device"),
        (["build_failed"] * 40, "nothing runs any more"),
    ],
)
def test_a_study_in_which_everything_fails_stops_and_says_so(reasons: list[str], message: str) -> None:
    """Eight whose processes died, three that lost the device, or forty that failed in any way, without one that ran."""
    _stop_if_nothing_runs([record(90), *failing(reasons[1:])])
    with pytest.raises(EnvironmentProblem, match=message):
        _stop_if_nothing_runs([record(90), *failing(reasons)])


def test_inaccurate_candidates_are_no_reason_to_stop() -> None:
    """They ran: a study whose candidates are all too inaccurate is not broken."""
    _stop_if_nothing_runs(failing(["accuracy_too_low"] * 100))
    _stop_if_nothing_runs(failing(["worker_crashed"] * 7 + ["accuracy_too_low"]))
