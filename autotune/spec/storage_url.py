"""The database's URL: checked for its form, and made absolute, without ever showing a password."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from autotune.spec.paths import located
from autotune.spec.positions import Faults, shown

_ALLOWED = (
    "sqlite:///FILE (relative to the study), sqlite:////ABSOLUTE/FILE, or postgresql+psycopg://USER:PASSWORD@HOST/DATABASE"
)
_SQLITE = "sqlite:///"
_POSTGRESQL = ("postgresql", "postgresql+psycopg")


def absolute_storage(url: str, key: str, folder: Path, faults: Faults) -> str:
    """The URL with a relative SQLite file placed in `folder`; a URL of another form is a fault and is returned as it is."""
    if url.startswith("sqlite"):
        name, mark, query = url.removeprefix(_SQLITE).partition("?")
        path = located(name, folder) if name and name != ":memory:" and not name.endswith("/") else None
        if not url.startswith(_SQLITE) or path is None or path.is_dir():
            faults.add(key, shown(url), _ALLOWED)
            return url
        return f"{_SQLITE}{path}{mark}{query}"
    try:
        parts = urlsplit(url)
        port, database = parts.port, parts.path.removeprefix("/")
    except ValueError:
        parts, port, database = urlsplit(""), 0, ""
    if parts.scheme not in _POSTGRESQL or port == 0 or not database or "/" in database:
        faults.add(key, shown(url), _ALLOWED)
    return url
