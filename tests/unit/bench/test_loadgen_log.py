"""LoadGen's logs, written by hand in its format."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autotune.bench.loadgen_log import read_log
from autotune.errors import EnvironmentProblem


def write(folder: Path, **details: object) -> None:
    """Two queries of two samples, scheduled at 1 and 2 ms, whose events stand out of order."""
    lines = [f":::MLLOG {json.dumps({'key': k, 'value': v, 'time_ms': 0.1})}" for k, v in details.items()]
    (folder / "mlperf_log_detail.txt").write_text("\n".join(["not a line of the log", *lines]))
    events = [(2, 2000.0, 50_000, 700_000), (0, 1000.0, 0, 400_000), (1, 1000.0, 0, 900_000), (3, 2000.5, 50_000, 500_000)]
    begun = [
        {"name": "Sample", "cat": "default", "ph": "b", "id": n, "ts": at, "args": {
            "sample_seq": n, "query_seq": 0, "sample_idx": 5, "issue_start_ns": delay, "complete_ns": done}}
        for n, at, delay, done in events
    ]  # fmt: skip
    other = [{"name": "Sample", "cat": "default", "ph": "e", "id": 0, "ts": 5.0}, {"name": "X", "ph": "X"}]
    written = [json.dumps(e, separators=(",", ":")) + "," for e in (*other, *begun)]
    (folder / "mlperf_log_trace.json").write_text("\n".join(['{"traceEvents":[', *written, "]}"]))


def test_a_run_as_numbers(tmp_path: Path) -> None:
    """Samples by number, nanoseconds; a query lasts as long as its last sample; half of the samples were issued 50 µs late."""
    details = {"loadgen_version": "6.0.17 @ abc", "result_validity": "VALID", "result_completed_samples_per_sec": 187.42}
    write(tmp_path, **details, result_scheduled_samples_per_sec=187.85)
    run = read_log(tmp_path)
    assert (run.version, run.valid, run.items_per_s, run.scheduled_per_s) == ("6.0.17", True, 187.42, 187.85)
    assert run.scheduled_ns.tolist() == [1_000_000, 1_000_000, 2_000_000, 2_000_500]
    assert run.latency_ns.tolist() == [400_000, 900_000, 700_000, 500_000]
    assert run.query_latency_ns(2).tolist() == [900_000, 700_000] and run.query_latency_ns(3).tolist() == [900_000]
    assert run.late_share(1_000_000) == 0.5 and run.late_share(10_000_000) == 0.0


def test_scenarios_without_a_rate_have_none(tmp_path: Path) -> None:
    """MultiStream reports latencies only; and what LoadGen does not call valid is not."""
    write(tmp_path, result_validity="INVALID")
    run = read_log(tmp_path)
    assert (run.valid, run.items_per_s, run.scheduled_per_s) == (False, None, None)


def test_a_run_without_a_trace_has_its_verdict_and_no_samples(tmp_path: Path) -> None:
    """Offline's: nothing is looked for beside the detail log."""
    write(tmp_path, result_validity="VALID", result_samples_per_second=2300.5)
    (tmp_path / "mlperf_log_trace.json").unlink()
    run = read_log(tmp_path, traced=False)
    assert (run.valid, run.items_per_s, len(run.latency_ns), len(run.query_latency_ns(1))) == (True, 2300.5, 0, 0)


def test_logs_that_are_not_there_are_told(tmp_path: Path) -> None:
    """A driver that wrote nothing is the machine's problem, with the folder to look at."""
    with pytest.raises(EnvironmentProblem, match=str(tmp_path)):
        read_log(tmp_path)
