"""Which library drives the GPU: named, or the first that is there; never the double, unless it is named."""

from __future__ import annotations

import os

import pytest

from autotune.cuda import select
from autotune.cuda.host import HostRuntime
from autotune.errors import EnvironmentProblem, SpecError
from autotune.registry import RUNTIMES

ABSENT = "assets.absent_runtime:AbsentRuntime"


class Usable(HostRuntime):
    """A runtime that has all it needs."""

    name = "usable"
    distributions = ("numpy",)


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine where only the second of three runtimes can be used, and the environment names none."""
    kinds = {"cuda-core": ABSENT, "torch": f"{__name__}:Usable", "pycuda": ABSENT, "host": f"{__name__}:HostRuntime"}
    monkeypatch.setattr(RUNTIMES, "_paths", kinds)
    monkeypatch.setenv(select.VARIABLE, "auto")  # set, so that it is put back


def test_the_first_usable_one_is_taken() -> None:
    """In the order cuda-core, torch, PyCUDA; "auto" and an empty variable name nothing."""
    assert select.DETECTED == ("cuda-core", "torch", "pycuda")
    for said in (None, "", "auto"):
        if said is not None:
            os.environ[select.VARIABLE] = said
        assert select.runtime_name() == "torch"
        assert isinstance(select.selected_runtime(), Usable)
        assert select.runtime_distributions() == ("numpy",)


def test_a_name_is_obeyed_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody who asks for one library gets another; what is missing comes with the line that installs it."""
    monkeypatch.setenv(select.VARIABLE, "pycuda")
    with pytest.raises(EnvironmentProblem, match="pycuda: the package x is not installed") as told:
        select.selected_runtime()
    assert told.value.remedy == "pip install x"
    monkeypatch.setenv(select.VARIABLE, "cudacore")
    with pytest.raises(SpecError, match="allowed: cuda-core, torch, pycuda"):
        select.runtime_name()


def test_where_there_is_none_all_gaps_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The double is not taken for one: it is no GPU."""
    monkeypatch.setitem(RUNTIMES._paths, "torch", ABSENT)
    with pytest.raises(EnvironmentProblem, match=r"cuda-core: .*torch: .*pycuda: ") as told:
        select.runtime_name()
    assert "pip install" in told.value.remedy and "host" not in str(told.value)


def test_the_double_is_had_by_its_name_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests; it is in no list of what a machine can do."""
    assert "host" not in [choice.name for choice in select.runtime_choices()]
    monkeypatch.setenv(select.VARIABLE, "host")
    assert isinstance(select.selected_runtime(), HostRuntime)


def test_a_study_that_names_one_settles_it_for_its_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials are forks; they read the variable. "auto" leaves it as the environment has it."""
    monkeypatch.setenv(select.VARIABLE, "host")
    select.name_runtime("auto")
    assert select.runtime_name() == "host"
    select.name_runtime("torch")
    assert os.environ[select.VARIABLE] == "torch"
    select.name_runtime("pycuda")
    with pytest.raises(EnvironmentProblem):
        select.runtime_name()


def test_choices_tell_what_each_lacks() -> None:
    """What `doctor` prints."""
    found = {choice.name: choice for choice in select.runtime_choices()}
    assert list(found) == ["cuda-core", "torch", "pycuda"]
    assert found["torch"].selected and found["torch"].gap is None and set(found["torch"].versions) == {"numpy"}
    assert found["cuda-core"].gap is not None and found["cuda-core"].gap.remedy == "pip install x"
