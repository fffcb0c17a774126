"""`autotune metrics`, and where --metrics may listen."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from assets import fake_study as fake

from autotune.cli.metrics_server import StudyWatch, address_of, hypervolume_ratio
from autotune.errors import SpecError
from autotune.spec.load import load_spec
from autotune.store.repository import open_store
from autotune.study.objectives import objectives_of

pytest.importorskip("prometheus_client", reason="pip install 'autotune[metrics]'")
sys.path.insert(0, str(Path(__file__).parents[1] / "study"))
from study_samples import record, study  # found by the line above


@pytest.mark.parametrize(
    ("listen", "expected"),
    [
        ("9464", ("127.0.0.1", 9464)),
        ("0", ("127.0.0.1", 0)),
        ("0.0.0.0:9464", ("0.0.0.0", 9464)),
        ("[::1]:9464", ("::1", 9464)),
        ("monitoring.example:80", ("monitoring.example", 80)),
    ],
)
def test_metrics_stay_on_loopback_unless_a_host_is_named(listen: str, expected: tuple[str, int]) -> None:
    """A bare port is never reachable from elsewhere."""
    assert address_of(listen) == expected


@pytest.mark.parametrize("listen", ["", ":9464", "host", "host:", "70000", "-1", "::1:9464", "9464/metrics"])
def test_a_wrong_address_is_refused(listen: str) -> None:
    """Nothing is guessed, least of all every interface."""
    with pytest.raises(SpecError, match=r"allowed: \[HOST:\]PORT"):
        address_of(listen)


def test_the_reference_alone_has_a_hypervolume_of_one() -> None:
    """Two points: (1, 4) and (0.5, 8) as ratios to the reference dominate 4 + 0.5 · 4 = 6 of its rectangles."""
    objectives = objectives_of(study())
    reference = record(0, role="reference", accuracy=0.8, rate=100.0)
    assert hypervolume_ratio([reference], reference, objectives) == pytest.approx(1.0)
    front = [record(1, accuracy=0.8, rate=400.0), record(2, accuracy=0.4, rate=800.0)]
    assert hypervolume_ratio(front, reference, objectives) == pytest.approx(6.0)
    assert hypervolume_ratio([], reference, objectives) == 0.0


def test_a_running_study_is_scraped(tmp_path: Path) -> None:
    """`metrics --once` prints it; durations are counted once however often one looks."""
    fake.write_study(tmp_path, ("trials: 12", "trials: 4"), ("max_s: 0.2", "max_s: 0.1"))
    fake.autotune(tmp_path, "start", "study.yaml")
    text = fake.autotune(tmp_path, "metrics", "study.yaml", "--once").stdout
    assert scraped(text)["autotune_trials_target"] == 4 and scraped(text)["autotune_trials_queued"] == 0
    assert scraped(text)["autotune_hypervolume_ratio"] > 1
    spec = load_spec(tmp_path / "study.yaml")
    watch = StudyWatch(open_store(spec.storage), "fake", spec)
    for _ in range(2):
        sample = watch.look()
        assert sample is not None and sum(sample.trial_s.counts["search"]) == 4 and sum(sample.trial_s.counts["reference"]) == 1
    assert sample.best["throughput"] > sample.reference["throughput"] and sample.state == "idle"


def scraped(text: str) -> dict[str, Any]:
    """The last sample of each name."""
    from prometheus_client.parser import text_string_to_metric_families

    return {s.name: s.value for family in text_string_to_metric_families(text) for s in family.samples}
