"""Logs of trials are part of the cache's size and make room, but for the newest of each study and those of trials under way."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from autotune.cache.eviction import make_room
from autotune.cache.trial_logs import KEPT_LOGS, trial_logs
from autotune.cli.main import cli

N_OLD = 5


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A study with five logs more than are kept, another with one, of 100 bytes each, and logs that are no trial's."""
    for i in range(KEPT_LOGS + N_OLD):
        write(tmp_path / "logs" / "long" / f"search-{i:05d}.log", 1000 + i)
    write(tmp_path / "logs" / "other" / "reference-00000.log", 1)
    for name in ("start.log", "worker-1.log"):
        write(tmp_path / "logs" / "long" / name, 2)
    return tmp_path


def write(log: Path, at: float) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("x" * 100)
    os.utime(log, (at, at))


def present(root: Path) -> list[str]:
    return sorted(entry.key for entry in trial_logs(root))


@pytest.fixture
def under_way(root: Path) -> Iterator[str]:
    """The oldest log, on which a trial holds its lock."""
    log = root / "logs" / "long" / "search-00000.log"
    with log.open() as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        yield "long/search-00000"


def test_the_oldest_go_and_the_newest_of_each_study_stay(root: Path) -> None:
    """With no room at all, 300 of the long study are left and the only one of the other; a worker's own log is not touched."""
    room = make_room(root, 0)
    assert [e.key for e in room.gone] == [f"long/search-{i:05d}" for i in range(N_OLD)]
    assert room.left_bytes == 100 * (KEPT_LOGS + 1) and len(present(root)) == KEPT_LOGS + 1
    assert (root / "logs" / "long" / "start.log").exists() and (root / "logs" / "long" / "worker-1.log").exists()


def test_no_more_go_than_must(root: Path) -> None:
    """Two of them make the room that is wanted."""
    assert len(make_room(root, 100 * (KEPT_LOGS + N_OLD + 1 - 2)).gone) == 2


def test_what_loadgen_wrote_counts_and_goes_with_its_log(root: Path) -> None:
    """Its trace is the larger part."""
    folder = root / "logs" / "long" / "search-00000.loadgen"
    folder.mkdir()
    (folder / "trace.json").write_bytes(b"x" * 5000)
    os.utime(folder, (900, 900))
    (root / "logs" / "long" / "search-00000.log").unlink()  # it was empty
    assert next(e for e in trial_logs(root) if e.key == "long/search-00000").size_bytes == 5000
    make_room(root, 0)
    assert not folder.exists()


def test_the_log_of_a_trial_under_way_stays(root: Path, under_way: str) -> None:
    """However old it is."""
    assert under_way not in {e.key for e in make_room(root, 0).gone} and under_way in present(root)


def test_the_command_shows_and_cleans_them(root: Path, under_way: str) -> None:
    """`cache` counts them apart from other logs; `clean` removes the old ones, with --all all but that of a trial under way."""

    def document(*words: str) -> dict[str, dict[str, dict[str, int]]]:
        done = CliRunner().invoke(cli, ["cache", "--folder", str(root), *words, "--json"], catch_exceptions=False)
        found: dict[str, dict[str, dict[str, int]]] = json.loads(done.stdout)
        return found

    before = document()
    assert before["size_bytes"] == 100 * (KEPT_LOGS + N_OLD + 1) and before["other_bytes"] == {"logs": 200}
    assert before["kinds"]["trial-logs"]["artifacts"] == KEPT_LOGS + N_OLD + 1
    assert document("clean")["removed"] == N_OLD - 1
    assert document("clean", "--all")["left_bytes"] == 100 and present(root) == [under_way]
