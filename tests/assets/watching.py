"""A study on the fake engine, watched from outside while its processes run."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from autotune.store.repository import Store, open_store


def wait_until(true: Callable[[], object], seconds: float = 60.0) -> None:
    """Returns as soon as it is so. Raises AssertionError where it did not become so in time."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.05)


def opened(folder: Path) -> tuple[Store, int]:
    """The study's store, and its id."""
    store = open_store(f"sqlite:///{folder / 'study.db'}", create=False)
    row = store.study("fake")
    assert row is not None
    return store, row.id


def shows(folder: Path, ask: Callable[[Store, int], bool]) -> bool:
    """What the study's store answers; False while there is none."""
    if not (folder / "study.db").exists():
        return False
    try:
        store, study_id = opened(folder)
    except Exception:
        return False
    return ask(store, study_id)
