"""Passwords: in no message, and in no database."""

from __future__ import annotations

from pathlib import Path

import pytest
from assets import fake_study as fake

from autotune.errors import SpecError, SpecProblem
from autotune.redact import url_without_secrets, without_password
from autotune.spec.load import load_spec
from autotune.spec.model import StudySpec
from autotune.store.connection import parse_url, shown


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:hush@host/db",
        "postgresql://me:hu@sh@host/db",
        "postgresql://host/db?user=me&password=hush",
        "s3://key:hush@bucket/prefix",
        "could not reach postgresql+psycopg://me:hush@host:5432/db?sslmode=require: refused",
        "https://host/x?token=hush&y=1",
        "postgresql://me@corp.example:hush@host/db",
        "postgresql://me:a/hush@host/db",
        "postgresql://host/db?passw%6Frd=hush",
        "postgresql://host/db?password=a;hush",
        "s3://bucket/x?X-Amz-Signature=hush&region=eu",
        "abfs://box/x?account_key=hush",
        "https://hush@host/x",
        "ftp://u@corp:hush@host/x",
    ],
)
def test_no_password_is_left(url: str) -> None:
    """Before the host or in the query, alone or in a sentence."""
    for found in (without_password(url), url_without_secrets(url)):
        assert "hush" not in found and "sh@" not in found and "***" in found


def test_of_a_whole_url_only_what_is_harmless_stays() -> None:
    """What a library's own parameter means is not known here, and a password may hold a blank."""
    assert url_without_secrets("postgresql://me:my hush@host/db") == "postgresql://me:***@host/db"
    assert (
        url_without_secrets("postgresql://host/db?sslmode=require&nobody=knows")
        == "postgresql://host/db?sslmode=require&nobody=***"
    )


def test_a_url_in_a_wrong_place_is_not_repeated() -> None:
    """Whoever mistakes one key for another still gets no password on the terminal."""
    problem = SpecProblem(key="engines[1]", found="'postgresql://me:hush@host/x'", allowed="onnxruntime")
    assert "hush" not in str(problem) and "hush" not in str(SpecError([problem]))


@pytest.mark.parametrize("part", ["a", "://", "a://b:", "?a", "&a=", "a://b@"])
def test_a_long_text_takes_its_length(part: str) -> None:
    """A quarter of a MiB, as a study file may have: the square of that would not end."""
    assert without_password(part * (2**18 // len(part)))


def test_what_has_none_stays() -> None:
    """Files, and users without one."""
    for url in ("sqlite:////data/a.db", "postgresql://me@host/db?sslmode=require", "file:///mnt/share"):
        assert without_password(url) == url_without_secrets(url) == url


def test_a_url_is_shown_without_its_query_password() -> None:
    """SQLAlchemy hides only the one before the host."""
    assert "hush" not in shown(parse_url("postgresql://host/db?user=me&password=hush"))


def test_a_study_is_stored_without_passwords_and_read_back(tmp_path: Path) -> None:
    """Who may read results need not be able to log in as their author."""
    storage = "storage: postgresql://me:hush@host/db\nartifacts: s3://me:hush@bucket/x"
    spec = load_spec(fake.write_study(tmp_path, ("storage: sqlite:///study.db", storage)))
    assert "hush" in spec.storage
    stored = spec.as_stored()
    assert "hush" not in str(stored) and StudySpec.model_validate(stored).storage == "postgresql://me:***@host/db"
    assert StudySpec.model_validate(stored | {"cache": "/somewhere"}).cache.folder == Path(
        "/somewhere"
    )  # as older versions wrote
