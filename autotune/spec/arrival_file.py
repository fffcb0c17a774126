"""A recorded trace of arrivals: a CSV file as numbers, or a fault that names its line."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from autotune.errors import SpecError, SpecProblem
from autotune.redact import without_password

MAX_BYTES = 256 << 20
MAX_SAMPLES = 4096
"""Of one arrival: as many as a query of the scenario multistream may have."""
_HEADERS = (["second"], ["second", "samples"])


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedArrivals:
    """Arrivals in order of time: `second` from the first one on, never falling, and the `samples` that each brings, ≥ 1."""

    second: tuple[float, ...]
    samples: tuple[int, ...]

    @property
    def period_s(self) -> float:
        """After so long the trace may begin again at its own mean rate: its span and one mean gap."""
        return self.second[-1] * len(self.second) / (len(self.second) - 1)

    @property
    def items_per_s(self) -> float:
        """Samples per second of the trace when it is repeated each period."""
        return sum(self.samples) / self.period_s


def read_arrivals(path: Path) -> RecordedArrivals:
    """The trace in the CSV file at `path`. Raises SpecError with the file's own line where it is not one."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise _fault(path, None, f"more than {MAX_BYTES >> 20} MiB", f"at most {MAX_BYTES >> 20} MiB")
        with path.open(newline="", encoding="utf-8-sig") as handle:
            rows = list(_numbers(path, csv.reader(handle)))
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise _fault(path, None, str(exc), "a CSV file in UTF-8 that can be read") from exc
    if len(rows) < 2 or rows[-1][0] <= rows[0][0]:
        raise _fault(path, None, f"{len(rows)} arrivals in no time", "at least two arrivals at different seconds")
    first = rows[0][0]
    return RecordedArrivals(second=tuple(at - first for at, _ in rows), samples=tuple(n for _, n in rows))


def _numbers(path: Path, lines: Iterator[list[str]]) -> Iterator[tuple[float, int]]:
    before, columns = -math.inf, 0
    for n, row in enumerate(lines, 1):
        cells = [cell.strip() for cell in row]
        if n == 1 and cells in _HEADERS:
            columns = len(cells)
            continue
        if any(cells):
            if columns and len(cells) != columns:
                found = f"{without_password(','.join(cells))[:60]!r} under a header of {columns}"
                raise _fault(path, n, found, f"{columns} columns, as the header says")
            before, samples = _arrival(path, n, cells, before)
            yield before, samples


def _arrival(path: Path, line: int, cells: Sequence[str], before: float) -> tuple[float, int]:
    shown = without_password(",".join(cells))[:60]
    try:
        second, samples = float(cells[0]), int(cells[1]) if len(cells) > 1 else 1
    except ValueError as exc:
        raise _fault(
            path, line, repr(shown), "a number of seconds, and after a comma, if any, a whole number of samples"
        ) from exc
    if len(cells) > 2 or not math.isfinite(second) or not 1 <= samples <= MAX_SAMPLES:
        allowed = f"finite seconds, and 1 to {MAX_SAMPLES} samples; the header may be second,samples"
        raise _fault(path, line, repr(shown), allowed)
    if second < before:
        raise _fault(path, line, f"{second:g} after {before:g}", "seconds that never fall")
    return second, samples


def _fault(path: Path, line: int | None, found: str, allowed: str) -> SpecError:
    return SpecError([SpecProblem(key="load.trace", found=found, allowed=allowed, file=str(path), line=line)])
