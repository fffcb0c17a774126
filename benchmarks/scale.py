"""Whether a study of 10,000 trials, a database of 1,000 studies and days of trials in one process stay usable.

    python benchmarks/scale.py --what reading --out benchmarks/results/scale.json [--trials 10000] [--studies 1000]
    python benchmarks/scale.py --what endurance --out benchmarks/results/endurance.json [--trials 3000] [--strategy tpe]

reading: fills a SQLite file and, where a server is installed, a PostgreSQL database in bulk with plausible records of the fake
engine (scale_parts/filling.py), then runs `status`, `front`, `best`, `trials`, `show` and `report` on them as whole processes,
interpreter and imports included: one run to warm up, then five; medians and maxima of the wall time. Aim: medians below 1 s,
the picture by matplotlib apart.

endurance: trials of the fake engine in one study process, without their load, which would only sleep
(scale_parts/endurance.py); every fifty trials the resident memory of the process and of the one that forks trials, open files,
threads, database size, and what a trial took outside its own stages. It says for each whether it stayed flat after the first
500 trials, and by which rule.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scale_parts.endurance import endure
from scale_parts.filling import fill
from scale_parts.server import postgresql

from autotune.fingerprint import cpu_fingerprint

AIM_S, REPEATS = 1.0, 5


def main() -> int:
    """Prints and writes what was asked for; 1 where an aim was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", choices=("reading", "endurance"), required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--trials", type=int, help="default: 10000 for reading, 3000 for endurance")
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--small", type=int, default=12, help="trials of each study but one")
    parser.add_argument("--strategy", default="cost-aware", help="for endurance")
    parser.add_argument("--work", type=Path, help="folder for databases and caches; default: a new temporary one")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server is stopped
    with tempfile.TemporaryDirectory(prefix="autotune-scale-") as temporary:
        folder = arguments.work or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if arguments.what == "reading":
            document = reading(folder, arguments.trials or 10_000, arguments.studies, arguments.small)
        else:
            document = endure(folder, arguments.trials or 3_000, arguments.strategy)
    document["machine"] = {"device": cpu_fingerprint().device, "system": cpu_fingerprint().system}
    if arguments.out:
        _write(arguments.out, document, arguments.what, arguments.strategy)
    return 0 if document["met"] else 1


def reading(folder: Path, n_trials: int, n_studies: int, n_small: int) -> dict[str, Any]:
    """The times of every command on every database."""
    found: dict[str, Any] = {"n_trials": n_trials, "n_studies": n_studies, "trials_of_the_others": n_small, "aim_s": AIM_S}
    with postgresql() as server:
        urls = {"sqlite": f"sqlite:///{folder / 'scale.db'}"} | ({"postgresql": server} if server else {})
        if server is None:
            print("no PostgreSQL server is installed: SQLite only")
        for name, url in urls.items():
            began = time.monotonic()
            fill(url, n_trials=n_trials, n_studies=n_studies, n_small=n_small).close()
            print(f"{name}: filled in {time.monotonic() - began:.0f} s")
            found[name] = {}
            for words in _commands(folder, n_trials):
                taken = _timed(words, url, folder)
                found[name][" ".join(words).replace(str(folder), ".")] = taken
                print(f"{name:<11}{' '.join(words[:3]):<28} median {taken['median_s']:.2f} s, max {taken['max_s']:.2f} s, "
                      f"{taken['resident_mib']:.0f} MiB")  # fmt: skip
    # The picture waits for matplotlib, half a second of which is its import.
    aimed = [t for name in urls for words, t in found[name].items() if not words.endswith(".png")]
    found["met"] = all(t["median_s"] < AIM_S for t in aimed)
    return found


def _commands(folder: Path, n_trials: int) -> list[list[str]]:
    middle = str(n_trials // 2)
    return [
        ["status"], ["status", "--json"], ["status", "big"], ["front", "big"], ["front", "big", "--json"], ["best", "big"],
        ["trials", "big"], ["trials", "big", "--json", "--limit", "100", "--before", middle], ["show", "big", middle],
        ["report", "big", "--out", str(folder / "report.html")], ["report", "big", "--out", str(folder / "report.png")],
    ]  # fmt: skip


def _timed(words: Sequence[str], url: str, folder: Path) -> dict[str, Any]:
    """Wall seconds of the command as a process of its own, and its largest resident memory."""
    environment = os.environ | {"AUTOTUNE_STORAGE": url, "COLUMNS": "180", "XDG_RUNTIME_DIR": str(folder)}
    taken, resident = [], 0.0
    for _ in range(REPEATS + 1):
        began = time.monotonic()
        process = subprocess.Popen([sys.executable, "-m", "autotune.cli.main", *words], env=environment, cwd=folder,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
        _, status, usage = os.wait4(process.pid, 0)
        taken.append(time.monotonic() - began)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{' '.join(words)} left with {process.returncode}")
        resident = max(resident, usage.ru_maxrss / 1024)
    warm = taken[1:]
    return {"median_s": statistics.median(warm), "max_s": max(warm), "runs_s": warm, "resident_mib": resident}


def _write(out: Path, document: dict[str, Any], what: str, strategy: str) -> None:
    """Endurance runs of several strategies share a file."""
    out.parent.mkdir(parents=True, exist_ok=True)
    if what == "endurance":
        before = json.loads(out.read_text()) if out.is_file() else {}
        document = before | {strategy: document}
    out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
