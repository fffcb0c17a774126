"""`autotune cache`: what is kept and why, and room that costs no front its engines."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from autotune.cache import Cache
from autotune.cache import locks as of_locks
from autotune.cache.pins import Pin, set_pin
from autotune.cli import background
from autotune.cli.main import cli
from autotune.cli.options import PASSED_STORAGE
from autotune.errors import SpecError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three artifacts of 10,000 bytes; a study keeps one of them."""
    for kind, key in (("variant", "a"), ("variant", "b"), ("engines", "c")):
        Cache(tmp_path, max_gib=1).get_or_make(kind, key, lambda folder: {"n": (folder / "data").write_bytes(b"x" * 10_000)})
    set_pin(tmp_path, Pin(study="mine", storage="sqlite:///x.db", artifacts=("variant/a",)))
    for descriptor in of_locks._in_use.values():
        os.close(descriptor)
    of_locks._in_use.clear()
    return tmp_path


def document(root: Path, *words: str) -> dict[str, object]:
    done = CliRunner().invoke(cli, ["cache", "--folder", str(root), *words, "--json"], catch_exceptions=False)
    found: dict[str, object] = json.loads(done.stdout)
    return found


def left(root: Path) -> list[str]:
    return sorted(p.parent.name for p in root.glob("*/*/artifact.json"))


def test_what_the_cache_holds(root: Path) -> None:
    """Size, bound, kinds and pins; --json and words."""
    found = document(root)
    assert set(found["kinds"]) == {"variant", "engines"} and found["pins"] == {"mine": {"sqlite:///x.db": 1}}  # type: ignore[call-overload]
    assert 30_000 < found["size_bytes"] < 32_000 < found["bound_bytes"]  # type: ignore[operator]
    text = CliRunner().invoke(cli, ["cache", "--folder", str(root)], catch_exceptions=False).stdout
    assert "mine keeps 1 artifacts" in text and "variant" in text and "may take" in text


def test_clean_keeps_what_a_front_needs(root: Path) -> None:
    """A dry run says the same and removes nothing; --all removes the rest."""
    dry = document(root, "clean", "--dry-run")
    assert (dry["removed"], dry["pinned"]) == (2, 1) and left(root) == ["a", "b", "c"]
    assert document(root, "clean")["removed"] == 2 and left(root) == ["a"]
    assert document(root, "clean", "--all")["removed"] == 1 and left(root) == []


def test_clean_down_to_a_size_takes_the_least_recently_used(root: Path) -> None:
    """Of three, two fit."""
    for i, name in enumerate(("engines/c", "variant/b", "variant/a")):
        os.utime(root / name / "artifact.json", (i + 1, i + 1))
    document(root, "clean", "--max-gib", str(25_000 / 2**30))
    assert left(root) == ["a", "b"]


@pytest.mark.parametrize("size", ["nan", "inf", "-1"])
def test_a_size_is_a_finite_number(root: Path, size: str) -> None:
    """Nothing is smaller than nan, so all of the cache would go."""
    with pytest.raises(SpecError, match=f"--max-gib {size}: allowed: a number of GiB from 0"):
        document(root, "clean", "--max-gib", size)
    assert left(root) == ["a", "b", "c"]


def test_a_study_can_be_given_up(root: Path) -> None:
    """--unpin forgets what it keeps; a name that nobody knows is refused."""
    assert document(root, "clean", "--unpin", "mine")["removed"] == 3
    with pytest.raises(SpecError, match="--unpin other"):
        document(root, "clean", "--unpin", "other")


def test_a_process_of_ours_is_not_told_its_database_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everybody on the host can read a command line, and the URL may hold a password."""
    heard: list[tuple[list[str], dict[str, str]]] = []

    def popen(words: list[str], env: dict[str, str], **_: object) -> None:
        heard.append((words, env))

    monkeypatch.setattr(subprocess, "Popen", popen)
    url = "postgresql://me:hush@host/db"
    background._spawn(tmp_path / "log", ["worker", "study.yaml", "--storage", url, "--trials", "3"])
    ((words, environment),) = heard
    assert words[3:7] == ["worker", "study.yaml", "--trials", "3"] and environment[PASSED_STORAGE] == url
    assert not any("hush" in word for word in words)
    assert not any("hush" in word for word in words)


def test_the_child_takes_the_database_from_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable stands for the option."""
    import click

    from autotune.cli.options import storage_option

    monkeypatch.setenv(PASSED_STORAGE, "sqlite:///there.db")
    said: list[str | None] = []
    probe = click.command()(storage_option(lambda storage: said.append(storage)))
    CliRunner().invoke(probe, [], catch_exceptions=False)
    assert said == ["sqlite:///there.db"]
