"""What a pool has handed out, counted here: the cap holds to the byte whatever the library behind the pool makes of it."""

from __future__ import annotations

import threading

from autotune.errors import OutOfMemory


class PoolCount:
    """Bytes handed out, as they were asked for, and their peak; for any thread."""

    def __init__(self, cap_bytes: int | None) -> None:
        if cap_bytes is not None and cap_bytes < 1:
            raise ValueError(f"a cap is at least 1 byte, or None for none; found {cap_bytes}")
        self.cap_bytes = cap_bytes
        self.used_bytes = self.peak_bytes = 0
        self._lock = threading.Lock()

    def take(self, n_bytes: int) -> None:
        """They are handed out. Raises OutOfMemory where the cap has no room for them."""
        with self._lock:
            if self.cap_bytes is not None and self.used_bytes + n_bytes > self.cap_bytes:
                raise OutOfMemory(
                    f"{n_bytes} bytes do not fit: {self.used_bytes} of the memory pool's {self.cap_bytes} are handed out",
                    stage="open",
                )
            self.used_bytes += n_bytes
            self.peak_bytes = max(self.peak_bytes, self.used_bytes)

    def give_back(self, n_bytes: int) -> None:
        """They can be handed out again."""
        with self._lock:
            self.used_bytes -= n_bytes
