"""What runs beside a worker on a host of Ray's: its log is handed over whole, and takes no disk once it was."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from assets import fake_study as fake

from autotune.fleet.ray_host import WorkerHost


def test_a_log_is_handed_over_whole_and_then_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Piece by piece by its offset; what was gathered is kept by who gathers it."""
    for name, value in fake.environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    host, gathered = WorkerHost(), b""
    host.start(["schema"], {}, "0")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        code, piece = host.look(len(gathered))
        gathered += piece
        if code is not None and not piece:
            break
        time.sleep(0.05)
    expected = fake.autotune(tmp_path, "schema").stdout.encode()
    assert (code, gathered) == (0, expected)
    kept = os.fstat(host._log.fileno())
    assert kept.st_size == len(expected) and kept.st_blocks * 512 < len(expected) // 2
