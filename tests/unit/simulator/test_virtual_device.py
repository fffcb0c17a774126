"""The virtual device: what a trial costs on the virtual clock, added up by hand, and what it measures."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

import pytest
from assets.recorded_sweep import (
    ACCURACY_S,
    ENGINE_S,
    LOAD_S,
    OPEN_S,
    OTHER_S,
    PROBE_S,
    PRUNE_S,
    REFERENCE_S,
    SPREAD,
    VARIANT_S,
    candidate,
    rate,
    table,
)

from autotune.errors import SpecError
from autotune.records import GIVEN_UP
from autotune.simulator.virtual_device import VirtualDevice
from autotune.trial.request import Rival, TrialRequest

EVERY_TIME_S = OTHER_S + OPEN_S + LOAD_S


def request(c: Any, rivals: tuple[Rival, ...] = ()) -> TrialRequest:
    path = Path("nowhere")
    return TrialRequest(
        spec=table().spec(), number=1, role="search", candidate=c, cache_root=path, log_path=path, rivals=rivals
    )


def test_the_first_use_of_an_artifact_costs_and_the_second_does_not() -> None:
    """fp16 is new: variant 4 + engine 2 + accuracy 3. With other streams only the load is left, and the probe of accuracy."""
    device = VirtualDevice(table())
    first = device.run(request(candidate("fp16")))
    assert device.now_s == pytest.approx(EVERY_TIME_S + VARIANT_S["fp16"] + ENGINE_S + ACCURACY_S)
    assert first.cached == () and first.stage_s["variant"] == VARIANT_S["fp16"]
    before = device.now_s
    second = device.run(request(candidate("fp16", streams=2)))
    assert device.now_s - before == pytest.approx(EVERY_TIME_S + PROBE_S)
    assert second.cached == ("variant", "engine", "accuracy")


def test_another_batch_is_another_engine() -> None:
    """The engine is built with the batch: variant and accuracy are known, the engine is not."""
    device = VirtualDevice(table())
    device.run(request(candidate("fp16")))
    before = device.now_s
    found = device.run(request(candidate("fp16", batch=4)))
    assert device.now_s - before == pytest.approx(EVERY_TIME_S + PROBE_S + ENGINE_S) and "engine" not in found.cached


def test_pruning_is_paid_for_once_for_all_precisions() -> None:
    """The second precision of a ratio finds the pruned model."""
    device = VirtualDevice(table())
    device.run(request(candidate("fp32", ratio=0.5)))
    assert device.spent_s["prune"] == PRUNE_S
    found = device.run(request(candidate("fp16", ratio=0.5)))
    assert device.spent_s["prune"] == PRUNE_S and "prune" in found.cached and "variant" not in found.cached


def test_without_caches_everything_is_made_anew() -> None:
    """A plain loop pays for variant, engine and accuracy each time."""
    device = VirtualDevice(table(), caches=False)
    for _ in range(2):
        assert device.run(request(candidate("fp16"))).cached == ()
    assert device.now_s == pytest.approx(2 * (EVERY_TIME_S + VARIANT_S["fp16"] + ENGINE_S + ACCURACY_S))


def test_a_rejected_variant_costs_what_its_rejection_took() -> None:
    """int8 is built, opened and found wanting, without a load; the next setting of it finds all of that and costs 0.875 s."""
    device = VirtualDevice(table())
    found = device.run(request(candidate("int8")))
    assert device.now_s == pytest.approx(OTHER_S + OPEN_S + VARIANT_S["int8"] + ENGINE_S + ACCURACY_S)
    assert found.state == "rejected" and found.throughput_items_per_s is None and found.accuracy is not None
    before = device.now_s
    device.run(request(candidate("int8", streams=2)))
    assert device.now_s - before == pytest.approx(OTHER_S + OPEN_S + PROBE_S)


def test_the_reference_makes_what_it_shares() -> None:
    """It takes the ten seconds that it took, and the fp32 variant with batch 1 is there afterwards."""
    device = VirtualDevice(table())
    record = device.measure_reference()
    assert device.now_s == REFERENCE_S and record.role == "reference"
    device.run(request(candidate("fp32", streams=2)))
    assert device.now_s == pytest.approx(REFERENCE_S + EVERY_TIME_S + PROBE_S)


def test_times_are_on_the_virtual_clock() -> None:
    """A record begins and ends where the clock stood."""
    device = VirtualDevice(table())
    assert device.run(request(candidate("fp16"))).duration_s == pytest.approx(device.now_s, abs=1e-3)


def test_noise_is_that_between_the_recorded_processes() -> None:
    """Two processes at ±2 % around the mean: the standard deviation is √2 · 2 %, and 400 draws show it around the truth."""
    made = table()
    assert made.process_sd == pytest.approx(math.sqrt(2) * SPREAD)
    device = VirtualDevice(made, seed=3)
    drawn = [device.run(request(candidate("fp16"))).throughput_items_per_s for _ in range(400)]
    logs = [math.log(r.value / rate(candidate("fp16"))) for r in drawn if r]
    assert statistics.fmean(logs) == pytest.approx(0.0, abs=3 * 0.028 / 20)
    assert statistics.pstdev(logs) == pytest.approx(math.sqrt(2) * SPREAD, rel=0.02)


def test_noise_may_be_given() -> None:
    """With a spread of none every load gives the mean."""
    device = VirtualDevice(table(), noise_sd=0.0)
    found = device.run(request(candidate("fp16"))).throughput_items_per_s
    assert found is not None and found.value == pytest.approx(160.0) and found.half_width == pytest.approx(1.6)


def test_equal_seeds_give_equal_records() -> None:
    """A replay can be repeated; another seed draws anew."""
    runs = [[VirtualDevice(table(), seed=s).run(request(candidate(b))) for b in ("fp32", "fp16")] for s in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


def test_a_slower_candidate_is_given_up() -> None:
    """A rival of 1,000 items/s: after three windows of six it is certain, and three windows of half a second are saved."""
    device = VirtualDevice(table(), noise_sd=0.0)
    found = device.run(request(candidate("fp16"), (Rival(accuracy=0.9, items_per_s=1000.0),)))
    assert found.flags == (GIVEN_UP,) and found.stage_s["load"] == pytest.approx(LOAD_S - 3 * 0.5)
    assert found.throughput_items_per_s is not None and found.throughput_items_per_s.n == 3
    assert found.throughput_items_per_s.half_width > 1.6, "three windows tell less than six"


def test_a_more_accurate_candidate_is_not_given_up() -> None:
    """Only a rival that is at least as accurate ends a load: fp16 has 0.895. A faster but less accurate one beats nobody."""
    device = VirtualDevice(table(), noise_sd=0.0)
    flags = {a: device.run(request(candidate("fp16"), (Rival(accuracy=a, items_per_s=1000.0),))).flags for a in (0.89, 0.9)}
    assert flags == {0.89: (), 0.9: (GIVEN_UP,)}


def test_what_the_table_does_not_hold_cannot_run() -> None:
    """Nothing is made up between the points of the grid."""
    with pytest.raises(SpecError, match="no point engine=box"):
        VirtualDevice(table()).run(request(candidate(streams=7)))
