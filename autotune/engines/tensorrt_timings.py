"""The timings of TensorRT's kernels, kept between builds: what one build measured, the next does not measure again.

One file per library, version and device in a folder that all builds of a cache share. It is a help and no part of any engine: a
file that is missing, damaged or of another device costs a build time and nothing else.
"""

from __future__ import annotations

import logging
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from autotune.engines.tensorrt_api import IBuilderConfig, ITimingCache

_log = logging.getLogger(__name__)
_LOCK_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """One file of timings. Builds in any number of processes may load it and add to it at the same time."""

    path: Path

    def load(self, config: IBuilderConfig) -> None:
        """The builder starts from what is known; from nothing where TensorRT takes no cache."""
        cache = _cache_of(config, self._stored()) or _cache_of(config, b"")
        if cache is None or not config.set_timing_cache(cache, False):
            _log.info("TensorRT took no timing cache from %s", self.path)

    def save(self, config: IBuilderConfig) -> None:
        """The file holds what this build measured beside what others wrote meanwhile; it is replaced as a whole."""
        ours = config.get_timing_cache()
        if ours is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{self.path}.lock", timeout=_LOCK_TIMEOUT_S):
                others = _cache_of(config, self._stored())
                if others is not None and not ours.combine(others, False):
                    _log.info("the timing cache %s is of another device or release and is replaced", self.path)
                self._replace(bytes(ours.serialize()))
        except (OSError, TimeoutError, RuntimeError) as exc:
            _log.info("timings were not kept: %s", exc)

    def _stored(self) -> bytes:
        try:
            return self.path.read_bytes()
        except OSError:
            return b""

    def _replace(self, content: bytes) -> None:
        handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(self.path)
        except OSError:
            Path(name).unlink(missing_ok=True)
            raise


def _cache_of(config: IBuilderConfig, content: bytes) -> ITimingCache | None:
    """A cache of these bytes; None where they are not a cache, as TensorRT says by None or by an exception."""
    try:
        return config.create_timing_cache(content)
    except (RuntimeError, ValueError, TypeError):
        return None
