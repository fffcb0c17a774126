"""Workers on several devices share one study: nothing twice, nothing lost when one is killed, kinds kept apart."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

from assets import fake_study as fake

from autotune.records import FINISHED
from autotune.store.repository import SEARCHED, open_store

DEVICES = ("engines: [fake]", "engines: [fake]\ndevices: [fake:0, fake:1]")


def test_a_worker_killed_in_mid_trial_costs_nothing(tmp_path: Path) -> None:
    """Two devices, one worker killed -9 while it measures: it is started again, and every trial is there once."""
    fake.write_study(tmp_path, DEVICES, ("max_s: 0.2", "max_s: 1.0"), ("precision: 0.05}", "precision: 0.0001}"))
    fleet = subprocess.Popen(
        fake.command("start", "study.yaml", "--trials", 8, "--json"),
        cwd=tmp_path,
        env=fake.environment(tmp_path),
        stdout=subprocess.PIPE,
        text=True,
    )
    url, killed = f"sqlite:///{tmp_path / 'study.db'}", None
    while killed is None and fleet.poll() is None:
        time.sleep(0.1)
        if not (tmp_path / "study.db").exists():
            continue
        store = open_store(url)
        row = store.study("fake")
        running = [] if row is None else [t for t in store.running(row.id) if t.role == "search" and t.number > 1]
        if running:
            killed = running[0]
            os.kill(killed.worker.pid, signal.SIGKILL)
    out, _ = fleet.communicate(timeout=120)
    workers = json.loads(out)["workers"]
    assert sum(w["restarts"] for w in workers) == 1 and {w["exit_code"] for w in workers} == {0}
    store = open_store(url)
    row = store.study("fake")
    assert row is not None and killed is not None
    records = store.trials(row.id, FINISHED, SEARCHED)
    assert len(records) == 8 and len({r.candidate for r in records}) == 8
    assert killed.candidate in {r.candidate for r in records}
    assert store.running(row.id) == []
    assert len(store.trials(row.id, ["complete"], ["reference"])) == 1
    states = {t.number: t.state.name for t in fake.optuna_trials(tmp_path)}
    assert "RUNNING" not in states.values() and all(states[r.number] == "COMPLETE" for r in records)
    assert store.environment(row.environment_key).device == "simulated device"


def test_two_kinds_make_two_fronts(tmp_path: Path) -> None:
    """A study over a simulated device and the CPU has a part for each, which `compare` puts side by side."""
    devices = "engines: [fake]\ndevices: [cpu, fake:0]\ndevice_kinds: several\nprices: prices.yaml"
    (tmp_path / "prices.yaml").write_text("currency: EUR\nper_hour: {simulated device: 3.6}\n")
    fake.write_study(tmp_path, (DEVICES[0], devices), ("trials: 12", "trials: 2"))
    fake.autotune(tmp_path, "start", "study.yaml")
    told = fake.autotune(tmp_path, "front", "study.yaml", expect=2).stderr
    assert "autotune compare" in told
    prices = "currency: EUR\nper_hour: {simulated device: 3.6, %s: 1}\n"
    document = json.loads(fake.autotune(tmp_path, "status", "study.yaml", "--json").stdout)
    assert {d["study"].partition("@")[0] for d in document} == {"fake"} and len(document) == 2
    cpu = next(d for d in document if "simulated" not in d["study"])["best"]["device"]
    (tmp_path / "prices.yaml").write_text(prices % json.dumps(cpu))
    found = json.loads(fake.autotune(tmp_path, "compare", "study.yaml", "--json").stdout)
    assert {s["device"] for s in found["studies"]} == {cpu, "simulated device"}
    assert all(s["front"] and s["cost_per_million_items"] for s in found["studies"]) and found["differences"] == []
