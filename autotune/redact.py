"""Texts without the passwords in them, for messages, logs and everything that is kept."""

from __future__ import annotations

import re
from urllib.parse import unquote

_USER = re.compile(r"([a-z][a-z0-9+.-]{0,30})://(?![/\s])([^\s/:]{0,255})(:\S{0,4095})?@", re.IGNORECASE)
"""Scheme, user and password of a URL. The password reaches to the last @ and may hold what has no place in a URL.
Each is bounded, or a hostile text of many beginnings would take the square of its length."""
_QUERY = re.compile(r"([?&;])([^\s=&;?]{1,255})=([^&\s'\"]*)")
_SECRET = re.compile(r"pass|pwd|secret|token|sig|key|credential|auth", re.IGNORECASE)
"""What the name of a query's value tells of a secret in a text of which nobody knows what it is."""
_TOKEN_SCHEMES = ("http", "https", "ftp", "ftps")
"""Where a user alone is a token."""
_HARMLESS = {
    "application_name", "anon", "cache", "channel_binding", "charset", "connect_timeout", "dbname", "gssencmode", "host",
    "keepalives", "mode", "options", "port", "region", "sslcert", "sslcrl", "sslkey", "sslmode", "sslrootcert",
    "target_session_attrs", "timeout", "uri", "user", "version",
}  # fmt: skip
"""Values of a URL's query that are kept where the whole URL is at hand; every other one may be a secret."""


def without_password(text: str) -> str:
    """The text with the secrets of every URL in it replaced by ***, before the host or in the query, as far as one can tell.

    Where the text is one URL, `url_without_secrets` is the safer.
    """
    return _QUERY.sub(_query_told, _USER.sub(_user_told, text))


def url_without_secrets(url: str) -> str:
    """The URL with *** for its password and for all of its query but what is known to be harmless."""
    scheme, mark, rest = url.partition("://")
    if not mark:
        return without_password(url)
    found = re.match(r"([^/:]*)(:.*)?@", rest, re.DOTALL)
    if found is not None:
        rest = _userinfo(scheme, found[1], found[2] is not None) + "@" + rest[found.end() :]
    place, question, query = rest.partition("?")
    values = [_value_told(part) for part in query.split("&")] if question else []
    return f"{scheme}://{place}{question}{'&'.join(values)}"


def _user_told(found: re.Match[str]) -> str:
    return f"{found[1]}://{_userinfo(found[1], found[2], found[3] is not None)}@"


def _userinfo(scheme: str, user: str, has_password: bool) -> str:
    if has_password:
        return f"{user}:***"
    return "***" if scheme.lower() in _TOKEN_SCHEMES else user


def _query_told(found: re.Match[str]) -> str:
    value = "***" if _SECRET.search(unquote(found[2])) else found[3]
    return f"{found[1]}{found[2]}={value}"


def _value_told(part: str) -> str:
    name, equals, value = part.partition("=")
    return part if not equals or not value or unquote(name).lower() in _HARMLESS else f"{name}=***"
