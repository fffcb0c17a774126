"""Which sampler proposes next: Gaussian processes while trials are few, tree-structured Parzen estimators afterwards."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

GP_UNTIL_TRIALS = 150
"""Beyond about 150 finished trials a GP's proposal takes longer than it saves (3.5 s at 300, 15 s at 1,000; two cores)."""
STARTUP_TRIALS = 10


def fresh_seed(base: int, worker_id: str, n_trials: int) -> int:
    """A seed that no earlier start of this study had: with the same one a restarted sampler would repeat its first draws."""
    text = f"{base}/{worker_id}/{n_trials}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:4], "big")


def sampler_for(n_finished: int, seed: int) -> BaseSampler:
    """GP below GP_UNTIL_TRIALS where torch and scipy are installed, else TPE; both multi-objective and with constraints."""
    import optuna

    if n_finished < GP_UNTIL_TRIALS and find_spec("torch") and find_spec("scipy"):
        # Only the pool, which OpenVINO lacks, is drawn at random; a warning for each trial would tell the user nothing.
        return optuna.samplers.GPSampler(
            seed=seed, n_startup_trials=STARTUP_TRIALS, deterministic_objective=False, warn_independent_sampling=False
        )
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS)
