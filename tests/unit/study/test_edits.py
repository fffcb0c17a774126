"""A study whose space was edited: what waits is moved, what Optuna cannot follow is an error that says what to do."""

from __future__ import annotations

import optuna
import pytest
from study_samples import study as spec

from autotune.candidate import Choices
from autotune.errors import SpecError
from autotune.space.capability import SearchSpace
from autotune.space.sampling import PAIR, suggest
from autotune.study.edits import check_edits, move_waiting

PAIRS = (("fake", "fp32"), ("fake", "int8"))


def space(*batches: int, pairs: tuple[tuple[str, str], ...] = PAIRS) -> SearchSpace:
    domains = {"batch_size": Choices(values=batches), "streams": Choices(values=(1, 2, 4))}
    return SearchSpace(pairs=pairs, domains=domains, knobs_of={"fake": frozenset(domains)}, defaults_of={}, removed=())


def test_what_waits_is_moved_to_the_nearest_point() -> None:
    """Batches of 32, drawn by their exponent, become 16, which is not; what was not set stays so; the others are untouched."""
    study, whole = optuna.create_study(), {PAIR: "fake/int8", "log2 batch_size": 5, "log2 streams": 1}
    waiting = [whole, {PAIR: "fake/fp32", "log2 batch_size": 5}, {"log2 batch_size": 5}]
    for params in waiting:
        study.enqueue_trial(params)
    move_waiting(study, space(8, 16, 32))
    assert [t.system_attrs["fixed_params"] for t in study.trials] == waiting
    move_waiting(study, space(8, 16))
    moved = [{**whole, "batch_size": 16}, {PAIR: "fake/fp32", "batch_size": 16}, {"log2 batch_size": 5}]
    del moved[0]["log2 batch_size"]
    assert [t.system_attrs["fixed_params"] for t in study.trials] == moved
    assert suggest(study.ask(), space(8, 16)).batch_size == 16


@pytest.mark.parametrize("after", [(16,), (1, 3, 8), (1, 3, 32, 40)])
def test_choices_that_cannot_change(after: tuple[int, ...]) -> None:
    """Choices without an order keep what they began with; a range, which has one, may grow and shrink."""
    study = optuna.create_study()
    check_edits(study, space(1, 3, 32), spec())
    study.tell(asked := study.ask(), suggest(asked, space(1, 3, 32)).batch_size)
    check_edits(study, space(1, 3, 32), spec())
    with pytest.raises(SpecError, match=r"space\.batch_size.*began, 1, 3, 32; or another name in `study:`"):
        check_edits(study, space(*after), spec())
    check_edits(study, space(8, 16, 32, 64), spec())


def test_engines_and_precisions_cannot_change() -> None:
    """Before any trial, too: a study that begins has them."""
    study = optuna.create_study()
    check_edits(study, space(8), spec())
    fewer = space(8, pairs=PAIRS[:1])
    with pytest.raises(SpecError, match=r"space\.precision.*fake/fp32.*began, fake/fp32, fake/int8"):
        check_edits(study, fewer, spec())
