"""Seeds and samplers: a restarted study draws anew, and each sampler stands where it is best."""

from __future__ import annotations

import optuna
import pytest

from autotune.study import strategy
from autotune.study.strategy import GP_UNTIL_TRIALS, fresh_seed, sampler_for


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
        study = optuna.create_study(sampler=sampler_for(0, fresh_seed(0, "w", n_trials)))
        return [study.ask().suggest_float("x", 0, 1) for _ in range(3)]

    assert draws(0) == draws(0) != draws(5)


def test_gaussian_processes_give_way_to_parzen_estimators() -> None:
    """GP below 150 finished trials where torch and scipy are there, TPE from then on."""
    pytest.importorskip("torch")
    pytest.importorskip("scipy")
    assert isinstance(sampler_for(GP_UNTIL_TRIALS - 1, 0), optuna.samplers.GPSampler)
    assert isinstance(sampler_for(GP_UNTIL_TRIALS, 0), optuna.samplers.TPESampler)


@pytest.mark.parametrize("absent", ["torch", "scipy"])
def test_without_torch_or_scipy_parzen_estimators_search(monkeypatch: pytest.MonkeyPatch, absent: str) -> None:
    """No GP without its libraries, and no error either."""
    monkeypatch.setattr(strategy, "find_spec", lambda name: None if name == absent else object())
    assert isinstance(sampler_for(0, 0), optuna.samplers.TPESampler)
