"""Proposer: Optuna's ask and tell on a database, where crashes and other workers come in between."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from sqlalchemy.exc import OperationalError
from study_samples import candidate, record, rejected, study
from test_reporting import again

from autotune.candidate import Choices
from autotune.errors import SpecError
from autotune.space.sampling import PAIR, distributions_of
from autotune.store.retry import Patience
from autotune.study.plan import StudyPlan, make_plan
from autotune.study.proposer import Proposer

SPACE = {"precision": Choices(values=("fp32", "fp16")), "streams": Choices(values=(1, 2, 3, 4))}


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'study.db'}"


def plan(**sections: Any) -> StudyPlan:
    return make_plan(study(**({"space": SPACE} | sections)))


def trials(url: str) -> list[optuna.trial.FrozenTrial]:
    """What Optuna has stored, read by itself."""
    return optuna.load_study(study_name="s", storage=url).trials


def test_priors_are_asked_for_first_and_once(url: str) -> None:
    """The engine's defaults come first, before and after a restart enqueued only once."""
    proposer = Proposer(plan(), url, "w")
    proposer.enqueue_first(plan().priors)
    Proposer(plan(), url, "w").enqueue_first(plan().priors)
    assert len(trials(url)) == 1
    found = proposer.ask(0)
    # worker_threads is not in the study's space, and so left to the engine.
    assert (found.number, found.candidate) == (0, candidate(streams=1))


def test_what_a_study_took_over_is_kept_with_it(url: str) -> None:
    """For whoever opens it next; that it took over nothing is kept as well."""
    proposer, origins = Proposer(plan(), url, "w"), {candidate(streams=2): "before", candidate(streams=1): "older"}
    assert proposer.warm_start() is None
    proposer.keep_warm_start({})
    assert Proposer(plan(), url, "v").warm_start() == {}
    proposer.keep_warm_start(origins)
    assert Proposer(plan(), url, "v").warm_start() == origins


def test_tell_stores_values_constraints_and_what_people_read(url: str) -> None:
    """Values in the study's order; constraints by name; the reject reason in optuna-dashboard's attributes."""
    proposer = Proposer(plan(constraints={"throughput": 50}), url, "w")
    first, second = proposer.ask(0).number, proposer.ask(0).number
    good = record(first)
    proposer.tell(first, good, [])
    proposer.tell(second, rejected(second), [good])
    stored = trials(url)
    assert stored[first].values == [0.9, 100] and stored[second].values == [0.9, 100]
    assert stored[first].constraints == {"runs": -1, "throughput": -1} and stored[second].constraints["runs"] == 1
    assert stored[second].user_attrs["reject"] == "build_failed in engine: no"
    assert stored[first].user_attrs["accuracy"] == "0.9 [0.9, 0.9]"


def test_telling_twice_changes_nothing(url: str) -> None:
    """After a crash between save and tell nobody knows whether it was told: the second time is ignored."""
    proposer = Proposer(plan(), url, "w")
    number = proposer.ask(0).number
    proposer.tell(number, record(number), [])
    proposer.tell(number, record(number, accuracy=0.1), [])
    assert trials(url)[number].values == [0.9, 100]
    assert not proposer.is_running(number)


def test_a_trial_that_is_put_back_is_asked_for_again(url: str) -> None:
    """The interrupted trial fails without values, and its very candidate is proposed next, under a new number."""
    proposer = Proposer(plan(), url, "w")
    lost = proposer.ask(0)
    proposer.put_back(lost.number)
    again = proposer.ask(0)
    assert again.candidate == lost.candidate and again.number > lost.number
    assert trials(url)[lost.number].state == optuna.trial.TrialState.FAIL
    proposer.put_back(lost.number)  # it is over already: nothing happens
    assert len(trials(url)) == 2


def test_an_enqueued_trial_that_was_never_drawn_keeps_its_parameters(url: str) -> None:
    """Killed between Optuna's ask and the first draw, a prior has fixed parameters only: they are put back too."""
    proposer = Proposer(plan(), url, "w")
    proposer.enqueue_first(plan().priors)
    number = optuna.load_study(study_name="s", storage=url).ask().number
    assert proposer.unfinished() == {number: None}
    proposer.put_back(number)
    assert proposer.ask(0).candidate == candidate(streams=1)


def test_an_enqueued_trial_that_was_half_drawn_keeps_its_parameters(url: str) -> None:
    """Killed between two draws, a prior has drawn its engine and precision: what is put back is the whole prior."""
    proposer = Proposer(plan(), url, "w")
    prior = candidate(precision="fp16", streams=3)
    proposer.enqueue_first([prior])
    trial = optuna.load_study(study_name="s", storage=url).ask()
    name, distribution = next(iter(distributions_of(plan().space).items()))
    assert name == PAIR and isinstance(distribution, optuna.distributions.CategoricalDistribution)
    trial.suggest_categorical(PAIR, distribution.choices)
    proposer.put_back(trial.number)
    assert proposer.ask(0).candidate == prior


@pytest.mark.parametrize("noted", [False, True], ids=["between ask and draw", "while the sampler notes something in it"])
def test_a_trial_that_others_put_back_while_it_is_asked_for_is_left_to_them(
    url: str, monkeypatch: pytest.MonkeyPatch, noted: bool
) -> None:
    """Another worker sweeps meanwhile: the prior comes under a new number, nothing is raised."""
    proposer, other = Proposer(plan(), url, "w"), Proposer(plan(), url, "other")
    prior = candidate(precision="fp16", streams=3)
    proposer.enqueue_first([prior])
    numbers: list[int] = []
    ask = optuna.Study.ask

    def swept(study: optuna.Study, *args: Any, **kwargs: Any) -> optuna.Trial:
        trial = ask(study, *args, **kwargs)
        numbers.append(trial.number)
        if len(numbers) == 1 and other.suspect(trial.number):
            other.put_back(trial.number)
        if noted:
            study._storage.set_trial_system_attr(trial._trial_id, "generation", 0)
        return trial

    monkeypatch.setattr(optuna.Study, "ask", swept)
    found = proposer.ask(0)
    assert found.candidate == prior and [found.number] == numbers[1:]
    assert [t.state.name for t in trials(url)] == ["FAIL", "RUNNING"]


def test_unfinished_trials_come_with_their_candidates(url: str) -> None:
    """What another process asked for and has not told."""
    found = Proposer(plan(), url, "dead").ask(0)
    assert Proposer(plan(), url, "w").unfinished() == {found.number: found.candidate}


def test_the_reference_takes_number_zero_once(url: str) -> None:
    """It is shown in the dashboard, but no sampler learns from it; a study that has trials gets no second one."""
    proposer = Proposer(plan(), url, "w")
    proposer.note_reference(record(0))
    proposer.note_reference(record(0))
    assert [t.state for t in trials(url)] == [optuna.trial.TrialState.FAIL]
    assert proposer.ask(0).number == 1


def test_unseen_candidates_until_the_space_is_exhausted(url: str) -> None:
    """2 precisions × 4 streams: seven seen leaves the eighth to be asked for; all eight seen leaves none."""
    proposer = Proposer(plan(), url, "w")
    everything = [candidate(precision=p, streams=s) for p in ("fp32", "fp16") for s in (1, 2, 3, 4)]
    assert proposer.enqueue_unseen(frozenset(everything[:-1]))
    assert proposer.ask(0).candidate == everything[-1]
    assert not proposer.enqueue_unseen(frozenset(everything))


def test_a_study_keeps_its_engines_and_precisions(url: str) -> None:
    """Optuna cannot change a parameter's choices: another set is refused with the one it began with; streams may change."""
    Proposer(plan(), url, "w")
    Proposer(plan(space=SPACE | {"streams": Choices(values=(1, 2))}), url, "w")
    with pytest.raises(SpecError, match="fake/fp32, fake/fp16"):
        Proposer(plan(space={"precision": Choices(values=("fp32",))}), url, "w")


def test_two_workers_get_numbers_and_draws_of_their_own(url: str) -> None:
    """The same study and seed, asked in turn by two workers: eight numbers, and not the same draw twice in a row throughout."""
    workers = [Proposer(plan(), url, name) for name in ("a", "b")]
    found = [worker.ask(0) for _ in range(4) for worker in workers]
    assert [p.number for p in found] == list(range(8))
    assert [p.candidate for p in found[0::2]] != [p.candidate for p in found[1::2]]


def test_the_dashboard_hears_of_finalists(url: str) -> None:
    """A finished trial's attributes cannot change, so the study's name what was measured again, with its interval."""
    proposer = Proposer(plan(), url, "w")
    proposer.note_finalists([record(3, rate=200.0, half=5.0, repetitions=(again("final", 1, 200.0),)), record(4)])
    attributes = optuna.load_study(study_name="s", storage=url).user_attrs
    assert attributes["trial 3, measured again"] == "200 [195, 205] items/s over 1 more processes"
    assert "trial 4, measured again" not in attributes


# While the database is away


class Unsteady:
    """Optuna's storage on a database that fails before, or after, every n-th write."""

    def __init__(self, storage: Any, *, every: int, after: bool) -> None:
        self._storage, self._every, self._after, self._n = storage, every, after, 0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._storage, name)
        if not callable(found) or not name.startswith(("set_", "create_", "get_all")):
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            self._n += 1
            fails = self._n % self._every == 0
            if fails and not self._after:
                raise _gone()
            answer = found(*args, **kwargs)
            if fails:
                raise _gone()
            return answer

        return call


def _gone() -> Exception:
    fault = optuna.exceptions.StorageInternalError("An exception is raised during the commit.")
    fault.__cause__ = OperationalError("INSERT", {}, Exception("database is locked"))
    return fault


@pytest.mark.parametrize("after", [False, True], ids=["lost", "only the answer lost"])
def test_every_call_comes_through_an_unsteady_database(url: str, after: bool) -> None:
    """Whether the write arrived or not, every trial is told once, nothing is told twice, and what an ask left is found."""
    patience = Patience(for_s=60, sleep=lambda s: None)
    proposer = Proposer(plan(), url, "w", patience=patience)
    proposer._study._storage = Unsteady(proposer._study._storage, every=31, after=after)
    proposer.enqueue_first(plan().priors)
    told = []
    for _ in range(4):
        found = proposer.ask(len(told))
        proposer.tell(found.number, record(found.number), [])
        told.append(found.number)
    lost = proposer.ask(4)
    proposer.put_back(lost.number)
    proposer.drop(proposer.ask(4).number)
    for number in proposer.unfinished():  # an ask whose answer was lost, as recovery does it
        proposer.put_back(number)
    states = {t.number: t.state.name for t in trials(url)}
    assert [states[n] for n in told] == ["COMPLETE"] * 4 and states[lost.number] == "FAIL"
    assert "RUNNING" not in states.values() and patience.n_absences >= 2
    assert all(t.constraints == {"runs": -1} for t in trials(url) if t.state.name == "COMPLETE")


def test_what_waits_is_built_ahead_first(url: str) -> None:
    """In the order in which it is asked for, whatever the strategy; what is built already is passed over."""
    proposer = Proposer(plan(), url, "w", strategy="random")
    enqueued = [candidate(streams=2), candidate(precision="fp16", streams=1)]
    proposer.enqueue_first(enqueued)
    assert proposer.next_build(lambda c: False, ("engine",)) == enqueued[0]
    assert proposer.next_build([enqueued[0]].__contains__, ("engine",)) == enqueued[1]
    assert proposer.next_build(enqueued.__contains__, ("engine",)) is None


def test_then_what_the_strategy_wants_is_built_ahead(url: str) -> None:
    """A trial built fp32, nobody fp16: that is named until it is said to be built."""
    proposer, stages = Proposer(plan(), url, "w"), ("prune", "variant", "engine")
    proposer.enqueue_first([candidate(streams=2)])
    first = proposer.ask(0)
    done = replace(record(first.number), candidate=first.candidate, stage_s={"variant": 1.0, "engine": 1.0, "load": 1.0})
    proposer.tell(first.number, done, [])
    wanted = proposer.next_build(lambda c: False, stages)
    assert wanted is not None and wanted.precision == "fp16"
    proposer.note_built(wanted, stages)
    assert proposer.next_build(lambda c: False, stages) is None


def test_what_a_trial_tried_to_build_is_not_named_for_ever(url: str) -> None:
    """The strategy still lacks it, the builder has seen its trial fail: it is taken for done."""
    proposer = Proposer(plan(), url, "w")
    first = proposer.ask(0)
    proposer.tell(first.number, record(first.number), [])
    asked: list[Any] = []

    def is_built(c: Any) -> bool:
        asked.append(c)
        return True

    assert proposer.next_build(is_built, ("variant",)) is None
    assert 1 <= len(asked) <= 4


def test_a_strategy_that_knows_no_stages_names_nothing(url: str) -> None:
    """Random draws tell nothing of what is drawn next."""
    proposer = Proposer(plan(), url, "w", strategy="random")
    first = proposer.ask(0)
    proposer.tell(first.number, record(first.number), [])
    assert proposer.next_build(lambda c: False, ("variant",)) is None
    proposer.note_built(first.candidate, ("variant",))
