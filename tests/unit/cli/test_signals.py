"""Signals of a study: the first ones press its switch, and late ones do not cut its farewell off."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from autotune.cli.running import signals_press
from autotune.study.session import StopSwitch


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_a_signal_presses_the_switch_and_a_late_one_does_nothing() -> None:
    """A process that was asked to leave says what it found, and its exit code is its own."""
    switch = StopSwitch()
    with signals_press(switch):
        os.kill(os.getpid(), signal.SIGTERM)
        assert switch.count == 1
    os.kill(os.getpid(), signal.SIGTERM)
    assert switch.count == 1


def test_without_a_signal_the_handlers_are_those_from_before() -> None:
    """What runs after an undisturbed study can be ended as anything else."""
    before = signal.getsignal(signal.SIGTERM)
    with signals_press(StopSwitch()):
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
