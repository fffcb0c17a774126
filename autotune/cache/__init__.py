"""Content-addressed artifacts on disk: made once, seen whole or not at all, checked before use, shared by processes."""

from autotune.cache.artifact import MANIFEST, Artifact
from autotune.cache.local import Cache, default_cache_root

__all__ = ["MANIFEST", "Artifact", "Cache", "default_cache_root"]
