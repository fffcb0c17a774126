"""Paths that a user wrote, which may be anything that text can be."""

from __future__ import annotations

from pathlib import Path


def located(text: str, folder: Path) -> Path | None:
    """The absolute path that `text` means when it is read in `folder`; None where no file could have such a name."""
    try:
        path = (folder / Path(text).expanduser()).resolve()
        path.exists()  # the system's own limits: names too long, loops of links, folders that may not be entered
    except (ValueError, OSError, RuntimeError):
        return None
    return path
