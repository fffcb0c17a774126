"""Tests on a real GPU: the first visible one, chosen as a study chooses it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from autotune.devices.gpu import select_gpu
from autotune.errors import EnvironmentProblem


@pytest.fixture(autouse=True)
def gpu() -> Iterator[None]:
    """One GPU is visible, to this process and to those it starts. Without NVML each library says for itself what there is."""
    before = dict(os.environ)
    try:
        select_gpu("cuda")
    except EnvironmentProblem:
        pass  # each test skips with what its own library says
    yield
    os.environ.clear()
    os.environ.update(before)
