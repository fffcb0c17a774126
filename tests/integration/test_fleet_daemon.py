"""A study over several devices that runs for days: detached, watched, paused and stopped as one on a single device is."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from assets import fake_study as fake
from assets.watching import detached, kill_all_of, status, wait_until

from autotune.cli.logs import MAX_BYTES

TWO = ("engines: [fake]", "engines: [fake]\ndevices: [fake:0, fake:1]")
KINDS = ("engines: [fake]", "engines: [fake]\ndevices: [cpu, fake:0]\ndevice_kinds: several")
MANY = ("trials: 12", "trials: 5000")
FEW = ("trials: 12", "trials: 2")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder of studies; whatever still runs there at the end is killed."""
    yield tmp_path
    kill_all_of(tmp_path)


def logs(folder: Path) -> Path:
    return folder / "cache" / "logs" / "fake"


def scraped(log: str) -> str:
    address = re.search(r"metrics: (http://127\.0\.0\.1:\d+/metrics)", log)
    assert address, log
    with urllib.request.urlopen(address[1], timeout=30) as answer:
        text: str = answer.read().decode()
    return text


def has_left(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_detached_fleet_is_told_what_to_do_from_another_shell(folder: Path) -> None:
    """Both workers wait in a pause, go on after it, and leave at a stop, and their supervisor with them."""
    fake.write_study(folder, TWO, MANY, ("max_s: 0.2", "max_s: 0.1"))
    pid = detached(folder)
    wait_until(lambda: len(status(folder)["workers"]) == 2)
    assert status(folder)["state"] == "running" and not has_left(pid)
    fake.autotune(folder, "pause", "study.yaml")
    wait_until(lambda: [w["state"] for w in status(folder)["workers"]] == ["paused"] * 2)
    assert "2 worker(s) go on" in fake.autotune(folder, "resume", "study.yaml").stderr
    wait_until(lambda: status(folder)["running"])
    assert "2 worker(s) of fake asked to stop" in fake.autotune(folder, "stop", "study.yaml").stderr
    wait_until(lambda: has_left(pid))
    assert status(folder)["state"] == "idle" and status(folder)["workers"] == []
    assert "worker-2 on fake:1" in fake.autotune(folder, "logs", "study.yaml").stdout
    assert "study fake: 0 of 5000 trials done" in fake.autotune(folder, "logs", "study.yaml", "--worker", 2).stdout


def test_a_paused_fleet_says_that_it_waits(folder: Path) -> None:
    """`start --detach` comes back while its workers wait, with what to do."""
    fake.write_study(folder, TWO, FEW)
    fake.autotune(folder, "start", "study.yaml", "--trials", 1)
    fake.autotune(folder, "pause", "study.yaml")
    done = fake.autotune(folder, "start", "study.yaml", "--detach")
    assert "it is paused since" in done.stderr and "autotune resume study.yaml" in done.stderr


def test_a_fleet_logs_objects_and_serves_its_metrics(folder: Path) -> None:
    """--log-format json holds for the supervisor and for its workers; --metrics is the supervisor's."""
    pytest.importorskip("prometheus_client", reason="pip install 'autotune[metrics]'")
    fake.write_study(folder, TWO, MANY, ("max_s: 0.2", "max_s: 0.1"))
    pid = detached(folder, "--log-format", "json", "--metrics", 0)
    wait_until(lambda: len(status(folder)["workers"]) == 2)
    log = logs(folder) / "start.log"
    wait_until(lambda: 'autotune_workers{state="working",study="fake"} 2.0' in scraped(log.read_text()))
    outcomes = [f"worker-{n}.log" for n in (1, 2)]
    wait_until(lambda: all("trial=" in (logs(folder) / name).read_text() for name in outcomes))
    fake.autotune(folder, "stop", "study.yaml")
    wait_until(lambda: has_left(pid))
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {line["study"] for line in lines} == {"fake"}
    assert any(line["message"].startswith("worker-2 on fake:1: process") for line in lines)
    for name in outcomes:
        found = [json.loads(line) for line in (logs(folder) / name).read_text().splitlines()]
        assert len({line["worker"] for line in found if line["message"].startswith("trial=")}) == 1


def test_metrics_of_a_study_in_parts_are_of_all_parts(folder: Path) -> None:
    """Each kind of device is a study of its own, and the fleet's metrics have them all, each name of a series once."""
    parser = pytest.importorskip("prometheus_client.parser", reason="pip install 'autotune[metrics]'")
    fake.write_study(folder, KINDS, MANY)
    pid = detached(folder, "--metrics", 0)
    wait_until(lambda: isinstance(found := status(folder), list) and [len(part["workers"]) for part in found] == [1, 1])
    families = list(parser.text_string_to_metric_families(scraped((logs(folder) / "start.log").read_text())))
    names = [family.name for family in families]
    assert len(names) == len(set(names))
    [targets] = [family for family in families if family.name == "autotune_trials_target"]
    assert {s.labels["study"] for s in targets.samples} == {part["study"] for part in status(folder)}
    assert len(targets.samples) == 2 and "worker-2 on fake:0" in fake.autotune(folder, "logs", "study.yaml").stdout
    fake.autotune(folder, "stop", "study.yaml")
    wait_until(lambda: has_left(pid))


def test_logs_of_a_fleet_rotate(folder: Path) -> None:
    """A worker's log that is full is moved and begun anew by the worker; --log-file is the supervisor's."""
    fake.write_study(folder, TWO, FEW, ("max_s: 0.2", "max_s: 0.1"))
    logs(folder).mkdir(parents=True)
    for name in ("worker-1.log", "worker-2.log"):
        (logs(folder) / name).write_bytes(b"x" * (MAX_BYTES - 1) + b"\n")
    done = fake.autotune(folder, "start", "study.yaml", "--log-file", "a.log", "--json")
    assert {w["exit_code"] for w in json.loads(done.stdout)["workers"]} == {0}
    log = (folder / "a.log").read_text()
    assert "worker-1 on fake:0: process" in log and "worker-2 on fake:1: process" in log
    written = [n for n in (1, 2) if (logs(folder) / f"worker-{n}.log.1").exists()]
    assert written  # who had a trial to log
    assert all((logs(folder) / f"worker-{n}.log").stat().st_size < MAX_BYTES for n in written)


def test_a_fleet_that_cannot_begin_says_why(folder: Path) -> None:
    """`start --detach` comes back with the exit code and the log's end; what no fleet can do is refused with the reason."""
    fake.write_study(folder, TWO, FEW)
    refused = fake.autotune(folder, "start", "study.yaml", "--again", expect=2).stderr
    assert "--again: allowed on one device" in refused and "several workers" in refused
    (folder / "model.onnx").write_bytes(b"no model")
    done = fake.autotune(folder, "start", "study.yaml", "--detach", expect=2)
    assert "did not start; its log" in done.stderr and "worker-1 (fake:0) ended with 2, and stays away; log:" in done.stderr
