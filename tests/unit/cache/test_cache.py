"""The cache: artifacts are whole or absent, checked before use, made once, and impossible ones are remembered."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autotune.cache import Artifact, Cache, default_cache_root
from autotune.errors import BuildFailed, DeadlineExceeded, OutOfMemory, Unsupported


def writing(text: str = "hello", calls: list[str] | None = None) -> Callable[[Path], dict[str, Any]]:
    """A maker of one file in a sub-folder, which counts its calls."""

    def make(folder: Path) -> dict[str, Any]:
        assert not any(folder.iterdir()), "a maker begins with an empty folder"
        (folder / "sub").mkdir()
        (folder / "sub" / "data.txt").write_text(text)
        if calls is not None:
            calls.append(text)
        return {"length": len(text)}

    return make


def refuse(folder: Path) -> dict[str, Any]:
    pytest.fail("made again although it was there")


def content(artifact: Artifact) -> str:
    return (artifact.folder / "sub" / "data.txt").read_text()


def leftovers(cache: Cache) -> list[str]:
    """What lies beside the finished artifacts, lock files apart."""
    return [
        p.name for p in (cache.root / "kind").iterdir() if p.name.startswith(".") or not (p.is_dir() or p.suffix == ".lock")
    ]


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def test_made_once_and_then_found(cache: Cache) -> None:
    """The second time nothing is made; facts and files are those of the first."""
    assert not cache.has("kind", "k")
    first = cache.get_or_make("kind", "k", writing())
    second = cache.get_or_make("kind", "k", refuse)
    assert (first.hit, second.hit) == (False, True)
    assert first.facts == second.facts == {"length": 5}
    assert content(second) == "hello" and cache.has("kind", "k") and leftovers(cache) == []


def test_kinds_and_keys_are_apart(cache: Cache) -> None:
    """The same key of another kind is another artifact."""
    cache.get_or_make("kind", "k", writing("a"))
    assert content(cache.get_or_make("other", "k", writing("b"))) == "b"
    assert content(cache.get_or_make("kind", "l", writing("c"))) == "c"


@pytest.mark.parametrize("damage", ["changed", "cut", "missing", "no manifest", "half a manifest"])
def test_a_damaged_artifact_is_made_again(cache: Cache, damage: str) -> None:
    """A flipped byte, a cut or lost file, a lost or torn manifest: what is given out is whole again."""
    folder = cache.get_or_make("kind", "k", writing()).folder
    data, manifest = folder / "sub" / "data.txt", folder / "artifact.json"
    if damage == "changed":
        data.write_text("hellO")
    elif damage == "cut":
        data.write_text("hell")
    elif damage == "missing":
        data.unlink()
    elif damage == "no manifest":
        manifest.unlink()
    else:
        manifest.write_text(manifest.read_text()[:20])
    again = cache.get_or_make("kind", "k", writing())
    assert not again.hit and content(again) == "hello"


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, OSError])
def test_a_maker_that_fails_leaves_nothing(cache: Cache, error: type[BaseException]) -> None:
    """Its half-filled folder is gone, and the next maker begins anew."""

    def fail(folder: Path) -> dict[str, Any]:
        (folder / "half").write_text("x")
        raise error

    with pytest.raises(error):
        cache.get_or_make("kind", "k", fail)
    assert not cache.has("kind", "k") and leftovers(cache) == []
    assert content(cache.get_or_make("kind", "k", writing())) == "hello"


@pytest.mark.parametrize("kind", [BuildFailed, Unsupported])
def test_what_cannot_be_is_remembered(cache: Cache, kind: type[BuildFailed]) -> None:
    """A deterministic rejection comes again from the cache with its kind, stage and message, without trying."""
    calls: list[str] = []

    def fail(folder: Path) -> dict[str, Any]:
        calls.append("called")
        (folder / "half").write_text("x")
        raise kind("no kernel for Foo", stage="engine")

    for _ in range(2):
        with pytest.raises(kind, match="no kernel for Foo") as found:
            cache.get_or_make("kind", "k", fail)
        assert found.value.stage == "engine"
    assert calls == ["called"] and cache.has("kind", "k")
    assert not (cache.root / "kind" / "k" / "half").exists()


@pytest.mark.parametrize("kind", [OutOfMemory, DeadlineExceeded])
def test_what_may_go_better_next_time_is_not_remembered(cache: Cache, kind: type[OutOfMemory]) -> None:
    """Memory and time depend on what else runs: the next call tries again."""

    def fail(folder: Path) -> dict[str, Any]:
        raise kind("too much", stage="engine")

    with pytest.raises(kind):
        cache.get_or_make("kind", "k", fail)
    assert content(cache.get_or_make("kind", "k", writing())) == "hello"


def run_script(script: str, *words: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, "-c", textwrap.dedent(script), *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


SLOW_MAKER = """
    import sys, time
    from pathlib import Path
    from autotune.cache import Cache
    def make(folder):
        (folder / "half").write_text("half")
        print("making", flush=True)
        time.sleep(float(sys.argv[2]))
        (folder / "done").write_text("x")
        return {}
    hit = Cache(Path(sys.argv[1])).get_or_make("kind", "k", make).hit
    print("hit" if hit else "made", flush=True)
"""


def test_kill_minus_nine_while_making_leaves_nothing_visible(cache: Cache) -> None:
    """The killed process' half is never given out; its lock is free, and the artifact is made by the next one."""
    with run_script(SLOW_MAKER, str(cache.root), "60") as process:
        assert process.stdout is not None and process.stdout.readline() == "making\n"
        process.kill()
    assert not cache.has("kind", "k") and not (cache.root / "kind" / "k").exists()
    made = cache.get_or_make("kind", "k", writing())
    assert not made.hit and sorted(p.name for p in made.folder.iterdir()) == ["artifact.json", "sub"]


def test_two_processes_make_it_once(cache: Cache) -> None:
    """Both ask at the same time: one makes it, the other waits and finds it."""
    processes = [run_script(SLOW_MAKER, str(cache.root), "0.5") for _ in range(2)]
    lines = [line for process in processes for line in process.communicate(timeout=60)[0].split()]
    assert sorted(lines) == ["hit", "made", "making"]


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """AUTOTUNE_CACHE, else the platform's convention."""
    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path / "mine"))
    assert default_cache_root() == tmp_path / "mine"
    monkeypatch.delenv("AUTOTUNE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_root() == tmp_path / "autotune"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert default_cache_root() == Path.home() / ".cache" / "autotune"


def test_knowledge_that_grows_is_renewed_whole(cache: Cache) -> None:
    """What is renewed replaces what was there; a maker that fails leaves it as it was, and nothing of its own."""
    assert cache.find("kind", "k") is None
    cache.renew("kind", "k", writing("part"))
    cache.renew("kind", "k", writing("more of it"))
    found = cache.find("kind", "k")
    assert found is not None and content(found) == "more of it" and found.facts == {"length": 10}

    def fail(folder: Path) -> dict[str, Any]:
        (folder / "half").write_text("")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cache.renew("kind", "k", fail)
    again = cache.find("kind", "k")
    assert again is not None and content(again) == "more of it" and leftovers(cache) == []


def test_what_is_damaged_is_not_found(cache: Cache) -> None:
    """A changed file makes the artifact as good as absent, here as for `get_or_make`."""
    made = cache.get_or_make("kind", "k", writing())
    (made.folder / "sub" / "data.txt").write_text("other")
    assert cache.find("kind", "k") is None
