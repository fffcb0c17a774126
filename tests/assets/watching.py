"""A study on the fake engine, watched from outside while its processes run."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import psutil
from assets import fake_study as fake

from autotune.store.repository import Store, open_store

_T = TypeVar("_T")


def wait_until(true: Callable[[], _T], seconds: float = 60.0) -> _T:
    """What is asked, as soon as it is true. Raises AssertionError where it did not become so in time."""
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.05)
    return found


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


def kill_all_of(folder: Path) -> None:
    """Whatever still runs with the locks of `folder` is killed."""
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get("XDG_RUNTIME_DIR") == str(folder / "runtime"):
                process.kill()
        except psutil.Error:
            continue


def status(folder: Path) -> Any:
    """The document of `autotune status`."""
    return json.loads(fake.autotune(folder, "status", "study.yaml", "--json").stdout)


def detached(folder: Path, *more: object) -> int:
    """The process id of a study that `start --detach` says runs."""
    done = fake.autotune(folder, "start", "study.yaml", "--detach", *more)
    found = re.search(r"runs as process (\d+)", done.stderr)
    assert found, done.stderr
    return int(found[1])
