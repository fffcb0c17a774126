"""What a user's module depends on: its own file and those beside it that it imports, never libraries."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from autotune.user_code import code_digest, source_files


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package and a module beside it, importable in this test alone."""
    monkeypatch.syspath_prepend(str(tmp_path))
    package = tmp_path / "users_package"
    package.mkdir()
    (package / "__init__.py").write_text("from . import parts\n")
    (package / "parts.py").write_text("from .deep import act\nimport os, numpy\n")
    (package / "deep.py").write_text("def act(x):\n    import users_side\n    return x\n")
    (package / "unused.py").write_text("")
    (tmp_path / "users_side.py").write_text("from users_package.deep import act\n")
    (tmp_path / "users_stranger.py").write_text("")
    for name in [n for n in sys.modules if n.startswith("users_")]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


def test_imports_are_followed_within_the_users_own_files(folder: Path) -> None:
    """Relative, absolute and late imports, in circles too; what is not imported and what is installed do not count."""
    names = {p.relative_to(folder.resolve()).as_posix() for p in source_files("users_package.parts")}
    assert names == {"users_package/parts.py", "users_package/deep.py", "users_side.py"}
    assert {p.name for p in source_files("users_stranger")} == {"users_stranger.py"}


def test_a_change_anywhere_behind_the_name_changes_the_digest(folder: Path) -> None:
    """The same for a helper of a helper; not for a file that is not imported."""
    before = code_digest("users_package.parts:net")
    (folder / "users_stranger.py").write_text("x = 1")
    assert code_digest("users_package.parts:net") == before
    (folder / "users_side.py").write_text("y = 2")
    assert code_digest("users_package.parts:net") != before


def test_libraries_and_missing_modules() -> None:
    """An installed package's own files count when it is named itself; a module without source has no digest."""
    assert all("filelock" in p.parts for p in source_files("filelock"))
    assert code_digest("math:sqrt") is None
    assert code_digest("no_such_module_at_all:f") is None
