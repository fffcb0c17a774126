"""What a host knows of its shared artifacts: how many came and went, how often they failed, until when to leave them alone."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from autotune.cache.locks import locked
from autotune.redact import url_without_secrets, without_password

REST_S = 60.0
"""So long nobody asks again after a failure: trials would otherwise each wait for a share that is away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteCounts:
    """Artifacts `fetched` and `pushed` by this host, and `failures` of the tier, with the words of the last one."""

    fetched: int = 0
    pushed: int = 0
    failures: int = 0
    last_failure: str = ""
    rests_until: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteState:
    """The counts in a file of the cache, one for all processes of a host."""

    root: Path
    url: str
    clock: Callable[[], float] = field(default=time.time)

    @property
    def path(self) -> Path:
        """The file."""
        return self.root / ".shared.json"

    @property
    def shown_url(self) -> str:
        """The URL for messages, without a password."""
        return url_without_secrets(self.url)

    def read(self) -> RemoteCounts:
        """The counts, zeros where nothing was counted or can be read."""
        with suppress(OSError, ValueError, TypeError, AttributeError):
            values: Any = json.loads(self.path.read_text())
            return RemoteCounts(**{k: v for k, v in values.items() if k in RemoteCounts.__slots__})
        return RemoteCounts()

    def is_resting(self) -> bool:
        """True while a failure is too recent to try again. A clock that was set back ends the rest."""
        until = self.read().rests_until
        return until - REST_S <= self.clock() < until

    def count(
        self, *, fetched: int = 0, pushed: int = 0, failures: int = 0, last_failure: str = "", rests: bool = False
    ) -> None:
        """So many more; `rests` begins a rest. Best effort: a count that cannot be written is lost."""
        with suppress(OSError, TypeError), locked(self.path.with_name(".shared.lock")):
            was = self.read()
            now = RemoteCounts(
                fetched=was.fetched + fetched,
                pushed=was.pushed + pushed,
                failures=was.failures + failures,
                last_failure=without_password(last_failure) or was.last_failure,
                rests_until=self.clock() + REST_S if rests else was.rests_until,
            )
            temporary = self.path.with_name(".shared.part")
            temporary.write_text(json.dumps(asdict(now)))
            temporary.replace(self.path)
