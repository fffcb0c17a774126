"""LoadGen's log folder as numbers: its verdict and rate from the detail log, each sample's latency from the trace log."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotune.errors import EnvironmentProblem

_DETAIL, _TRACE = "mlperf_log_detail.txt", "mlperf_log_trace.json"
_MARK = ":::MLLOG "
_KEPT_BYTES = 16 << 20
"""A trace has 300 bytes for each sample: of a fast engine hundreds of megabytes, which nobody reads again."""
_RATES = ("result_samples_per_second", "result_completed_samples_per_sec", "result_qps_with_loadgen_overhead")
"""LoadGen's own figure of Offline, Server and SingleStream; MultiStream reports latencies only."""

_SCHEDULED = "result_scheduled_samples_per_sec"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadGenRun:
    """One run. Samples in order of their number: `scheduled_ns` from LoadGen's begin, `issue_delay_ns`, `latency_ns` from the
    schedule to the answer, each shape (n_samples,). Rates are per second, None where the scenario has none."""

    version: str
    valid: bool
    items_per_s: float | None
    scheduled_per_s: float | None
    scheduled_ns: NDArray[np.int64]
    issue_delay_ns: NDArray[np.int64]
    latency_ns: NDArray[np.int64]

    def query_latency_ns(self, samples_per_query: int) -> NDArray[np.int64]:
        """Latency of each query, which is that of its last sample; a last query that is not whole is left out."""
        n = len(self.latency_ns) // samples_per_query
        return np.asarray(self.latency_ns[: n * samples_per_query].reshape(n, samples_per_query).max(axis=1, initial=0))

    def late_share(self, compared_ns: float) -> float | None:
        """Share of samples that LoadGen issued later than scheduled by more than 1 % of the latency they are judged by."""
        return float(np.mean(self.issue_delay_ns > 0.01 * compared_ns)) if len(self.issue_delay_ns) else None


def read_log(folder: Path, *, traced: bool = True) -> LoadGenRun:
    """The run whose logs LoadGen left in the folder; its trace is gone afterwards where it is larger than 16 MiB.

    Not `traced`: there are no samples in it. Raises EnvironmentProblem where the logs are not what this version reads.
    """
    try:
        found = dict(_details(folder / _DETAIL))
        samples = _samples(folder / _TRACE) if traced else np.empty((0, 4), dtype=np.int64)
    except (OSError, ValueError, KeyError) as exc:
        raise EnvironmentProblem(
            f"the logs of LoadGen in {folder} cannot be read: {type(exc).__name__}: {exc}.",
            remedy="pip install 'autotune[loadgen]'",
        ) from exc
    if traced and (folder / _TRACE).stat().st_size > _KEPT_BYTES:
        (folder / _TRACE).unlink()
    return LoadGenRun(
        version=str(found.get("loadgen_version", "?")).partition(" ")[0],
        valid=found.get("result_validity") == "VALID",
        items_per_s=next((float(found[k]) for k in _RATES if k in found), None),
        scheduled_per_s=float(found[_SCHEDULED]) if _SCHEDULED in found else None,
        scheduled_ns=samples[:, 1],
        issue_delay_ns=samples[:, 2],
        latency_ns=samples[:, 3],
    )


def _details(path: Path) -> Iterator[tuple[str, Any]]:
    for line in path.read_text(errors="replace").splitlines():
        if line.startswith(_MARK):
            entry = json.loads(line.removeprefix(_MARK))
            yield entry["key"], entry["value"]


def _samples(path: Path) -> NDArray[np.int64]:
    """Rows of (number, scheduled, issue delay, latency), nanoseconds, by number. One event of the trace stands on each line."""
    rows = []
    for line in path.read_text(errors="replace").splitlines():
        if line.startswith('{"name":"Sample"') and '"ph":"b"' in line:
            event = json.loads(line.rstrip(","))
            args = event["args"]
            rows.append((args["sample_seq"], round(event["ts"] * 1000), args["issue_start_ns"], args["complete_ns"]))
    found = np.array(rows, dtype=np.int64).reshape(-1, 4)
    return found[np.argsort(found[:, 0], kind="stable")]
