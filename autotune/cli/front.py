"""The document of `front --json`, apart from what measures, so that it is quickly there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from autotune.records import FINISHED, Regime, TrialRecord, TrialState

if TYPE_CHECKING:
    from autotune.study.warm_start import WarmStartGain


def front_document(
    reference: TrialRecord | None,
    front: Sequence[TrialRecord],
    n_trials: Mapping[TrialState, int],
    ties: Mapping[int, Sequence[int]],
    regimes: Sequence[Regime],
    warm_start: WarmStartGain | None,
) -> dict[str, Any]:
    """The document of `front --json`, without the study's name. Each member of the front names its ties."""
    return {
        "reference": reference.as_json() if reference else None,
        "front": [r.as_json() | {"ties": list(ties[r.number])} for r in front],
        "regimes": [asdict(r) for r in regimes],
        "warm_start": asdict(warm_start) if warm_start else None,
        "n_trials": {state: n_trials[state] for state in FINISHED},
    }
