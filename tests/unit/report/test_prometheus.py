"""What Prometheus reads of a study: its own parser understands it, units are base units, labels stay few."""

from __future__ import annotations

import urllib.request
from dataclasses import replace
from typing import Any

import pytest

from autotune.errors import EnvironmentProblem
from autotune.report.prometheus import Durations, ErrorSample, StudySample, exposition, registry_of, serve

pytest.importorskip("prometheus_client", reason="pip install 'autotune[metrics]'")


def durations(label: str, **seconds: tuple[float, ...]) -> Durations:
    found = Durations(label)
    for value, each in seconds.items():
        for s in each:
            found.add(value, s)
    return found


SAMPLE = StudySample(
    study="s", state="paused", states=("running", "paused", "idle"), is_paused=True, began_at="1970-01-01T00:01:00+00:00",
    n_trials={"complete": 5, "rejected": 2, "crashed": 1}, n_running=1, target=12,
    n_repetitions={"final": 3, "canary": 4}, n_front=2, n_workers={"working": 1, "paused": 2, "lost": 0},
    best={"accuracy": 0.9, "throughput": 800.0, "latency_p99": 25.0, "memory": 2.0},
    reference={"throughput": 100.0}, hypervolume_ratio=7.5, trial_s=durations("role", search=(2.0, 40.0)),
    stage_s=durations("stage", load=(0.05, 5000.0)),
    last_error=ErrorSample(trial=3, role="search", reason="build_failed", stage="engine", message='a "b"\n\\c ' + "x" * 500,
                           at="1970-01-01T00:02:00+00:00"),
    telemetry=[("cpu_percent", "%", 50.0), ("process_rss_mib", "MiB", 2.0), ("gpu_power_w", "W", 70.0),
               ("strange name!", "1", 3.0)],
    telemetry_at="1970-01-01T00:03:00+00:00",
)  # fmt: skip


def scraped(sample: StudySample | None) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample of a scrape by its name and its labels, the study's apart, as Prometheus' own parser reads it."""
    from prometheus_client.parser import text_string_to_metric_families

    found = {}
    for family in text_string_to_metric_families(exposition(registry_of(lambda: sample))):
        for s in family.samples:
            labels = {k: v for k, v in s.labels.items() if k != "study"}
            assert not s.name.startswith("autotune_") or s.name == "autotune_database_up" or s.labels["study"] == "s"
            found[s.name, tuple(sorted(labels.items()))] = s.value
    return found


def test_a_study_is_read_by_prometheus_own_parser() -> None:
    """Counts, bests in base units, states, durations and telemetry: every number where it belongs."""
    found = scraped(SAMPLE)
    expected: dict[Any, float] = {
        ("autotune_database_up", ()): 1,
        ("autotune_trials_total", (("state", "complete"),)): 5,
        ("autotune_trials_total", (("state", "crashed"),)): 1,
        ("autotune_trials_running", ()): 1,
        ("autotune_trials_queued", ()): 3,  # 12 - 5 - 2 - 1 - 1
        ("autotune_repetitions_total", (("role", "canary"),)): 4,
        ("autotune_workers", (("state", "paused"),)): 2,
        ("autotune_paused", ()): 1,
        ("autotune_study_state", (("state", "paused"),)): 1,
        ("autotune_study_state", (("state", "running"),)): 0,
        ("autotune_study_created_timestamp_seconds", ()): 60,
        ("autotune_best_throughput_items_per_second", ()): 800,
        ("autotune_best_latency_p99_seconds", ()): 0.025,
        ("autotune_best_memory_bytes", ()): 2 * 2**20,
        ("autotune_reference_throughput_items_per_second", ()): 100,
        ("autotune_hypervolume_ratio", ()): 7.5,
        ("autotune_trial_duration_seconds_bucket", (("le", "3.0"), ("role", "search"))): 1,
        ("autotune_trial_duration_seconds_bucket", (("le", "+Inf"), ("role", "search"))): 2,
        ("autotune_trial_duration_seconds_sum", (("role", "search"),)): 42,
        ("autotune_stage_duration_seconds_count", (("stage", "load"),)): 2,
        ("autotune_last_error_timestamp_seconds", ()): 120,
        ("autotune_telemetry_cpu_ratio", ()): 0.5,
        ("autotune_telemetry_process_rss_bytes", ()): 2 * 2**20,
        ("autotune_telemetry_gpu_power_watts", ()): 70,
        ("autotune_telemetry_strange_name_", ()): 3,
        ("autotune_telemetry_timestamp_seconds", ()): 180,
    }
    assert {key: found.get(key) for key in expected} == expected


def test_the_last_error_is_one_series_of_bounded_length() -> None:
    """A build log of megabytes becomes one line of 160 letters, in one series."""
    infos = [dict(labels) for name, labels in scraped(SAMPLE) if name == "autotune_last_error_info"]
    assert len(infos) == 1 and infos[0]["reason"] == "build_failed"
    assert infos[0]["message"].startswith('a "b" \\c x') and len(infos[0]["message"]) == 160


def test_what_was_not_measured_has_no_series() -> None:
    """Absent, not zero."""
    bare = replace(SAMPLE, best={}, reference={}, hypervolume_ratio=None, last_error=None, telemetry=[], telemetry_at=None)
    names = {name for name, _ in scraped(bare)}
    assert not [n for n in names if "best" in n or "hypervolume" in n or "last_error" in n or "telemetry" in n]


def test_without_its_database_a_study_is_down() -> None:
    """One series says so; nothing old is shown as new."""
    assert {k: v for k, v in scraped(None).items() if k[0].startswith("autotune_")} == {("autotune_database_up", ()): 0}


def test_labels_do_not_explode() -> None:
    """Whatever stages plug-ins invent, there are at most 17."""
    many = Durations("stage")
    for i in range(100):
        many.add(f"stage{i}", 1.0)
    assert len(many.counts) == 17 and sum(many.counts["other"]) == 84


def test_it_is_served_where_asked() -> None:
    """A free port on loopback; once more on the same port is told with what to do."""
    address, end = serve(registry_of(lambda: SAMPLE), "127.0.0.1", 0)
    try:
        with urllib.request.urlopen(address, timeout=10) as answer:
            assert b"autotune_hypervolume_ratio" in answer.read()
        with pytest.raises(EnvironmentProblem, match="another port"):
            serve(registry_of(lambda: SAMPLE), "127.0.0.1", int(address.split(":")[2].split("/")[0]))
    finally:
        end()
