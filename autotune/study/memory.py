"""Memory that is free again goes back to the system, so that days of proposals leave no larger process behind."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache


def give_back() -> None:
    """What the C library holds and nothing uses is the system's (malloc_trim(3), glibc; elsewhere nothing happens).

    The models of a search free arrays of every size between objects that stay, which the library would keep.
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    found: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return found
