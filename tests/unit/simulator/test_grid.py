"""The grid of a space: which values a sweep tries, and which candidates they make."""

from __future__ import annotations

import pytest
from assets.recorded_sweep import table

from autotune.candidate import Choices, Domain, Range
from autotune.errors import SpecError
from autotune.simulator.grid import candidates_of, grid_values, values_of
from autotune.space.capability import SearchSpace


@pytest.mark.parametrize(
    ("knob", "domain", "expected"),
    [
        ("batch_size", Choices(values=(1, 5, 3)), (1, 5, 3)),
        ("batch_size", Range(low=1, high=64, log=True), (1, 2, 4, 8, 16, 32, 64)),
        ("batch_size", Range(low=3, high=20, log=True), (3, 6, 12, 20)),
        ("streams", Range(low=1, high=4), (1, 2, 3, 4)),
        ("streams", Range(low=1, high=101), (1, 26, 51, 76, 101)),
        ("worker_threads", Range(low=2, high=17, step=5), (2, 7, 12, 17)),
        ("pruning_ratio", Range(low=0.0, high=0.5), (0.0, 0.125, 0.25, 0.375, 0.5)),
        ("pruning_ratio", Range(low=0.0, high=0.3, step=0.1), (0.0, 0.1, 0.2, 0.3)),
    ],
)
def test_values_of_a_domain(knob: str, domain: Domain, expected: tuple[float, ...]) -> None:
    """Choices as they are; doublings of a logarithmic range and its end; steps; few whole numbers all, many in five."""
    assert values_of(knob, domain) == expected


def test_what_is_asked_for_must_lie_in_the_space() -> None:
    """--grid names a knob of the study and values inside its domain, each once: a table with one twice could not be read."""
    space = table().space()
    assert grid_values(space, {"streams": (2,)})["streams"] == (2,)
    with pytest.raises(SpecError, match=r"--grid worker_threads=…: allowed: one of pruning_ratio, batch_size, streams"):
        grid_values(space, {"worker_threads": (2,)})
    with pytest.raises(SpecError, match=r"--grid streams: found \[9\]"):
        grid_values(space, {"streams": (1, 9)})
    with pytest.raises(SpecError, match=r"--grid streams: found 1, 2, 1; allowed: each value once"):
        grid_values(space, {"streams": (1, 2, 1)})


def test_every_candidate_once_and_knobs_only_where_they_exist() -> None:
    """Two pairs, of which one engine has streams: 3 × 2 and 3 candidates; a knob that is nobody's reads None."""
    values = {"batch_size": (1, 2, 4), "streams": (1, 2), "pruning_ratio": (0.0,)}
    space = SearchSpace(
        pairs=(("a", "fp32"), ("b", "fp32")),
        domains={knob: Choices(values=v) for knob, v in values.items()},
        knobs_of={"a": frozenset({"batch_size", "streams"}), "b": frozenset({"batch_size"})},
        defaults_of={"a": {}, "b": {}},
        removed=(),
    )
    found = candidates_of(space, grid_values(space, {}))
    assert len(found) == len(set(found)) == 9
    assert {c.streams for c in found if c.engine == "b"} == {None} and {c.worker_threads for c in found} == {None}


def test_a_tables_grid_is_the_product_of_its_values() -> None:
    """The space that a table gives has its points and no others."""
    made = table()
    assert set(candidates_of(made.space(), made.values)) == set(made.by_candidate)
