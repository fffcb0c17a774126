"""Texts without the passwords in them, for messages, logs and everything that is kept."""

from __future__ import annotations

import re

_USER = re.compile(r"(://[^\s:/@]*):\S*@")
_QUERY = re.compile(
    r"([?&;](?:password|passwd|pwd|sslpassword|secret|token|key|secret_key|access_key)=)[^&;\s'\"]+", re.IGNORECASE
)


def without_password(text: str) -> str:
    """The text with the password of every URL in it replaced by ***, whether it stands before the host or in the query."""
    return _QUERY.sub(r"\1***", _USER.sub(r"\1:***@", text))
