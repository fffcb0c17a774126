"""The order in which the samples of a set are visited, and when one looks at what they have told so far."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

PROBE_SAMPLES = 16
"""Answers that every measurement begins with, so that another one can be compared with it."""
_GROWTH = 4
"""Each look comes after a quarter more samples, so that at most a fifth of them was not needed."""


def visiting_order(digest: str, n: int) -> NDArray[np.intp]:
    """A random permutation of 0…n−1, the same for all candidates, machines and versions: it follows from the data's digest.

    The samples are sorted by a pseudorandom stream (SHAKE-256), so what was kept in this order is never read in another.
    """
    stream = hashlib.shake_256(f"visiting order of {digest}".encode()).digest(8 * n)
    return np.argsort(np.frombuffer(stream, dtype="<u8"), kind="stable")


def next_look(done: int, n: int, step: int) -> int:
    """After how many samples the next look comes, more than `done` and at most `n`. `step`: samples that run at once."""
    wanted = max(PROBE_SAMPLES - done, done // _GROWTH, 1)
    return min(n, done + -(-wanted // step) * step)
