"""One store per database that this machine has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from store_samples import ENVIRONMENT

from autotune.store.repository import Store, open_store


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database; PostgreSQL skips where there is no server."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgresql_url"))
    return f"sqlite:///{tmp_path / 'studies.db'}"


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    """An open store."""
    opened = open_store(database_url)
    yield opened
    opened.close()


@pytest.fixture
def study_id(store: Store) -> int:
    """A study in it."""
    return store.ensure_study("s", {"seed": 0}, "spec", "model", ("accuracy", "throughput"), ENVIRONMENT, 60).id
