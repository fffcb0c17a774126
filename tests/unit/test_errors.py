"""The exception tree: two families, exit codes, and facts as fields."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from autotune import errors
from autotune.errors import AutotuneError, CandidateRejected, EnvironmentProblem, SpecError, SpecProblem

ALL = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, Exception)]
REJECTIONS = [kind for kind in ALL if issubclass(kind, CandidateRejected)]


def test_exit_codes_are_the_contract() -> None:
    """2 the input, 3 the machine, 4 the database, 5 a bundle."""
    assert (errors.SpecError.exit_code, errors.EnvironmentProblem.exit_code) == (2, 3)
    assert (errors.StoreError.exit_code, errors.ExportError.exit_code) == (4, 5)


def test_the_two_families_do_not_mix() -> None:
    """The command line must never swallow a rejection, nor a trial a user's error."""
    assert not issubclass(CandidateRejected, AutotuneError)
    assert all(issubclass(kind, AutotuneError) != issubclass(kind, CandidateRejected) for kind in ALL)


def test_every_rejection_has_a_reason_of_its_own() -> None:
    """Rows are counted by it."""
    reasons = [kind.reason for kind in REJECTIONS]
    assert len(set(reasons)) == len(reasons) == 10


@pytest.mark.parametrize("kind", [errors.OutOfMemory, errors.DeadlineExceeded, errors.WorkerCrashed, errors.Unstable])
def test_what_may_go_better_next_time_is_not_deterministic(kind: type[CandidateRejected]) -> None:
    """The cache must not remember these."""
    assert not kind.deterministic


@pytest.mark.parametrize("kind", REJECTIONS)
def test_a_rejection_carries_stage_and_log(kind: type[CandidateRejected]) -> None:
    """Facts are fields; the message is what was given."""
    found = kind("no kernel", stage="engine", log_path=Path("build.log"))
    assert (str(found), found.stage, found.log_path) == ("no kernel", "engine", Path("build.log"))


def test_a_spec_error_lists_every_problem_with_its_place() -> None:
    """file:line: key: found …; allowed: …, as editors jump to it; without a line only the file, without a file nothing."""
    placed = SpecProblem(key="space.streams", found="0", allowed="1…1024", file="study.yaml", line=7)
    unlined = SpecProblem(key="model.path", found="nothing", allowed="a file", file="study.yaml")
    bare = SpecProblem(key="engines", found="'x'", allowed="openvino")
    error = SpecError([placed, unlined, bare])
    assert str(error).splitlines() == [
        "study.yaml:7: space.streams: found 0; allowed: 1…1024",
        "study.yaml: model.path: found nothing; allowed: a file",
        "engines: found 'x'; allowed: openvino",
    ]
    assert error.problems == (placed, unlined, bare)
    assert SpecError("plain").problems == () and str(SpecError("plain")) == "plain"


def test_an_environment_problem_says_what_to_try() -> None:
    """The remedy is a field and part of the message."""
    error = EnvironmentProblem("openvino is missing.", remedy="pip install 'autotune[openvino]'")
    assert str(error) == "openvino is missing. Try: pip install 'autotune[openvino]'"
    assert error.remedy == "pip install 'autotune[openvino]'" and str(EnvironmentProblem("no")) == "no"
