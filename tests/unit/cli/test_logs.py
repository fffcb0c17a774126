"""Logs for days: files that rotate with all that is printed, JSON lines, and their end followed."""

from __future__ import annotations

import contextlib
import json
import logging
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import pytest
from assets import fake_study as fake

from autotune.cli.log_command import followed
from autotune.cli.logs import JsonFormatter, LogContext, RotatingOutput, append_rotating, tail

PRINTS = """
import ctypes, logging, sys
from pathlib import Path
from autotune.cli.logs import RotatingOutput
handler = RotatingOutput(Path(sys.argv[1]), max_bytes=2000, n_kept=2, descriptors=(1, 2))
logging.getLogger().addHandler(handler)
libc = ctypes.CDLL(None)
for i in range(int(sys.argv[2])):
    libc.dprintf(1, b"native %d\\n", i)
    print("python", i, file=sys.stderr)
    logging.getLogger("x").warning("logged %d", i)
"""


def test_a_log_rotates_with_what_native_code_prints(tmp_path: Path) -> None:
    """Lines of C, of Python and of the log lie in order in files of bounded size, of which the oldest go."""
    log = tmp_path / "start.log"
    done = subprocess.run([sys.executable, "-c", PRINTS, str(log), "200"], capture_output=True, text=True, check=True)
    assert done.stdout == done.stderr == ""
    files = [tmp_path / "start.log.2", tmp_path / "start.log.1", log]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    assert all(f.stat().st_size < 2200 for f in files)
    lines = "".join(f.read_text() for f in files).splitlines()
    expected = [f"{kind} {i}" for i in range(200) for kind in ("native", "python", "logged")]
    assert lines == expected[-len(lines) :] and len(lines) > 200


def test_a_gathered_log_rotates_between_lines(tmp_path: Path) -> None:
    """Pieces that end anywhere lie in order in files of bounded size, of which the oldest go, and no line is parted."""
    log, lines = tmp_path / "worker-1.log", [f"line {i}\n" for i in range(400)]
    text = "".join(lines).encode()
    for begin in range(0, len(text), 37):
        append_rotating(log, text[begin : begin + 37], max_bytes=500, n_kept=2)
    files = [tmp_path / "worker-1.log.2", tmp_path / "worker-1.log.1", log]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    found = [file.read_text().splitlines(keepends=True) for file in files]
    kept = [line for part in found for line in part]
    assert kept == lines[-len(kept) :] and len(kept) > 60
    assert all(file.stat().st_size < 500 + 37 * 10 for file in files)


def test_a_line_of_json_says_which_trial_of_which_study() -> None:
    """Time, level, logger, message, study, trial and worker on every line; a traceback does not break it into several."""
    context = LogContext(study="s", worker="host-1", trial=7)
    try:
        raise ValueError("two\nlines")
    except ValueError:
        record = logging.LogRecord("autotune.x", logging.ERROR, "f", 1, "it %s", ("broke",), sys.exc_info())
    line = JsonFormatter(context).format(record)
    found = json.loads(line)
    assert "\n" not in line and "ValueError: two\nlines" in found.pop("traceback")
    assert found.pop("time").endswith("+00:00")
    assert found == {
        "level": "ERROR", "logger": "autotune.x", "message": "it broke", "study": "s", "trial": 7, "worker": "host-1",
    }  # fmt: skip


def test_a_studys_log_is_json_from_end_to_end(tmp_path: Path) -> None:
    """start --log-format json: every line of the log file is an object, trials under their number, and `logs` prints it."""
    fake.write_study(tmp_path, ("trials: 12", "trials: 2"), ("max_s: 0.2", "max_s: 0.1"))
    log = tmp_path / "cache" / "logs" / "fake" / "start.log"
    log.parent.mkdir(parents=True)
    fake.autotune(tmp_path, "start", "study.yaml", "--detach", "--log-format", "json")
    deadline = time.monotonic() + 60
    while "Pareto front" not in (log.with_suffix(".out").read_text() if log.with_suffix(".out").exists() else ""):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {line["study"] for line in lines if line["worker"]} == {"fake"}
    [worker] = {line["worker"] for line in lines if line["trial"] is not None}
    outcomes = [line for line in lines if line["message"].startswith("trial=")]
    assert [f"trial={line['trial']}" for line in outcomes] == [line["message"].split()[0] for line in outcomes]
    assert len(outcomes) == 2 and worker
    assert "Pareto front" in log.with_suffix(".out").read_text()
    said = fake.autotune(tmp_path, "logs", "study.yaml", "-n", 3).stdout
    assert said.splitlines() == log.read_text().splitlines()[-3:]


def test_on_stderr_every_line_is_an_object(tmp_path: Path) -> None:
    """start --log-format json without a file: also the address of the metrics, and the error that ends a command."""
    fake.write_study(tmp_path, ("trials: 12", "trials: 1"), ("max_s: 0.2", "max_s: 0.1"))
    done = fake.autotune(tmp_path, "start", "study.yaml", "--log-format", "json", "--metrics", "0")
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert any(line["message"].startswith("metrics: http://127.0.0.1") for line in lines)
    (tmp_path / "study.yaml").write_text("study: 5\n")
    wrong = fake.autotune(tmp_path, "start", "study.yaml", "--log-format", "json", expect=2)
    [line] = [json.loads(line) for line in wrong.stderr.splitlines()]
    assert line["level"] == "ERROR" and "study.yaml:1" in line["message"]


def test_a_log_file_takes_the_log_alone(tmp_path: Path) -> None:
    """Without --detach the document is on stdout, and what is wrong with the file is told where one looks."""
    fake.write_study(tmp_path, ("trials: 12", "trials: 2"), ("max_s: 0.2", "max_s: 0.1"))
    done = fake.autotune(tmp_path, "start", "study.yaml", "--log-file", "a.log", "--json")
    assert json.loads(done.stdout)["ended"] and "trial=" in (tmp_path / "a.log").read_text()
    wrong = fake.autotune(tmp_path, "start", "study.yaml", "--log-file", "/dev/null/a.log", expect=3)
    assert "cannot write /dev/null/a.log" in wrong.stderr


def test_a_log_that_cannot_be_written_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    """A full disk costs the log, not the study, and no traceback for each line."""
    handler = RotatingOutput(Path("/dev/full"))
    for i in range(3):
        handler.handle(logging.LogRecord("autotune.x", logging.INFO, "f", 1, "line %d", (i,), None))
    said = capsys.readouterr().err
    assert said == "warning: the log /dev/full cannot be written: No space left on device\n"
    with contextlib.suppress(OSError):
        handler.close()


@pytest.mark.parametrize(("n", "expected"), [(0, []), (2, [b"b\n", b"c"]), (9, [b"a\n", b"b\n", b"c"])])
def test_the_tail_is_the_last_lines(n: int, expected: list[bytes], tmp_path: Path) -> None:
    """A last line without its end counts."""
    (tmp_path / "x").write_bytes(b"a\nb\nc")
    assert tail(tmp_path / "x", n) == expected


def test_the_tail_of_a_large_file_reads_its_end_only(tmp_path: Path) -> None:
    """Lines longer than a block are whole."""
    (tmp_path / "x").write_bytes(b"first\n" * 50_000 + b"y" * 200_000 + b"\n")
    assert tail(tmp_path / "x", 2) == [b"first\n", b"y" * 200_000 + b"\n"]


def test_a_log_is_followed_through_its_rotation(tmp_path: Path) -> None:
    """What was written to the old file just before it moved comes before the new one's first line."""
    path = tmp_path / "start.log"
    path.write_bytes(b"old\n")
    steps = iter([lambda: path.open("ab").write(b"more\n"), lambda: rotate(path)])
    found = islice(followed(path, lambda _: next(steps)() and None), 3)
    assert list(found) == [b"more\n", b"last\n", b"new\n"]


def rotate(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"last\n")
    path.rename(path.with_suffix(".log.1"))
    path.write_bytes(b"new\n")
