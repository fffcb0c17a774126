"""optuna-dashboard on our database: constraints are there, infeasible trials are no best trials, and it listens on loopback."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen
from wsgiref.util import setup_testing_defaults

import pytest
from assets import fake_study as fake

pytest.importorskip("optuna_dashboard", reason="optuna-dashboard is not installed: pip install 'autotune[dashboard]'")

from autotune.cli.deliver_commands import dashboard
from autotune.report.dashboard import dashboard_app


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study of four trials: only int8 reaches 5,000 items/s, so fp32 is more accurate and infeasible.

    By the fake's formula two servers give at most 2·32/18 ms = 3,556 items/s in fp32 and 8,889 in int8.
    """
    folder = tmp_path_factory.mktemp("dashboard")
    fake.write_study(
        folder,
        ("trials: 12", "trials: 4"),
        ("[fp32, int8, int8-tensor]", "[fp32, int8]"),
        ("streams: [1, 2, 4]", "streams: [1, 2]"),
        ("worker_threads: [1, 2, 4]", "worker_threads: [1, 2]"),
        (fake.PRIORS, "priors: [{precision: int8, batch_size: 32, streams: 2, worker_threads: 2}]"),
        ("accuracy_drop: 0.05", "throughput: 5000"),
    )
    fake.autotune(folder, "start", "study.yaml")
    return folder


def get(app: Any, path: str) -> Any:
    """The JSON that the application answers a GET with."""
    path, _, query = path.partition("?")
    environ: dict[str, Any] = {"PATH_INFO": path, "QUERY_STRING": query}
    setup_testing_defaults(environ)
    status: list[str] = []
    body = b"".join(app(environ, lambda code, headers, exc_info=None: status.append(code)))
    assert status[0].startswith("200"), (status, body[:500])
    return json.loads(body)


@pytest.fixture(scope="module")
def details(study: Path) -> Any:
    app = dashboard_app(f"sqlite:///{study / 'study.db'}")
    summaries = get(app, "/api/studies")["study_summaries"]
    (ours,) = [s for s in summaries if s["study_name"] == "fake"]
    return get(app, f"/api/studies/{ours['study_id']}?after=0")


def test_complete_trials_carry_their_constraints(details: Any) -> None:
    """The page colours a trial by these numbers; without them every trial would look feasible."""
    complete = [t for t in details["trials"] if t["state"] == "Complete"]
    assert len(complete) >= 4
    for trial in complete:
        assert len(trial["constraints"]) == 2
    # sorted by name: runs is −1 for a trial with a result, throughput is the share of 5,000 items/s that is lacking
    for trial in complete:
        runs, lacking = trial["constraints"]
        assert runs == -1 and lacking == pytest.approx((5000 - trial["values"][1]) / 5000, abs=1e-6)
    assert {max(t["constraints"]) > 0 for t in complete} == {True, False}


def test_only_feasible_trials_are_best(details: Any) -> None:
    """The badge for the best trials goes to trials that keep to the constraints, not to the more accurate fp32."""
    feasible = {t["number"] for t in details["trials"] if t["state"] == "Complete" and max(t["constraints"]) <= 0}
    best = {t["number"] for t in details["best_trials"]}
    assert best and best <= feasible


def test_metrics_have_names(details: Any) -> None:
    """The axes read accuracy and throughput, not "Objective 0"."""
    assert details["objective_names"] == ["accuracy", "throughput (items/s)"]


def test_the_database_is_not_changed_by_looking(study: Path) -> None:
    """The old form of the constraints exists in the dashboard's memory only."""
    get(dashboard_app(f"sqlite:///{study / 'study.db'}"), "/api/studies")
    assert not any("constraints" in t.system_attrs for t in fake.optuna_trials(study))


def test_the_default_host_is_loopback() -> None:
    """The dashboard can delete studies and has no login, so the network sees it only when asked to."""
    (host,) = [p for p in dashboard.params if p.name == "host"]
    assert host.default == "127.0.0.1"


def _heeds_interrupts() -> None:
    """Programs that a shell runs in the background (`make test &`) ignore SIGINT, and so do their children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def served(study: Path) -> Iterator[str]:
    """The address of a dashboard served by the command line."""
    process = subprocess.Popen(
        fake.command("dashboard", "study.yaml", "--port", "0"), cwd=study, env=fake.environment(study),
        stderr=subprocess.PIPE, text=True, preexec_fn=_heeds_interrupts,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        found = re.search(r"fake: (http://127\.0\.0\.1:\d+/dashboard/)", process.stderr.readline())
        assert found
        yield found[1]
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
        assert process.returncode == 130


def test_the_command_serves_the_page(served: str) -> None:
    """`autotune dashboard STUDY` prints an address at which the page is; Ctrl-C ends it with 130."""
    with urlopen(served, timeout=20) as answer:
        assert b"<html" in answer.read().lower()


def test_a_taken_port_is_explained(study: Path, served: str) -> None:
    """Exit code 3 with the way out."""
    port = re.search(r":(\d+)/", served)
    assert port
    done = fake.autotune(study, "dashboard", "study.yaml", "--port", port[1], expect=3)
    assert "--port 0" in done.stderr


def test_a_browser_draws_it(served: str, tmp_path: Path) -> None:
    """A real browser loads the study list without a script error that leaves the page empty."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium in PATH")
    picture = tmp_path / "page.png"
    words = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=8000", f"--screenshot={picture}", served]
    subprocess.run([browser, *words], check=True, capture_output=True, timeout=120, cwd=tmp_path)
    assert picture.stat().st_size > 5000
