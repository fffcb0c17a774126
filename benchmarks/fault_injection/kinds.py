"""The faults: each is one function that strikes and brings back what it took away, and says what it saw meanwhile."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from fault_injection.arena import Arena, NotNow

OUTAGE_S = 30.0
Strike = Callable[[Arena, random.Random], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A fault. `share`: how many of 100 are of it. `stages`: where it is tried to strike; anywhere where empty."""

    name: str
    share: int
    strike: Strike
    needs_disk: bool = False


def _signalled(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        raise NotNow from None


def _main(arena: Arena) -> psutil.Process:
    found = arena.main()
    if found is None:
        raise NotNow
    return found


def kill_worker(arena: Arena, rng: random.Random) -> str:
    """kill -9 of `autotune start` in a terminal, or of one of a daemon's helpers."""
    arena.may_strike()
    helpers = [p for p in arena.workers() if "worker" in p.cmdline()]
    if arena.launch == "daemon" and not helpers:
        raise NotNow
    arena.spare()
    worker = helpers[0] if arena.launch == "daemon" else _main(arena)
    _signalled(worker, signal.SIGKILL)
    arena.spare(worker.pid)
    return ""


def kill_daemon(arena: Arena, rng: random.Random) -> str:
    """kill -9 of the process that `start --detach` left in the background."""
    if arena.launch != "daemon":
        raise NotNow
    arena.may_strike()
    arena.spare()
    daemon = _main(arena)
    _signalled(daemon, signal.SIGKILL)
    arena.spare(daemon.pid)
    arena.launch = "start"
    return ""


def kill_child(arena: Arena, rng: random.Random) -> str:
    """kill -9 of the process in which the trial runs, as the kernel's out-of-memory killer does."""
    arena.may_strike()
    child, _ = arena.measuring()
    arena.spare()
    _signalled(child, signal.SIGKILL)
    return ""


def kill_parent(arena: Arena, rng: random.Random) -> str:
    """kill -9 of the warm process that forks the trials."""
    arena.may_strike()
    _, parent = arena.measuring()
    arena.spare()
    _signalled(parent, signal.SIGKILL)
    return ""


def stop_worker(arena: Arena, rng: random.Random) -> str:
    """SIGSTOP of the study's process, SIGCONT up to three seconds later; its trial runs on."""
    return _stopped(_main(arena), rng.uniform(0.5, 3.0))


def stop_child(arena: Arena, rng: random.Random) -> str:
    """SIGSTOP of the trial's process, SIGCONT up to two seconds later: what it measures has a hole."""
    return _stopped(arena.measuring()[0], rng.uniform(0.3, 2.0))


def _stopped(process: psutil.Process, seconds: float) -> str:
    _signalled(process, signal.SIGSTOP)
    time.sleep(seconds)
    with contextlib.suppress(NotNow):
        _signalled(process, signal.SIGCONT)
    return ""


def stop_child_for_good(arena: Arena, rng: random.Random) -> str:
    """SIGSTOP without SIGCONT: only the deadline ends it."""
    arena.may_strike()
    child, _ = arena.measuring()
    arena.spare()
    _signalled(child, signal.SIGSTOP)
    if not arena.wait_for(lambda: not child.is_running(), 60):
        return "still there after 60 s"
    return "ended at its deadline"


def terminate(arena: Arena, rng: random.Random) -> str:
    """SIGTERM, half of the time twice: the trial under way is finished, or put back at once."""
    process = _main(arena)
    twice = rng.random() < 0.5
    _signalled(process, signal.SIGTERM)
    if twice:
        time.sleep(0.2)
        with contextlib.suppress(NotNow):
            _signalled(process, signal.SIGTERM)
    left = arena.wait_for(lambda: arena.main() is None, 60)
    return f"left with {arena.code()}" if left else "still there after 60 s"


def database_down(arena: Arena, rng: random.Random) -> str:
    """No database for 30 s."""
    with _outage(arena):
        time.sleep(OUTAGE_S)
    return ""


def connection_cut(arena: Arena, rng: random.Random) -> str:
    """Every connection is cut, or the file is locked for a moment."""
    return arena.database.cut()


def terminate_in_outage(arena: Arena, rng: random.Random) -> str:
    """SIGTERM while the database is away and a finished trial waits for it."""
    with _outage(arena):
        _until_something_waits(arena)
        began = time.monotonic()
        _signalled(_main(arena), signal.SIGTERM)
        left = arena.wait_for(lambda: arena.main() is None, 60)
        took_s, kept = time.monotonic() - began, arena.journal() is not None
    if not left:
        return "still there after 60 s"
    when = "within 10 s" if took_s < 10 else f"after {took_s:.0f} s"
    return f"left with {arena.code()} {when}, journal {'kept' if kept else 'EMPTY'}"


def kill_in_outage(arena: Arena, rng: random.Random) -> str:
    """kill -9 while the database is away and a finished trial waits for it."""
    with _outage(arena):
        _until_something_waits(arena)
        _kill_all(arena)
        return "" if arena.journal() else "journal EMPTY"


def damaged_journal(arena: Arena, rng: random.Random) -> str:
    """As before, and then the journal is damaged: bytes are flipped, or the last line is cut off."""
    with _outage(arena):
        path = _until_something_waits(arena)
        _kill_all(arena)
        if rng.random() < 0.5:
            path.write_bytes(path.read_bytes()[: rng.randrange(1, path.stat().st_size)])
            return "its line cut off"
        _flip(path, rng)
        return "bytes flipped"


def _until_something_waits(arena: Arena) -> Path:
    found = []
    arena.wait_for(lambda: bool(found) or bool((p := arena.journal()) and found.append(p) is None), 20)
    if not found or arena.main() is None:
        raise NotNow
    time.sleep(0.3)
    return Path(found[0])


def _kill_all(arena: Arena) -> None:
    """Every worker is gone. Raises NotNow where that would strike a trial for the second time."""
    at_stake = arena.at_stake()
    if arena.struck & at_stake:
        raise NotNow
    arena.struck |= at_stake
    for worker in arena.workers():
        with contextlib.suppress(NotNow):
            _signalled(worker, signal.SIGKILL)
        arena.spare(worker.pid)


@contextlib.contextmanager
def _outage(arena: Arena):  # type: ignore[no-untyped-def]  # a context manager of nothing
    arena.database.down()
    try:
        yield
    finally:
        arena.database.up()


def full_cache(arena: Arena, rng: random.Random) -> str:
    """The disk of the cache is full from before a trial builds until the study leaves, or for eight seconds."""
    state = arena.now()
    if state.get("role") != "search" or state["stage"] not in ("begun", "variant", "engine"):
        raise NotNow  # what is loaded or measured again writes nothing there
    arena.cache.fill()
    try:
        left = arena.wait_for(lambda: arena.main() is None, 8)
    finally:
        arena.cache.free()
    return f"left with {arena.code()}" if left else ""


def full_database(arena: Arena, rng: random.Random) -> str:
    """The disk of the database is full until the study leaves, or for half a minute."""
    disk = arena.database_disk
    disk.fill()
    try:
        left = arena.wait_for(lambda: arena.main() is None, 30)
    finally:
        disk.free()
        arena.database.up()
    return f"left with {arena.code()}" if left else ""


def damaged_variant(arena: Arena, rng: random.Random) -> str:
    """Bytes are flipped in a variant of the cache."""
    return _damaged(arena, "variant", rng)


def damaged_engine(arena: Arena, rng: random.Random) -> str:
    """Bytes are flipped in an engine of the cache."""
    return _damaged(arena, "engines", rng)


def _damaged(arena: Arena, kind: str, rng: random.Random) -> str:
    root = arena.cache.folder / "cache" / kind
    found = [p for p in root.glob("[!.]*/*") if p.is_file() and p.name != "artifact.json" and p.stat().st_size > 1000]
    if not found:
        raise NotNow
    _flip(rng.choice(sorted(found)), rng)
    return ""


def _flip(path: Path, rng: random.Random) -> None:
    try:
        with path.open("r+b") as file:
            size = path.stat().st_size
            for _ in range(16):
                file.seek(rng.randrange(size))
                byte = file.read(1)
                file.seek(-1, 1)
                file.write(bytes([byte[0] ^ 0x55]))
    except (OSError, IndexError, ValueError):
        raise NotNow from None


def _ordered(kind: str) -> Strike:
    def strike(arena: Arena, rng: random.Random) -> str:
        where = rng.choice(["build", "open", "run", "run", "run"])
        path, taken = arena.folder / f"order-{where}.json", set(arena.folder.glob("taken-*.json"))
        scratch = path.with_suffix(".new")
        arena.look()
        seen = len(arena.events)
        scratch.write_text(json.dumps({"kind": kind, "spare": sorted(arena.struck)}))
        scratch.rename(path)
        if not arena.wait_for(lambda: set(arena.folder.glob("taken-*.json")) != taken, 8):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
                raise NotNow
        arena.spare()
        again = arena.wait_for(lambda: arena.look() is not None and _tried_again(arena, seen), 60)
        return f"in {where}" if again else f"in {where}, NOT SEEN in 60 s"

    return strike


def _tried_again(arena: Arena, since: int) -> bool:
    return any("tried once more" in e.get("text", "") for e in arena.events[since:])


def clock_jump(arena: Arena, rng: random.Random) -> str:
    """The wall clock of the study and its trials jumps by up to a day, forward or back."""
    seconds = rng.choice([-86400, -3600, -60, 60, 3600, 86400])
    scratch = arena.folder / "clock.new"
    scratch.write_text(str(seconds))
    scratch.rename(arena.folder / "clock")
    return "forward" if seconds > 0 else "back"


KINDS = (
    Kind(name="kill -9 of the worker", share=12, strike=kill_worker),
    Kind(name="kill -9 of the trial's process", share=13, strike=kill_child),
    Kind(name="kill -9 of the daemon", share=4, strike=kill_daemon),
    Kind(name="kill -9 of the trials' parent", share=4, strike=kill_parent),
    Kind(name="SIGSTOP of the worker, then SIGCONT", share=6, strike=stop_worker),
    Kind(name="SIGSTOP of the trial, then SIGCONT", share=5, strike=stop_child),
    Kind(name="SIGSTOP of the trial for good", share=3, strike=stop_child_for_good),
    Kind(name="SIGTERM", share=6, strike=terminate),
    Kind(name="database down 30 s", share=3, strike=database_down),
    Kind(name="SIGTERM while the database is down", share=2, strike=terminate_in_outage),
    Kind(name="kill -9 while the database is down", share=2, strike=kill_in_outage),
    Kind(name="damaged journal", share=2, strike=damaged_journal),
    Kind(name="connection cut", share=6, strike=connection_cut),
    Kind(name="disk full: cache", share=4, strike=full_cache, needs_disk=True),
    Kind(name="disk full: database", share=2, strike=full_database, needs_disk=True),
    Kind(name="damaged variant", share=4, strike=damaged_variant),
    Kind(name="damaged engine", share=5, strike=damaged_engine),
    Kind(name="out of memory in an engine", share=4, strike=_ordered("oom")),
    Kind(name="SIGSEGV in an engine", share=6, strike=_ordered("segv")),
    Kind(name="hang in an engine", share=2, strike=_ordered("hang")),
    Kind(name="clock jump", share=5, strike=clock_jump),
)


def schedule(n: int, rng: random.Random, *, disks: bool) -> list[Kind]:
    """`n` faults in random order: each kind by its share, rounded so that none is left out where there is room for all."""
    usable = [k for k in KINDS if disks or not k.needs_disk]
    total = sum(k.share for k in usable)
    chosen = [k for k in usable for _ in range(max(1, round(n * k.share / total)))]
    rng.shuffle(chosen)
    while len(chosen) < n:
        chosen.append(rng.choices(usable, [k.share for k in usable])[0])
    return chosen[:n]
