"""The pretended device of the double: its size, what is open on it, and the faults that a test plants."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from autotune.errors import CandidateRejected, OutOfMemory, Unstable

Work = Callable[[], None]
Call = Literal["stream", "event", "pinned", "pool", "allocate", "copy", "work", "capture", "launch", "memory_info"]


@dataclass(slots=True, kw_only=True)
class _Fault:
    call: Call
    failure: Exception
    calls_left: int

    def is_due(self, call: str) -> bool:
        self.calls_left -= call == self.call
        return call == self.call and self.calls_left == 0


class HostDevice:
    """`open` counts what was made and not closed, by kind. `lock` makes one thread at a time run queued work."""

    def __init__(self, total_bytes: int) -> None:
        self.total_bytes = total_bytes
        self.used_bytes = 0
        self.open: Counter[str] = Counter()
        self.lock = threading.RLock()
        self._faults: list[_Fault] = []
        self._broken = ""
        self._pid = os.getpid()

    def fail_at(self, call: Call, nth: int, failure: Exception | None) -> None:
        """As `HostRuntime.fail_at`."""
        memory = call in ("allocate", "pinned")
        usual = OutOfMemory(f"{call}: out of memory", stage="open") if memory else Unstable(f"{call}: failed", stage="load")
        self._faults.append(_Fault(call=call, failure=failure or usual, calls_left=nth))

    def check(self, call: str = "") -> None:
        """Raises what this call raises: Unstable in a fork or after a failed execution, or the fault that is due."""
        if self._pid != os.getpid():
            raise Unstable("CUDA was initialized before the fork; a child makes a runtime of its own", stage="open")
        if self._broken:
            raise Unstable(f"the context is unusable since: {self._broken}", stage="load")
        for fault in self._faults:
            if fault.is_due(call):
                raise fault.failure

    def run(self, work: Work) -> None:
        """One piece of queued work has run; a failure of it leaves the device unusable."""
        try:
            self.check("work")
            work()
        except Exception as exc:
            self._broken = self._broken or str(exc)
            if isinstance(exc, CandidateRejected):
                raise
            raise Unstable(f"an execution failed: {exc}", stage="load") from exc
