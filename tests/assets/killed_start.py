"""`autotune start` that kills itself with -9 at a chosen point: python killed_start.py POINT NTH start study.yaml …

POINT is a stage of a trial as the study's process hears of it, with its role ("search:load", "final:proposed"), or one of
`repeated` (a repetition is stored, nothing is made of it yet), `reporting` (what is reported is worked out, not stored),
`claimed` (our row is written, the trial has not begun), `finished` (our row is finished, Optuna does not know), `told` (Optuna
knows, the front is not stored) and `half-told` (in the middle of telling). NTH counts from 1.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from autotune.cli import progress
from autotune.cli.main import main
from autotune.store.repository import Store
from autotune.study.proposer import Proposer

_POINT, _NTH = sys.argv[1], int(sys.argv[2])
_seen = 0
_role = ""


def _reached(point: str) -> None:
    global _seen
    if point == _POINT:
        _seen += 1
        if _seen == _NTH:
            sys.stderr.flush()
            os.kill(os.getpid(), signal.SIGKILL)


def _before(owner: type, name: str, point: str) -> None:
    original = getattr(owner, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        _reached(point)
        return original(*args, **kwargs)

    setattr(owner, name, call)


def _trial_began(self: object, number: int, candidate: object, role: str) -> None:
    global _role
    _role = role
    _reached(f"{role}:proposed")


progress.PlainProgress.trial_began = _trial_began  # type: ignore[method-assign]
progress.PlainProgress.stage_began = lambda self, stage: _reached(f"{_role}:{stage}")  # type: ignore[method-assign]
progress.PlainProgress.repeated = lambda *_: _reached("repeated")  # type: ignore[method-assign]
_before(Store, "set_reported", "reporting")
_before(Store, "counts", "claimed")
_before(Proposer, "tell", "finished")
_before(Store, "set_front", "told")

if _POINT == "half-told":
    import optuna

    _before(optuna.trial.Trial, "set_user_attr", "half-told")

if __name__ == "__main__":
    main(sys.argv[3:])
