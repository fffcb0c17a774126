"""Where each key of a study file was read, so that every fault, found now or later, names file and line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from autotune.errors import SpecProblem
from autotune.redact import without_password

_SHOWN_LENGTH = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Positions:
    """`lines`: dotted key → (file, line from 1, or None for the command line). `file` is where the whole was read.

    `spelled`: dotted key of the specification → the key that the file has for it, where a section has several forms.
    """

    file: str = ""
    lines: Mapping[str, tuple[str, int | None]] = field(default_factory=dict)
    spelled: Mapping[str, str] = field(default_factory=dict)

    def problem(self, key: str, found: str, allowed: str) -> SpecProblem:
        """A fault at `key`; a key that is not in the file is placed at the nearest section that is."""
        place = key = self._as_written(key)
        while place and place not in self.lines:
            place = place[: max(place.rfind("."), place.rfind("["), 0)]
        file, line = self.lines.get(place, (self.file, 1 if self.file else None))
        return SpecProblem(key=key, found=found, allowed=allowed, file=file, line=line)

    def _as_written(self, key: str) -> str:
        for length in range(key.count(".") + 1, 0, -1):
            head = ".".join(key.split(".")[:length])
            if head in self.spelled:
                return self.spelled[head] + key[len(head) :]
        return key


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """Collects the faults of one file, so that all of them are told at once."""

    positions: Positions
    problems: list[SpecProblem] = field(default_factory=list)

    def add(self, key: str, found: str, allowed: str) -> None:
        """One more fault, at the line of `key`."""
        self.problems.append(self.positions.problem(key, found, allowed))

    def at(self, positions: Positions) -> Faults:
        """The same collection, for keys of another file."""
        return Faults(positions=positions, problems=self.problems)


def dotted(location: Sequence[str | int]) -> str:
    """The location as people write it: data.validation.npz, priors[0].precision."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.removeprefix(".")


def shown(value: Any) -> str:
    """A value from a study file as a message shows it: short, in YAML's words, and without passwords."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        text = f"a section with the keys {', '.join(map(str, value))}" if value else "an empty section"
    elif isinstance(value, tuple | list):
        text = f"[{', '.join(shown(v) for v in value)}]"
    else:
        text = repr(value) if isinstance(value, str) else str(value)
    text = without_password(text)
    return text if len(text) <= _SHOWN_LENGTH else f"{text[:_SHOWN_LENGTH]}…"
