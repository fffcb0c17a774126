"""Seeds and samplers: a restarted study draws anew, and each sampler stands where it is best."""

from __future__ import annotations

import optuna
import pytest
from study_samples import study

from autotune.errors import SpecError
from autotune.registry import STRATEGIES
from autotune.study import strategy
from autotune.study.plan import make_plan
from autotune.study.strategy import GP_UNTIL_TRIALS, fresh_seed, strategy_named


def sampler_of(name: str, n_finished: int, seed: int = 0) -> optuna.samplers.BaseSampler:
    """What the strategy of that name proposes with."""
    return strategy_named(name, make_plan(study())).sampler(n_finished, seed)


def test_every_start_has_a_seed_of_its_own() -> None:
    """Workers, restarts and studies differ; the same one is repeatable; a seed fits into 32 bits, as numpy wants it."""
    seeds = {fresh_seed(base, worker, n) for base in (0, 1) for worker in ("a", "b") for n in range(50)}
    assert len(seeds) == 200 and all(0 <= seed < 2**32 for seed in seeds)
    assert fresh_seed(0, "a", 3) == fresh_seed(0, "a", 3)


def test_numbers_do_not_run_into_each_other() -> None:
    """Study 1 with 11 trials is not study 11 with 1."""
    assert fresh_seed(1, "", 11) != fresh_seed(11, "", 1) and fresh_seed(1, "1", 1) != fresh_seed(1, "", 11)


def test_a_restart_does_not_repeat_the_first_draws() -> None:
    """With the seed of a study that has 5 trials, the first draws differ from those of the empty study."""

    def draws(n_trials: int) -> list[float]:
        study = optuna.create_study(sampler=sampler_of("gp", 0, fresh_seed(0, "w", n_trials)))
        return [study.ask().suggest_float("x", 0, 1) for _ in range(3)]

    assert draws(0) == draws(0) != draws(5)


def test_gaussian_processes_give_way_to_parzen_estimators() -> None:
    """GP below 150 finished trials where torch and scipy are there, TPE from then on."""
    pytest.importorskip("torch")
    pytest.importorskip("scipy")
    assert isinstance(sampler_of("gp", GP_UNTIL_TRIALS - 1), optuna.samplers.GPSampler)
    assert isinstance(sampler_of("gp", GP_UNTIL_TRIALS), optuna.samplers.TPESampler)


@pytest.mark.parametrize("absent", ["torch", "scipy"])
def test_without_torch_or_scipy_parzen_estimators_search(monkeypatch: pytest.MonkeyPatch, absent: str) -> None:
    """No GP without its libraries, and no error either."""
    monkeypatch.setattr(strategy, "find_spec", lambda name: None if name == absent else object())
    assert isinstance(sampler_of("gp", 0), optuna.samplers.TPESampler)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("cost-aware", "CostAwareSampler"),
        ("tpe", "TPESampler"),
        ("nsga2", "NSGAIISampler"),
        ("random", "RandomSampler"),
    ],
)
def test_every_strategy_can_be_chosen_by_name(name: str, kind: str) -> None:
    """`search: {strategy: …}`; the names are the registry's."""
    assert name in STRATEGIES.names()
    assert type(sampler_of(name, 20)).__name__ == kind


def test_an_unknown_strategy_names_those_there_are() -> None:
    """A registry that outsiders may add to says what it holds."""
    with pytest.raises(SpecError, match="cost-aware, gp, tpe, nsga2, random"):
        sampler_of("grid", 0)


def test_the_cost_aware_sampler_lives_as_long_as_the_study() -> None:
    """It remembers what it learnt; only its seed is new for each proposal."""
    chosen = strategy_named("cost-aware", make_plan(study()))
    assert chosen.sampler(0, 1) is chosen.sampler(5, 2) and chosen.weighs_priors
    assert not strategy_named("gp", make_plan(study())).weighs_priors
