"""The control chart: how often it cries wolf and how soon it sees a change, on simulated series."""

from __future__ import annotations

import numpy as np
import pytest

from autotune.bench.control import changed


@pytest.mark.parametrize(("noise", "most"), [(0.005, 0.002), (0.01, 0.005), (0.02, 0.02), (0.03, 0.06), (0.04, 0.13)])
def test_false_alarms_in_thirty_steady_values(noise: float, most: float) -> None:
    """2,000 series: the stated rates (0.1, 0.8, 4 and 9 % at 1 to 4 %) with what 2,000 draws may be off by."""
    rng = np.random.default_rng(4)
    alarms = sum(changed(list(rng.normal(6, noise, 30))).changed_at is not None for _ in range(2000))
    assert alarms / 2000 <= most


@pytest.mark.parametrize(("shift", "within", "least"), [(-0.16, 2, 0.97), (0.16, 2, 0.97), (-0.10, 4, 0.97), (-0.06, 4, 0.4)])
def test_a_lasting_shift_is_noticed_soon(shift: float, within: int, least: float) -> None:
    """500 series with 2 % noise that shift after the 6th value; the first value of the new regime is found, or nearly."""
    rng = np.random.default_rng(5)
    noticed, places = 0, []
    for _ in range(500):
        values = [*rng.normal(6, 0.02, 6), *rng.normal(6 + shift, 0.02, within)]
        at = changed(values).changed_at
        noticed += at is not None
        places += [] if at is None else [at]
    assert noticed / 500 >= least
    assert np.mean(np.abs(np.array(places) - 6) <= 1) >= 0.9


def test_one_bad_process_is_suspicious_but_no_change() -> None:
    """16 % down once is worth another look at once; when the next are as before, nothing happened; a later change is seen."""
    steady = [6.0, 6.01, 5.99, 6.0, 6.01, 5.99]
    after = changed([*steady, 5.84])
    assert after.changed_at is None and after.suspicious
    calm = changed([*steady, 5.84, 6.0, 6.01])
    assert calm.changed_at is None and not calm.suspicious
    assert changed([*steady, 5.84, 6.0, 6.01, 5.84, 5.84]).changed_at == 9


def test_nothing_can_be_said_of_one_value() -> None:
    """No alarm without a comparison; identical values are as steady as can be."""
    for values in ([], [6.0], [6.0] * 40):
        found = changed(values)
        assert found.changed_at is None and not found.suspicious


def test_runs_that_are_noisy_in_themselves_raise_no_alarm() -> None:
    """500 series with 20 % noise of which the runs' own intervals speak: alarms in at most 8 %, without them in most."""
    rng = np.random.default_rng(6)
    series = [list(rng.normal(6, 0.2, 15)) for _ in range(500)]
    assert sum(changed(s, [0.2] * 15).changed_at is not None for s in series) / 500 <= 0.08
    assert sum(changed(s).changed_at is not None for s in series) / 500 > 0.5
