"""Many workers on one study: trials per time with four workers against one, and nothing lost when one is killed in mid-trial.

    python benchmarks/fleet.py --out benchmarks/results/fleet.json [--quick]

The database is a PostgreSQL server that the script starts and stops; the devices are simulated ones (`device: fake:N`), whose
time passes in sleep, so that two cores are enough for four of them. Processes, database, search and trials are real.

1. One worker, then four, on studies that differ in nothing else. The rate is trials over the time from the first one's begin
   to the last one's end (aim: four workers at 3.6 times the rate of one). The processes' start and the reference lie outside;
   canary and finalists, which one device measures for all, are off.
2. Four workers on this host (`--launcher local`); one is killed -9 in the middle of a trial.
3. Two emulated GPUs of a Ray cluster (`--launcher ray --ray-gpus 2`); a worker is killed -9 in mid-trial, later
   the Ray actor of one.

After 2 and 3: every finished trial once in our tables and once in Optuna's, as many as asked for, no candidate twice, none
running, and the candidates of the killed trials measured.
"""

from __future__ import annotations

import argparse
import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from assets import fake_study as fake  # noqa: E402  # found by the line above
from conftest import PostgresqlServer, unprivileged_user  # noqa: E402

from autotune.candidate import Candidate  # noqa: E402
from autotune.errors import AutotuneError  # noqa: E402
from autotune.fingerprint import cpu_fingerprint  # noqa: E402
from autotune.records import FINISHED, TrialRecord  # noqa: E402
from autotune.store.repository import SEARCHED, Store, open_store  # noqa: E402
from autotune.store.trials import RunningTrial  # noqa: E402

AIM = 3.6
SPACE = """\
  precision: [fp32, fp16, int8]
  pruning_ratio: 0.0
  batch_size: [32, 48, 64, 96, 128, 192]
  streams: [1, 2, 3, 4]
  worker_threads: [1, 2, 3, 4]
"""
"""288 points whose submissions take 7 ms or more: the load loop then costs little CPU, as with a real accelerator."""
SAME_LENGTH = "constraints: {accuracy_drop: 0.9}\nobjectives: [accuracy, latency_p99]"
"""No trial ends early, for its accuracy or as hopelessly slow: how many would depends on the order in which they come."""
LOAD = "load: {window_s: 0.5, min_windows: 6, max_s: 3.5, warmup_s: 0.5, precision: 0.0001}"


def main() -> None:
    """Prints and writes the three parts; leaves with 1 where a trial was lost or doubled."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "fleet.json")
    parser.add_argument("--quick", action="store_true", help="a few trials each, to see that all of it runs")
    parser.add_argument("--only", choices=("scaling", "local", "ray"), action="append", help="some of the parts")
    arguments = parser.parse_args()
    parts = arguments.only or ["scaling", "local", "ray"]
    quick = arguments.quick
    document: dict[str, Any] = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": cpu_fingerprint().device,
        "quick": quick,
    }
    with tempfile.TemporaryDirectory(prefix="autotune-fleet-") as folder, postgresql() as server:
        work = Path(folder)
        if "scaling" in parts:
            document["scaling"] = scaling(work, server, n_alone=6 if quick else 40, n_together=16 if quick else 160)
        if "local" in parts:
            words = ["--launcher", "local"]
            document["local"] = killed(work / "local", server, words, devices=4, n_trials=16 if quick else 60, kills=(worker,))
        if "ray" in parts:
            words = ["--launcher", "ray", "--ray-gpus", "2"]
            document["ray"] = killed(
                work / "ray", server, words, devices=1, n_trials=10 if quick else 30, kills=(worker, actor)
            )
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(document, indent=1) + "\n")
    problems = [p for part in ("local", "ray") if part in document for p in document[part]["problems"]]
    print("\n".join(problems) or "no trial lost, none doubled, none left running")
    sys.exit(1 if problems else 0)


def scaling(work: Path, server: PostgresqlServer, n_alone: int, n_together: int) -> dict[str, Any]:
    """Trials per minute of one worker and of four."""
    found = {}
    for n, n_trials in ((1, n_alone), (4, n_together)):
        folder = work / f"scaling-{n}"
        url = study(folder, server, n, n_trials)
        begin = time.monotonic()
        done = start(folder, ["--launcher", "local"])
        done.wait()
        wall_s = time.monotonic() - begin
        if done.returncode != 0:
            sys.exit(f"{n} workers left with {done.returncode}; logs:\n{logs(folder)}")
        found[n] = rates(records(url), n) | {"wall_s": round(wall_s, 1)}
        print(f"{n} worker(s): {found[n]['trials_per_min']:.1f} trials/min, {found[n]['busy_share']:.0%} of the time in trials")
    ratio = found[4]["trials_per_min"] / found[1]["trials_per_min"]
    print(f"four workers against one: {ratio:.2f}× (aim ≥ {AIM}×)")
    return {"workers": {str(n): f for n, f in found.items()}, "ratio": round(ratio, 3), "aim": AIM}


def rates(found: Sequence[TrialRecord], n_workers: int) -> dict[str, Any]:
    """How many trials per minute, and how much of the workers' time was inside trials."""
    instants = [(datetime.fromisoformat(r.started_at or ""), datetime.fromisoformat(r.finished_at or "")) for r in found]
    span_s = (max(end for _, end in instants) - min(begin for begin, _ in instants)).total_seconds()
    inside_s = sum((end - begin).total_seconds() for begin, end in instants)
    return {
        "n_trials": len(found),
        "trials_per_min": round(60 * len(found) / span_s, 2),
        "mean_trial_s": round(inside_s / len(found), 3),
        "busy_share": round(inside_s / span_s / n_workers, 4),
    }


Kill = Callable[[RunningTrial], int]


def worker(trial: RunningTrial) -> int:
    """The process id of the trial's worker."""
    return trial.worker.pid


def actor(trial: RunningTrial) -> int:
    """The process id of the worker's parent, which is its Ray actor."""
    stat = Path(f"/proc/{trial.worker.pid}/stat").read_text()
    return int(stat.rpartition(")")[2].split()[1])


def killed(
    folder: Path, server: PostgresqlServer, words: Sequence[str], devices: int, n_trials: int, kills: Sequence[Kill]
) -> dict[str, Any]:
    """The study's state after a fleet of which one process after another was killed while its trial ran."""
    url = study(folder, server, devices, n_trials)
    running = start(folder, [*words, "--json"])
    lost: list[Candidate] = []
    try:
        for i, kill in enumerate(kills, start=1):
            trial = under_way(url, running, after=i * n_trials // (2 * len(kills) + 1))
            os.kill(kill(trial), signal.SIGKILL)
            lost.append(trial.candidate)
            print(f"killed -9 the {kill.__name__} of trial {trial.number}")
        out, _ = running.communicate()
    finally:
        if running.poll() is None:
            running.terminate()
            running.wait()
    workers = json.loads(out)["workers"] if running.returncode == 0 else []
    problems = whole(url, n_trials, lost)
    if running.returncode != 0:
        problems.append(f"the fleet left with {running.returncode}:\n{logs(folder)}")
    if sum(w["restarts"] for w in workers) != len(kills):
        problems.append(f"{len(kills)} workers were killed, and restarted were: {workers}")
    found = rates(records(url), max(devices, len(workers)))
    return {"command": " ".join(words), "kills": len(kills), "workers": workers, "problems": problems} | found


def whole(url: str, n_trials: int, lost: Sequence[Candidate]) -> list[str]:
    """What is wrong with the study; nothing where no trial was lost or doubled."""
    store, study_id = opened(url)
    finished = store.trials(study_id, FINISHED, SEARCHED)
    optuna = fake.optuna_trials(Path(), store.url)
    told = {t.number for t in optuna if t.state.name == "COMPLETE" and "duplicate_of" not in t.user_attrs}
    wrong = {
        f"{len(finished)} trials are finished, not {n_trials}": len(finished) != n_trials,
        "a candidate was measured twice": len({r.candidate for r in finished}) != len(finished),
        "trials are left running": bool(store.running(study_id)),
        "Optuna has trials running": any(t.state.name == "RUNNING" for t in optuna),
        f"Optuna was told {sorted(told)}, measured were others": told != {r.number for r in finished},
        "the candidate of a killed trial was not measured": not set(lost) <= {r.candidate for r in finished},
        "more than one reference": len(store.trials(study_id, ["complete"], ["reference"])) != 1,
    }
    return [text for text, is_so in wrong.items() if is_so]


def under_way(url: str, fleet: subprocess.Popen[str], after: int) -> RunningTrial:
    """A trial of the search that has run for a second, once `after` trials are finished."""
    while fleet.poll() is None:
        time.sleep(0.2)
        try:
            store, study_id = opened(url)
        except (AutotuneError, LookupError):
            continue
        counts = store.counts(study_id)
        if sum(n for state, n in counts.items() if state != "running") < after:
            continue
        for trial in store.running(study_id):
            age_s = (datetime.now(UTC) - datetime.fromisoformat(trial.started_at)).total_seconds()
            if trial.role == "search" and 1.0 < age_s < 2.5:
                return trial
    sys.exit(f"the fleet ended with {fleet.returncode} before anything could be killed")


def study(folder: Path, server: PostgresqlServer, n_devices: int, n_trials: int) -> str:
    """The study's folder is there, on a database of its own, whose URL is returned."""
    import psycopg

    name = folder.name.replace("-", "_")
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    url = server.url(name).replace("postgresql://", "postgresql+psycopg://")
    space = fake.STUDY[fake.STUDY.index("  precision: [") : fake.STUDY.index("priors:")]
    load = next(line for line in fake.STUDY.splitlines() if line.startswith("load:"))
    devices = f"devices: [{', '.join(f'fake:{i}' for i in range(n_devices))}]"
    fake.write_study(
        folder,
        (space, SPACE),
        (f"{fake.PRIORS}\n", ""),
        (load, LOAD),
        ("engines: [fake]", f"engines: [fake]\n{devices}"),
        ("constraints: {accuracy_drop: 0.05}", SAME_LENGTH),
        ("{trials: 12}", f"{{trials: {n_trials}}}"),
        ("sqlite:///study.db", url),
    )
    return url


def start(folder: Path, words: Sequence[str]) -> subprocess.Popen[str]:
    """`autotune start`, its notes in a file of the folder."""
    environment = fake.environment(folder) | {"PYTHONPATH": str(ROOT)}
    with (folder / "start.log").open("w") as log:
        command = fake.command("start", "study.yaml", *words)
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)


def opened(url: str) -> tuple[Store, int]:
    """The store, and the id of the study in it. Raises StoreError or LookupError before there is one."""
    store = open_store(url, create=False)
    row = store.study("fake")
    if row is None:
        raise LookupError
    return store, row.id


def records(url: str) -> list[TrialRecord]:
    """The finished trials of the search."""
    store, study_id = opened(url)
    return store.trials(study_id, FINISHED, SEARCHED)


def logs(folder: Path) -> str:
    """The ends of what the fleet and its workers printed."""
    found = [folder / "start.log", *sorted((folder / "cache" / "logs" / "fake").glob("worker-*.log"))]
    return "\n".join(f"{p.name}: {''.join(p.read_text(errors='replace').splitlines(keepends=True)[-12:])}" for p in found)


@contextmanager
def postgresql() -> Iterator[PostgresqlServer]:
    """A server of its own in a temporary folder."""
    on_path = [Path(p).parent for p in (shutil.which("pg_ctl"),) if p]
    places = [*on_path, *sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    binaries = next((p for p in places if (p / "pg_ctl").exists() and (p / "initdb").exists()), None)
    if binaries is None:
        sys.exit("no PostgreSQL server (pg_ctl, initdb) in PATH or /usr/lib/postgresql/*/bin")
    user = getpass.getuser() if os.geteuid() else unprivileged_user()
    folder = Path(tempfile.mkdtemp(prefix="autotune-pg-"))
    shutil.chown(folder, user)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = PostgresqlServer(binaries=binaries, folder=folder, user=user, port=port)
    try:
        server.create()
        server.start()
        yield server
        server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
