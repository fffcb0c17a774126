"""Names from elsewhere that become paths: taken only where they can mean nothing but a file below the given folder."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

_MAX_PARTS = 8
_MAX_BYTES = 200
"""Of one part; file systems take 255, and temporary names need some of them."""
_KIND_OR_KEY = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")
_SHA256 = re.compile(r"^[0-9a-f]{64}$")


def is_inside(name: object) -> bool:
    """True for a relative path in POSIX form without '.', '..', control characters and backslashes, of ordinary length."""
    if not isinstance(name, str) or not name or "\\" in name or any(not c.isprintable() for c in name):
        return False
    parts = name.split("/")
    plain = all(part not in ("", ".", "..") and len(part.encode("utf-8", "replace")) <= _MAX_BYTES for part in parts)
    return plain and len(parts) <= _MAX_PARTS and not PurePosixPath(name).is_absolute()


def is_artifact_name(name: object) -> bool:
    """True for kind/key as artifacts are called."""
    return isinstance(name, str) and name.count("/") == 1 and all(_KIND_OR_KEY.match(part) for part in name.split("/"))


def is_digest(text: object) -> bool:
    """True for a SHA-256 in 64 hex digits."""
    return isinstance(text, str) and _SHA256.match(text) is not None
