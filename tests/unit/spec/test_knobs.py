"""Rules of a knob's domain: a list, a range or one value, within what the knob can mean."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.candidate import KNOBS, Choices, Range
from autotune.redact import without_password
from autotune.spec.knobs import domain_from_value
from autotune.spec.positions import Faults, Positions, dotted, shown


def domain(knob: str, value: Any) -> tuple[Any, list[str]]:
    faults = Faults(positions=Positions())
    return domain_from_value(KNOBS[knob], value, "k", faults), [p.key for p in faults.problems]


@pytest.mark.parametrize(
    ("knob", "value", "expected"),
    [
        ("batch_size", 4, Choices(values=(4,))),
        ("batch_size", (1, 8), Choices(values=(1, 8))),
        ("batch_size", {"low": 1, "high": 9, "step": 4}, Range(low=1, high=9, step=4)),
        ("pruning_ratio", 0, Choices(values=(0.0,))),
        ("pruning_ratio", {"low": 0.1, "high": 0.5}, Range(low=0.1, high=0.5)),
        ("precision", "int8-tensor", Choices(values=("int8-tensor",))),
        ("builder_level", (3, 5), Choices(values=(3, 5))),
        ("cuda_graph", ("off", "on"), Choices(values=("off", "on"))),
        ("cuda_graph", (True, False), Choices(values=("on", "off"))),  # a bare on and off, as YAML 1.1 reads them
    ],
)
def test_the_three_forms(knob: str, value: Any, expected: object) -> None:
    """A list gives choices, a section a range, a value fixes the knob."""
    assert domain(knob, value) == (expected, [])


@pytest.mark.parametrize(
    ("knob", "value", "keys"),
    [
        ("batch_size", (1, 1), ["k[1]"]),
        ("batch_size", (1, True, 0), ["k[1]", "k[2]"]),
        ("batch_size", {"low": 1.0, "high": 4}, ["k.low"]),
        ("batch_size", {"low": 4, "high": 1}, ["k"]),
        ("batch_size", {"low": 1, "high": 8, "step": 9}, ["k.step"]),
        ("batch_size", {"low": 1, "high": 8, "log": 1}, ["k.log"]),
        ("pruning_ratio", float("nan"), ["k"]),
        ("pruning_ratio", 10**400, ["k"]),  # no float is that large
        ("batch_size", -(10**400), ["k"]),
        ("pruning_ratio", {"low": 0.0, "high": 0.5, "log": True}, ["k.low"]),
        ("precision", ("fp32", "int3", 8), ["k[1]", "k[2]"]),
        ("precision", True, ["k"]),
        ("cuda_graph", ("on", "maybe", True), ["k[1]", "k[2]"]),
    ],
)
def test_what_is_refused_and_where(knob: str, value: Any, keys: list[str]) -> None:
    """Each fault has the key of the very value that is wrong, and no domain comes back."""
    found, problems = domain(knob, value)
    assert problems == keys
    assert found is None


_SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5))
_VALUES = st.one_of(
    _SCALARS,
    st.lists(_SCALARS, max_size=4).map(tuple),
    st.dictionaries(st.sampled_from(["low", "high", "step", "log", "x"]), _SCALARS, max_size=5),
)


@given(knob=st.sampled_from([name for name in KNOBS if name != "engine"]), value=_VALUES)
def test_any_value_gives_a_domain_or_a_fault(knob: str, value: Any) -> None:
    """Whatever YAML can hold is either a domain within the knob's bounds or told, never an exception."""
    found, problems = domain(knob, value)
    assert (found is None) == bool(problems)
    if isinstance(found, Range):
        assert (KNOBS[knob].low or 0) <= found.low < found.high <= (KNOBS[knob].high or 0)


def test_positions_fall_back_to_the_section() -> None:
    """A key that is not in the file is placed at the nearest section that is."""
    positions = Positions(file="s.yaml", lines={"data": ("s.yaml", 3), "data.x[1]": ("s.yaml", 5)})
    assert positions.problem("data.x[1].npz", "a", "b").line == 5
    assert positions.problem("data.y.npz", "a", "b").line == 3
    assert positions.problem("space", "a", "b").line == 1
    assert Positions().problem("space", "a", "b").line is None


def test_values_are_shown_in_the_words_of_yaml() -> None:
    """Messages show true, not True, and keep long values short."""
    assert [shown(True), shown(None), shown((1, "a"))] == ["true", "nothing", "[1, 'a']"]
    assert len(shown("x" * 1000)) < 110
    assert dotted(("priors", 0, "precision")) == "priors[0].precision"
    assert without_password("postgresql://u:p@h/d") == "postgresql://u:***@h/d"
