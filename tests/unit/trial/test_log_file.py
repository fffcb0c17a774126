"""A trial's log is short when the trial has ended, does not grow without end before, and is there only if it says something."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import printing_engine
import pytest
from faulty_study import fake_candidate, fake_spec, request

from autotune.cache.trial_logs import everything
from autotune.records import TrialRecord
from autotune.spec.model import CacheSpec
from autotune.trial.isolation import TrialProcess
from autotune.trial.log_file import MOST_BYTES, keep_short, settle

CUT = re.compile(rb"\n--- (\d+) bytes were cut here ---\n")


def printed(folder: Path, monkeypatch: pytest.MonkeyPatch, what: str, fault: str = "") -> tuple[TrialRecord, Path]:
    """The record and the log of a trial whose engine prints."""
    monkeypatch.setenv("PRINTING", what)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(p for p in sys.path if p))
    spec = fake_spec(folder, engines=(printing_engine.NAME,))
    asked = request(spec, fake_candidate(fault, engine=printing_engine.NAME))
    with TrialProcess((printing_engine.__name__,)) as process:
        return process.run(asked), asked.log_path


def test_of_a_long_log_the_first_and_the_last_part_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 15 MB at most 4 MiB are left, and the line between the parts says exactly how much is not there."""
    record, log = printed(tmp_path, monkeypatch, "15000000")
    text = log.read_bytes()
    (line,) = CUT.finditer(text)
    assert record.state == "complete" and len(text) <= MOST_BYTES
    assert text.startswith(printing_engine.FIRST) and text.endswith(printing_engine.LAST)
    assert len(text) - len(line[0]) + int(line[1]) == 15_000_000


def test_a_trial_that_prints_at_once_leaves_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """110 MB, of which nobody knows how much was written before the log was first cut."""
    record, log = printed(tmp_path, monkeypatch, "110000000")
    assert record.state == "complete" and log.stat().st_size <= MOST_BYTES
    assert log.read_bytes().startswith(printing_engine.FIRST) and CUT.search(log.read_bytes())


def test_a_log_does_not_grow_while_its_trial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that prints without end finds its log cut, and is measured all the same."""
    record, log = printed(tmp_path, monkeypatch, "until-cut")
    assert record.state == "complete", record.reject
    assert log.stat().st_size <= MOST_BYTES and log.read_bytes().endswith(printing_engine.LAST)


def test_what_is_written_while_a_log_is_cut_stays_in_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line while the last part is moved, and one as soon as the log is seen to be shorter: both come last, in this order."""
    log = tmp_path / "0.log"
    log.write_bytes(b"first\n" + b"x" * (17 << 20) + b"\nlast\n")

    def also(text: bytes, call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any) -> Any:
            found = call(*arguments)
            if text not in log.read_bytes():
                with log.open("ab") as handle:
                    handle.write(text)
            return found

        return called

    monkeypatch.setattr(os, "pwrite", also(b"meanwhile\n", os.pwrite))
    monkeypatch.setattr(os, "ftruncate", also(b"afterwards\n", os.ftruncate))
    keep_short(log)
    text = log.read_bytes()
    (line,) = CUT.finditer(text)
    assert text.startswith(b"first\n") and text.endswith(b"x\nlast\nmeanwhile\nafterwards\n") and len(text) <= MOST_BYTES
    assert len(text) - len(line[0]) + int(line[1]) == len(b"first\n\nlast\nmeanwhile\nafterwards\n") + (17 << 20)


def test_a_crash_after_much_text_is_told_with_its_last_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message is as short as that of any other crash."""
    record, log = printed(tmp_path, monkeypatch, "15000000", "exit")
    assert record.reject is not None and str(log) in record.reject.message
    assert record.reject.message.endswith(printing_engine.LAST.decode().strip()) and len(record.reject.message) < 2000


def test_an_empty_log_is_gone_and_no_message_names_it(tmp_path: Path) -> None:
    """Ten thousand trials that print nothing leave no ten thousand files."""
    spec = fake_spec(tmp_path)
    asked = request(spec, fake_candidate("exit"), 1), request(spec, fake_candidate(), 2)
    with TrialProcess() as process:
        crashed, complete = (process.run(r) for r in asked)
    assert complete.state == "complete" and crashed.reject is not None
    assert "exit code 7" in crashed.reject.message and ".log" not in crashed.reject.message
    assert not any(r.log_path.exists() for r in asked)


def test_logs_alone_keep_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials that make no artifact any more still have the oldest logs evicted: 320 old ones and a new one, 300 are left."""
    monkeypatch.setenv("PRINTING", "2000000")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(p for p in sys.path if p))
    spec = fake_spec(tmp_path, engines=(printing_engine.NAME,))
    asked = request(spec, fake_candidate(engine=printing_engine.NAME), 321)
    logs = asked.cache_root / "logs" / "fake-study"
    with TrialProcess((printing_engine.__name__,)) as process:
        process.run(replace(asked, log_path=tmp_path / "elsewhere.log"))
        logs.mkdir(parents=True)
        for i in range(320):
            (logs / f"search-{i:05d}.log").write_text("old")
            os.utime(logs / f"search-{i:05d}.log", (i + 1, i + 1))
        used = sum(e.size_bytes for e in everything(asked.cache_root))
        bound = CacheSpec(folder=asked.cache_root, max_gib=(used + 1_000_000) / 2**30)
        bounded = replace(asked, spec=spec.model_copy(update={"cache": bound}), log_path=logs / "search-00320.log")
        assert process.run(bounded).state == "complete"
    assert sorted(p.name for p in logs.iterdir()) == [f"search-{i:05d}.log" for i in range(21, 321)]


def test_a_log_that_is_cut_several_times_counts_all_that_was_cut(tmp_path: Path) -> None:
    """Once while its trial ran, at its end, and when the second try wrote to it as well: one line with the sum."""
    log = tmp_path / "log"
    for n, cut in ((20_000_000, keep_short), (9_000_000, settle), (5_000_000, settle)):
        with log.open("ab") as writing:
            writing.write(b"x" * n)
        cut(log)
        (line,) = CUT.finditer(log.read_bytes())
    assert log.stat().st_size - len(line[0]) + int(line[1]) == 34_000_000


def test_a_short_log_stays_as_it_is(tmp_path: Path) -> None:
    """Up to 4 MiB nothing is touched; where there is no log, nothing happens."""
    log = tmp_path / "log"
    log.write_bytes(b"y" * MOST_BYTES)
    keep_short(log)
    settle(log)
    assert log.read_bytes() == b"y" * MOST_BYTES
    settle(tmp_path / "none")
