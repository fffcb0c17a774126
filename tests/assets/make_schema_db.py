"""Writes tests/assets/schema_<HEAD>.db: a small database of the present schema, which every later version must upgrade.

Run once per released schema, from the checkout: python tests/assets/make_schema_db.py
"""

from __future__ import annotations

import sqlite3
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "unit" / "store"))

from store_samples import ENVIRONMENT, LOAD, complete, rejected  # noqa: E402

from autotune.records import Regime, own_load  # noqa: E402
from autotune.store.repository import open_store  # noqa: E402
from autotune.store.tables import HEAD  # noqa: E402
from autotune.store.worker import WorkerIdentity  # noqa: E402

WORKER = WorkerIdentity(worker_id="host-1-abcd", host="host", pid=1, pid_started=2, boot_id="boot")


def main() -> None:
    """The file is there: a study with reference, complete, rejected and running trials, a repetition, a regime and a front."""
    target = HERE / f"schema_{HEAD}.db"
    if target.exists():
        sys.exit(f"{target} is there already, and a released schema never changes")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "studies.db"
        store = open_store(f"sqlite:///{file}")
        study = store.ensure_study("old", {"seed": 0}, "spec", "model", ("accuracy", "throughput"), ENVIRONMENT, 60)
        for record in (complete(0, role="reference"), complete(0, load=LOAD), rejected(1)):
            store.save_finished(study.id, record, WORKER)
        store.begin_trial(study.id, 2, "search", complete(2).candidate, WORKER)
        again = store.begin_repetition(study.id, complete(0), "final", 1, WORKER)
        assert again is not None
        store.finish_trial(again.trial_id, complete(again.number, role="final"))
        reported = {metric: own_load(complete(0), metric) for metric in ("throughput_items_per_s", "latency_p99")}
        store.set_reported(study.id, {("search", 0): reported})
        at = {"since": "2026-03-01T13:00:00+00:00", "steady_until": "2026-03-01T12:59:00+00:00"}
        store.add_regime(study.id, Regime(number=2, ratio=0.84, reason="slower", **at))
        store.set_front(study.id, [0])
        store.enlist(study.id, WORKER)
        store.order(study.id, "pause", "somebody on host")
        store.close()
        with sqlite3.connect(file) as connection:
            connection.execute("PRAGMA journal_mode=DELETE")
            connection.execute("PRAGMA page_size=1024")
            connection.execute("VACUUM")
            connection.execute("VACUUM INTO ?", (str(target),))
    print(target, target.stat().st_size)


if __name__ == "__main__":
    main()
