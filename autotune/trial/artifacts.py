"""A study's cache, with the bound and the second tier that it names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autotune.cache import Cache, default_cache_root
from autotune.spec.model import StudySpec


def cache_root_of(spec: StudySpec) -> Path:
    """The folder of the study's cache."""
    return spec.cache.folder or default_cache_root()


def cache_of(spec: StudySpec, root: Path) -> Cache:
    """The study's artifacts in the folder `root`."""
    return Cache(root, max_gib=spec.cache.max_gib, artifacts=spec.artifacts)


@contextmanager
def sharing(cache: Cache, flags: list[str]) -> Iterator[None]:
    """What the block makes is given to other hosts after it, and what happened to artifacts in it is among the flags."""
    try:
        yield
    finally:
        cache.share()
        flags += cache.flags
