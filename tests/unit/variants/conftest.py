from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # tiny_models.py lies beside the tests


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """torch computes in one thread: small layers gain nothing from more, and wait for them where the machine is busy."""
    from autotune.fingerprint import library_version

    if library_version("torch") is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
