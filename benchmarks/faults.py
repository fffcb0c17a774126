"""Studies on real engines that meet faults at random moments, and what is left of them.

    python benchmarks/faults.py [--faults 100] [--database both] [--seed 0] [--out benchmarks/results/faults.json]

The digits model of examples/digits on ONNX Runtime and OpenVINO, always the same twelve candidates, on SQLite and on PostgreSQL
(a server of its own). First the study runs without faults. Then it runs again and again, each time under another name and with
an empty cache, while faults strike it at random moments of all stages (fault_injection/kinds.py says what each does), and a
supervisor starts it again as systemd would, until so many faults have struck. After each study:

* its `start` has left with 0: the target is reached, the finalists are measured, nothing runs, here or in Optuna's tables;
* every candidate is there exactly once and complete, and whatever a process logged as stored is stored;
* the accuracy of each is that of the study without faults, to the last digit;
* the front is that of the study without faults, apart from ties (fault_injection/judgement.py says how).

A configuration is struck fatally once at most: a second time it is rejected by design. Speeds are measured with loads far too
short to be quoted. ENOSPC needs root, for a small tmpfs each for cache and database; without it those two are left out.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fault_injection.arena import Arena, NotNow
from fault_injection.databases import Database, Postgresql, Sqlite
from fault_injection.disks import Disk
from fault_injection.judgement import damaged_artifacts, records_of, violations
from fault_injection.kinds import Kind, schedule
from fault_injection.study import candidates_of, clean, digits, write_study

from autotune.fingerprint import cpu_fingerprint
from autotune.records import TrialRecord

sys.path.insert(0, str(Path(__file__).resolve().parent / "fault_injection" / "plugin"))

MAKERS: dict[str, Callable[[Path], Database]] = {"sqlite": Sqlite, "postgresql": Postgresql}
CALM_DEADLINE_S, DEADLINE_S = 300.0, 12.0
_IDLE_STUDIES = 4
STAGES = ("start", "between trials", "begun", "data", "variant", "engine", "open", "accuracy", "load")
LASTING = ("start", "load")
"""Stages that take longer than a fault needs to strike; the others last milliseconds where the cache has what they make."""
OUTCOMES = {
    "tried once more": "tried again in a fresh process",
    "carried over": "carried over from the journal",
    "set aside": "damaged line set aside",
    "is put back": "trial put back",
    "will be measured again": "measured again",
    "is back after": "waited for the database",
}


@dataclass(frozen=True, kw_only=True)
class Struck:
    """One fault, where it struck and what came of it."""

    fault: str
    study: str
    stage: str
    role: str
    outcome: str
    seconds: float


def main() -> None:
    """Runs the databases that were asked for, writes the results and leaves with 1 where something did not hold."""
    options = _options()
    signal.signal(signal.SIGTERM, _leave)
    work = Path(tempfile.mkdtemp(prefix="autotune-faults-", dir=options.work))
    work.chmod(0o711)  # PostgreSQL's user, who is not root, must reach its own folder below
    began = time.monotonic()
    document: dict[str, Any] = {
        "machine": {**asdict(cpu_fingerprint()), "python": platform.python_version()},
        "seed": options.seed, "faults_per_database": options.faults, "databases": {},
    }  # fmt: skip
    try:
        data = digits(options.data or work / "digits")
        for name in ("sqlite", "postgresql") if options.database == "both" else (options.database,):
            document["databases"][name] = _one_database(name, data, work / name, options)
            document["seconds"] = round(time.monotonic() - began)
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(document, indent=1) + "\n")
    finally:
        if not options.keep:
            shutil.rmtree(work, ignore_errors=True)
    print(table(document))
    wrong = [w for found in document["databases"].values() for s in found["studies"] for w in s["violations"]]
    wrong += [
        f"{name}: found nothing to strike: {kind}"
        for name, found in document["databases"].items()
        for kind in found["never_struck"]
    ]
    print("\n".join(wrong) if wrong else "nothing was lost, doubled or left running; the fronts agree", file=sys.stderr)
    sys.exit(1 if wrong else 0)


def _leave(*_: Any) -> None:
    """SIGTERM ends the run once, so that its processes, servers and disks go with it; a second one does not cut that off."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(143)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--faults", type=int, default=100, help="per database")
    parser.add_argument("--database", choices=["sqlite", "postgresql", "both"], default="both")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/faults.json"))
    parser.add_argument("--data", type=Path, help="a folder that examples/digits/make_model.py wrote; made where it is empty")
    parser.add_argument("--work", type=Path, help="where the temporary folder goes")
    parser.add_argument("--keep", action="store_true", help="leave the temporary folder, with every log")
    parser.add_argument("--only", action="append", default=[], help="only faults whose name holds this; may be repeated")
    return parser.parse_args()


def _one_database(name: str, data: Path, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    clean(folder)
    disk, cache = Disk(folder / "database", 256), Disk(folder / "cache", 128)
    database = MAKERS[name](disk.folder)
    rng = random.Random(f"{options.seed}/{name}")
    began = time.monotonic()
    struck: list[Struck] = []
    studies: list[dict[str, Any]] = []
    try:
        calm = _calm(database, cache, data, folder)
        print(f"{name}: {len(calm)} candidates without faults in {time.monotonic() - began:.0f} s", file=sys.stderr)
        left = schedule(options.faults, rng, disks=disk.can_fill and cache.can_fill)
        left = [k for k in left if not options.only or any(o in k.name for o in options.only)]
        while left and not _stuck(studies):
            arena = _arena(f"faults-{len(studies)}", database, disk, cache, data, folder, DEADLINE_S)
            arena.launch = "daemon" if len(studies) % 3 == 1 or not _fits(left, "start") else "start"
            studies.append(_under_fire(arena, left, struck, rng, calm))
            print("\n".join([_line(studies[-1]), *studies[-1]["violations"]]), file=sys.stderr)
    finally:
        database.close()
        cache.close()
        disk.close()
    return {
        "seconds": round(time.monotonic() - began),
        "skipped": [] if disk.can_fill and cache.can_fill else ["disk full: this user may not mount a file system"],
        "faults": [asdict(s) for s in struck],
        "never_struck": sorted(k.name for k in left),
        "studies": studies,
    }


def _line(study: dict[str, Any]) -> str:
    wrong = len(study["violations"])
    head = f"{study['study']}: {study['n_faults']} faults in {study['seconds']} s"
    return f"{head}, exit codes {study['exit_codes']}, {wrong} violations"


def _stuck(studies: Sequence[dict[str, Any]]) -> bool:
    """Every way to launch a study was tried since the last fault, and what is left found nothing to strike."""
    return len(studies) >= _IDLE_STUDIES and not any(s["n_faults"] for s in studies[-_IDLE_STUDIES:])


def _fits(left: Sequence[Kind], launch: str) -> bool:
    return any(k.name != "kill -9 of the daemon" for k in left) or launch == "daemon"


def _arena(name: str, database: Database, disk: Disk, cache: Disk, data: Path, folder: Path, deadline_s: float) -> Arena:
    clean(folder / name)
    clean(cache.folder / "cache")
    study = write_study(folder / name, name, data, cache.folder / "cache", deadline_s)
    return Arena(folder=folder / name, study_file=study, study=name, database=database, database_disk=disk, cache=cache)


def _calm(database: Database, cache: Disk, data: Path, folder: Path) -> list[TrialRecord]:
    """The records of the study that meets no fault."""
    arena = _arena("calm", database, cache, cache, data, folder, CALM_DEADLINE_S)
    arena.start()
    while not arena.supervise():
        time.sleep(0.2)
        if len(arena.codes) > 1:
            sys.exit(f"the study without faults does not run; see {arena.folder / 'start.log'}")
    return records_of(database.url, "calm")


def _under_fire(
    arena: Arena, left: list[Kind], struck: list[Struck], rng: random.Random, calm: Sequence[TrialRecord]
) -> dict[str, Any]:
    """The study under faults from `left`, until it is done; what has struck moves from there to `struck`."""
    n_before, began = len(struck), time.monotonic()
    arena.start(arena.launch)
    done = False
    try:
        while not done and left:
            stage = rng.choice(STAGES)
            _await(arena, stage, rng.uniform(1, 6))
            time.sleep(rng.uniform(0, 0.3 if stage in LASTING else 0.01))
            done = arena.supervise()
            if not done and (found := _one_fault(arena, left, rng)) is not None:
                struck.append(found)
                print(f"{arena.database.name} {len(struck)}: {found.fault} in {found.stage}: {found.outcome}", file=sys.stderr)
        arena.wait_for(arena.supervise, 300) if not done else None
        gone = arena.wait_for(lambda: not arena.everybody(), 30)
        wanted = candidates_of(arena.study_file)
        logs = [arena.folder / "start.log", *arena.cache.folder.glob(f"cache/logs/{arena.study}/*.log")]
        wrong = violations(arena.database.url, arena.study, arena.study_file, wanted, logs, calm)
        wrong += [] if gone else [f"processes are left: {[p.pid for p in arena.everybody()]}"]
        wrong += ["its `start` never left with 0"] if 0 not in arena.codes else []
        wrong += [f"the journal {path} is left"] if (path := arena.journal()) else []
    finally:
        arena.end()
        arena.keep_logs()
    return {
        "study": arena.study, "launch": arena.launch, "n_faults": len(struck) - n_before, "exit_codes": arena.codes,
        "seconds": round(time.monotonic() - began), "unused_damage": len(damaged_artifacts(arena.cache.folder / "cache")),
        "n_rebuilt": sum(log.read_text(errors="replace").count("; it is made again") for log in logs if log.exists()),
        "violations": [f"{arena.database.name} {arena.study}: {w}" for w in wrong],
    }  # fmt: skip


def _await(arena: Arena, stage: str, limit_s: float) -> None:
    """The study is in that stage, or the time is up."""
    arena.wait_for(lambda: arena.now()["stage"] == stage, limit_s)


def _one_fault(arena: Arena, left: list[Kind], rng: random.Random) -> Struck | None:
    """The first fault of those left that has something to strike; None where none has."""
    for i, kind in enumerate(left[:12]):
        state, seen, began = arena.now(), len(arena.events), time.monotonic()
        codes = len(arena.codes)
        try:
            told = kind.strike(arena, rng)
        except NotNow:
            continue
        del left[i]
        survived = _went_on(arena, seen, codes)
        told_by_it = [word for e in arena.events[seen:] for key, word in OUTCOMES.items() if key in e.get("text", "")]
        outcome = "; ".join(dict.fromkeys(w for w in (told, *told_by_it, survived) if w))
        return Struck(
            fault=kind.name, study=arena.study, stage=state["stage"], role=state.get("role", ""), outcome=outcome,
            seconds=round(time.monotonic() - began, 1),
        )  # fmt: skip
    return None


def _went_on(arena: Arena, seen: int, codes: int) -> str:
    """How the study went on: the next trial ended in the same process, or another process began."""
    ended = False

    def progress() -> bool:
        nonlocal ended
        ended = arena.main() is None
        arena.look()
        return ended or any(e["event"] in ("trial_ended", "repeated") for e in arena.events[seen:])

    if not arena.wait_for(progress, 60):
        return "NO PROGRESS in 60 s"
    if not ended:
        return "went on"
    if arena.supervise():
        return "was done"
    seen = len(arena.events)
    begun = arena.wait_for(
        lambda: (bool(arena.look()) and any(e["event"] == "planned" for e in arena.events[seen:])) or arena.main() is None, 90
    )
    return "started again" if begun else "NOT STARTED in 90 s"


def table(document: dict[str, Any]) -> str:
    """Fault × stage × count × outcome, as Markdown."""
    lines = ["| fault | stages in which it struck | SQLite | PostgreSQL | what came of it |", "|---|---|---|---|---|"]
    databases = document["databases"]
    everything = [(name, f) for name, found in databases.items() for f in found["faults"]]
    for fault in dict.fromkeys(f["fault"] for _, f in everything):
        those = [(name, f) for name, f in everything if f["fault"] == fault]
        stages = Counter(f"{f['stage']}" for _, f in those)
        outcomes = Counter(f["outcome"] for _, f in those)
        lines.append(
            f"| {fault} | {_counted(stages)} | {sum(n == 'sqlite' for n, _ in those)} | "
            f"{sum(n == 'postgresql' for n, _ in those)} | {_counted(outcomes)} |"
        )
    for name, found in databases.items():
        wrong, rebuilt, unused = (
            sum(count(s) for s in found["studies"])
            for count in (lambda s: len(s["violations"]), lambda s: s["n_rebuilt"], lambda s: s["unused_damage"])
        )
        lines.append(
            f"\n{name}: {len(found['faults'])} faults in {len(found['studies'])} studies and {found['seconds']} s; "
            f"{wrong} violations. Damaged artifacts: {rebuilt} were noticed and made anew, {unused} were not asked for again."
        )
    return "\n".join(lines)


def _counted(found: Counter[str]) -> str:
    return ", ".join(f"{what} {n}×" if n > 1 else what for what, n in found.most_common())


if __name__ == "__main__":
    main()
