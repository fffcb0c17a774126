"""Room in the cache: the least recently used goes first, and never what a front needs, is in use or is being made."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from autotune.cache import Cache
from autotune.cache import locks as of_locks
from autotune.cache.bound import VARIABLE, Tally, bound_bytes
from autotune.cache.disk import shown_bytes
from autotune.cache.eviction import make_room, remove
from autotune.cache.inventory import entries, leftovers
from autotune.cache.pins import Pin, pinned, pins, set_pin, unpin
from autotune.errors import BuildFailed, DiskFull, EnvironmentProblem

KIB = 1024
MADE_KIB = 10


def of_kib(n: int) -> Callable[[Path], Mapping[str, Any]]:
    def make(folder: Path) -> Mapping[str, Any]:
        (folder / "data").write_bytes(b"x" * n * KIB)
        return {}

    return make


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def filled(root: Path, *keys: str, needs: Mapping[str, str] | None = None) -> None:
    """Artifacts of 10 KiB each that nothing uses, the first one used longest ago."""
    cache = Cache(root, max_gib=1)
    for i, key in enumerate(keys):
        cache.get_or_make("variant", key, of_kib(MADE_KIB), needs=[f"variant/{n}" for n in [(needs or {}).get(key)] if n])
        os.utime(root / "variant" / key / "artifact.json", (1000 + i, 1000 + i))
    let_go()


def let_go() -> None:
    """This process has no artifact in use any more, as if it had ended."""
    for descriptor in of_locks._in_use.values():
        os.close(descriptor)
    of_locks._in_use.clear()


def present(root: Path) -> list[str]:
    return sorted(e.key for e in entries(root))


def test_the_least_recently_used_goes_first(root: Path) -> None:
    """By the last use that the cache itself notes, which needs no access times of the file system."""
    filled(root, "a", "b", "c")
    assert Cache(root, max_gib=1).find("variant", "a") is not None  # a use
    let_go()
    room = make_room(root, 25 * KIB)
    assert [e.key for e in room.gone] == ["b"] and present(root) == ["a", "c"]
    assert room.left_bytes == sum(e.size_bytes for e in entries(root))


def test_the_bound_is_kept_after_each_artifact(root: Path) -> None:
    """Beyond it the cache shrinks to nine tenths of it; the artifact that was just made stays."""
    filled(root, "a", "b", "c")
    Cache(root, max_gib=35 * KIB / 2**30).get_or_make("variant", "d", of_kib(MADE_KIB))
    assert present(root) == ["b", "c", "d"]  # four of 10.1 KiB are over 35, and three of them under nine tenths of it, 31.5
    assert not list((root / "variant").glob(".*")) and not (root / "variant" / "a.lock").exists()


def test_what_a_front_needs_stays_with_all_that_it_is_made_from(root: Path) -> None:
    """The pinned engine's variant, and the pruned model that this is made from, are older than anything else."""
    filled(root, "base", "pruned", "final", "other", needs={"pruned": "base", "final": "pruned"})
    set_pin(root, Pin(study="s", storage="sqlite:///x.db", artifacts=("variant/final", "engines/elsewhere")))
    make_room(root, 0)
    assert present(root) == ["base", "final", "pruned"]
    assert unpin(root, "s") == 1
    make_room(root, 0)
    assert present(root) == []


def test_a_pin_that_cannot_be_read_keeps_everything(root: Path) -> None:
    """Nobody knows what the study's front needs: a cache that is too large is better than a front without its engines."""
    filled(root, "a", "b")
    set_pin(root, Pin(study="s", storage="x", artifacts=("variant/a",)))
    (path,) = (root / "pins").glob("*.json")
    path.write_text("{")
    assert make_room(root, 0).gone == () and present(root) == ["a", "b"]
    with pytest.raises(EnvironmentProblem, match=str(path)):
        pins(root)


def test_pins_of_equal_names_in_two_databases_are_apart(root: Path) -> None:
    """One study's new front does not give up another's."""
    set_pin(root, Pin(study="s", storage="sqlite:///one.db", artifacts=("variant/a",)))
    set_pin(root, Pin(study="s", storage="sqlite:///two.db", artifacts=("variant/b",)))
    set_pin(root, Pin(study="s", storage="sqlite:///two.db", artifacts=("variant/c",)))
    assert set(pinned(root, pins(root))) == {"variant/a", "variant/c"}


IN_USE = """
    import sys
    from pathlib import Path
    from autotune.cache import Cache
    Cache(Path(sys.argv[1])).find("variant", "a")
    print("using", flush=True)
    sys.stdin.read()
"""
MAKING = """
    import sys
    from pathlib import Path
    from autotune.cache import Cache
    def make(folder):
        (folder / "half").write_text("half")
        print("making", flush=True)
        sys.stdin.read()
    Cache(Path(sys.argv[1])).get_or_make("variant", "new", make)
"""


def process(script: str, root: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, "-c", textwrap.dedent(script), str(root)]
    found = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    assert found.stdout is not None and found.stdout.readline()
    return found


def test_an_artifact_in_use_stays_until_its_process_ends(root: Path) -> None:
    """Whoever was given an artifact may open its files at any time, also much later; kill -9 releases it."""
    filled(root, "a", "b")
    with process(IN_USE, root) as user:
        make_room(root, 0)
        assert present(root) == ["a"]
        user.kill()
    make_room(root, 0)
    assert present(root) == []


def test_an_artifact_being_made_is_not_swept_and_a_killed_ones_is(root: Path) -> None:
    """The folder of a process at work is left alone; that of one that is gone goes."""
    filled(root, "a")
    folder = root / "variant"
    with process(MAKING, root) as maker:
        assert list(leftovers(folder)) == [] and len(list(folder.glob(".new-*"))) == 1
        maker.kill()
    assert len(list(leftovers(folder))) == 1
    Cache(root, max_gib=1).get_or_make("variant", "new", of_kib(1))
    assert list(folder.glob(".new-*")) == []


def test_an_artifact_used_since_it_was_counted_stays(root: Path) -> None:
    """Between counting and removing another process may have come and gone."""
    filled(root, "a")
    (entry,) = entries(root)
    Cache(root, max_gib=1).find("variant", "a")
    let_go()
    assert not remove(entry) and present(root) == ["a"]


def test_nothing_but_artifacts_is_ever_removed(root: Path) -> None:
    """A cache in a folder of other things, by a slip, costs nobody their files."""
    filled(root, "a")
    for name in ("variant/mine/letter.txt", ".git/.abc-x/objects", "photos/one.jpg", "variant/.mine-abc/x"):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_text("x" * 9000)
    make_room(root, 0)
    Tally(root).set(10**15)
    Cache(root, max_gib=1e-9).get_or_make("variant", "b", of_kib(1))
    left = {str(p.relative_to(root)) for p in root.rglob("*") if p.is_file() and not p.name.endswith((".lock", ".size"))}
    assert {"variant/mine/letter.txt", ".git/.abc-x/objects", "photos/one.jpg", "variant/.mine-abc/x"} <= left


def fails_with(number: int, times: list[int], kind: type[Exception] = OSError) -> Callable[[Path], Mapping[str, Any]]:
    """A maker whose disk takes nothing for its first `times[0]` calls."""

    def make(folder: Path) -> Mapping[str, Any]:
        (folder / "half").write_text("half")
        if times[0]:
            times[0] -= 1
            raise OSError(number, os.strerror(number), str(folder / "half"))
        (folder / "half").write_text("whole")
        return {}

    return make


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_disk_stops_cleanly(root: Path, number: int) -> None:
    """The message names the folder, what is free and what to do; nothing half-written is left, the next call tries again."""
    cache = Cache(root, max_gib=1)
    with pytest.raises(DiskFull) as caught:
        cache.get_or_make("variant", "k", fails_with(number, [9]))
    words = str(caught.value)
    assert str(root / "variant") in words and os.strerror(number) in words and "Free there:" in words
    assert "autotune cache clean" in words and caught.value.exit_code == 3
    assert present(root) == [] and list((root / "variant").glob(".*")) == []
    assert not cache.get_or_make("variant", "k", fails_with(number, [0])).hit


def test_a_full_disk_is_emptied_of_what_nothing_needs_before_giving_up(root: Path) -> None:
    """What was used longest ago makes room for what is needed now; what a front needs does not."""
    filled(root, "old", "kept")
    set_pin(root, Pin(study="s", storage="x", artifacts=("variant/kept",)))
    Cache(root, max_gib=1).get_or_make("variant", "new", fails_with(errno.ENOSPC, [1]))
    assert present(root) == ["kept", "new"]


def test_a_build_that_failed_for_want_of_space_is_not_remembered_as_impossible(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Builders say "failed" when their disk is full; the disk is asked before that is believed."""

    def make(folder: Path) -> Mapping[str, Any]:
        raise BuildFailed("serialization failed", stage="engine")

    cache = Cache(root, max_gib=1)
    monkeypatch.setattr("autotune.cache.local.fault_of", lambda folder: errno.ENOSPC)
    with pytest.raises(DiskFull):
        cache.get_or_make("engines", "k", make)
    monkeypatch.undo()
    assert not cache.has("engines", "k")
    with pytest.raises(BuildFailed):
        cache.get_or_make("engines", "k", make)


def test_a_rebuilt_artifact_is_flagged_and_logged(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its trial says that a damaged artifact was found and made again."""
    filled(root, "a")
    (root / "variant" / "a" / "data").write_bytes(b"y")
    cache = Cache(root, max_gib=1)
    again = cache.get_or_make("variant", "a", of_kib(MADE_KIB))
    assert again.rebuilt and not again.hit and list(cache.flags) == ["artifact_rebuilt"]
    assert "artifact=variant/a damaged: its file data is not the one that was made" in caplog.text


@pytest.mark.parametrize(
    "rejected", [{"kind": "SystemExit", "stage": "s", "message": "m"}, {"kind": "Path", "stage": "s", "message": "m"}, 3]
)
def test_a_manifest_raises_nothing_but_rejections(root: Path, rejected: object) -> None:
    """A manifest names the exception to raise; one that is no CandidateRejected makes it damaged."""
    filled(root, "a")
    (root / "variant" / "a" / "artifact.json").write_text(json.dumps({"rejected": rejected, "files": {}}))
    assert Cache(root, max_gib=1).find("variant", "a") is None


def test_the_bound(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The study's, else the variable's, else half of what the disk would have free without the cache."""
    root.mkdir()
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr("autotune.cache.bound.shutil.disk_usage", lambda path: type("Usage", (), {"free": 60})())
    assert bound_bytes(root, None, 40) == 50
    monkeypatch.setenv(VARIABLE, "2")
    assert bound_bytes(root, None, 40) == 2 * 2**30 and bound_bytes(root, 0.5, 40) == 2**29
    monkeypatch.setenv(VARIABLE, "much")
    with pytest.raises(EnvironmentProblem, match="'much'"):
        bound_bytes(root, None, 40)


def test_the_tally_is_counted_anew_when_it_is_old_or_nonsense(root: Path) -> None:
    """A wrong number lasts a day at most; a clock that was set back does not make it last longer."""
    root.mkdir()
    now = [1_000_000.0]
    tally = Tally(root, clock=lambda: now[0])
    assert tally.add(5) is None
    tally.set(100)
    assert tally.add(5) == 105 and tally.add(-50) == 55
    now[0] += 25 * 3600
    assert tally.add(5) is None
    now[0] -= 50 * 3600
    assert tally.add(5) is None
    (root / ".size").write_text("rubbish")
    assert tally.add(5) is None


def test_bytes_as_people_say_them() -> None:
    """The unit fits the number."""
    assert [shown_bytes(n) for n in (0, 1023, 2048, 3 << 20, 5 << 30)] == ["0 bytes", "1023 bytes", "2 KiB", "3 MiB", "5.0 GiB"]
