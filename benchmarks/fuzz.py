"""Can any file that a stranger made bring autotune down?

    python benchmarks/fuzz.py --inputs 20000 --seed 0 [--workers 2] [--out benchmarks/results/fuzz.json] [--failures DIR]
    python benchmarks/fuzz.py --replay onnx:0/1234        # one input again, with its whole traceback

Study files, ONNX files, arrays, CSV files, images, bundles and shared artifacts are mutated (edits of their structure, then of
their bytes) and fed to the product's own loading paths, in processes with a limit on memory and a deadline. An input passes
when it is accepted or refused with an error of ours. It fails with a traceback, a crash, a hang, more memory than allowed, a
file written anywhere but in the cache, a file read outside the study's folder, a program started or a connection opened.
Failing inputs are kept with as few of their mutations as still fail.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from fuzzing.feeding import write_files
from fuzzing.mutations import kinds_in_turn, mutated
from fuzzing.pool import Case, Limits, Worker, run_all

PASSES = ("accepted", "refused")
_MOST_KEPT = 200


class Tally:
    """Counts by kind and outcome, and what failed."""

    def __init__(self) -> None:
        self.outcomes: dict[str, Counter[str]] = defaultdict(Counter)
        self.refusals: dict[str, Counter[str]] = defaultdict(Counter)
        self.slowest_s: dict[str, float] = defaultdict(float)
        self.peak_mib: dict[str, float] = defaultdict(float)
        self.failures: list[tuple[Case, dict[str, Any]]] = []

    def hear(self, case: Case, outcome: dict[str, Any]) -> None:
        """One more outcome."""
        self.outcomes[case.kind][outcome["kind"]] += 1
        self.slowest_s[case.kind] = max(self.slowest_s[case.kind], outcome["cpu_s"])
        self.peak_mib[case.kind] = max(self.peak_mib[case.kind], outcome["peak_mib"])
        if outcome["kind"] == "refused":
            self.refusals[case.kind][outcome["what"]] += 1
        elif outcome["kind"] not in PASSES:
            self.failures.append((case, outcome))

    @property
    def n(self) -> int:
        """Inputs so far."""
        return sum(sum(c.values()) for c in self.outcomes.values())

    def as_json(self) -> dict[str, Any]:
        """By kind; the peak is that of the worker's whole life so far."""
        return {
            kind: {
                "inputs": sum(found.values()),
                **{name: found[name] for name in PASSES},
                "failed": {name: n for name, n in sorted(found.items()) if name not in PASSES},
                "refused_with": dict(self.refusals[kind].most_common()),
                "slowest_cpu_s": self.slowest_s[kind],
                "peak_resident_mib": self.peak_mib[kind],
            }
            for kind, found in sorted(self.outcomes.items())
        }


def cases(n: int, seed: int, kinds: list[str] | None, first: int = 0) -> Iterator[Case]:
    """The inputs `first` to `n` of the seed, the same on every machine."""
    numbered = ((i, kind) for i, kind in enumerate(islice(kinds_in_turn(), n)) if kinds is None or kind in kinds)
    return (Case(kind=kind, seed=f"{seed}/{i}") for i, kind in numbered if i >= first)


def fuzzed(found: Iterator[Case], n_workers: int, limits: Limits, progress_s: float = 30.0) -> Tally:
    """The outcomes of all cases, with a line on stderr now and then."""
    tally, told = Tally(), [time.monotonic()]

    def hear(case: Case, outcome: dict[str, Any]) -> None:
        tally.hear(case, outcome)
        if time.monotonic() - told[0] > progress_s:
            told[0] = time.monotonic()
            print(f"{tally.n} inputs, {len(tally.failures)} failures", file=sys.stderr, flush=True)

    run_all(found, n_workers, limits, hear, python_path())
    return tally


def python_path() -> str:
    """Where a worker finds autotune and this folder."""
    here = Path(__file__).resolve()
    return os.pathsep.join([str(here.parents[1]), str(here.parent)])


def signature(outcome: dict[str, Any]) -> str:
    """What is the same for two inputs with one cause: the failure and the place of it."""
    return f"{outcome['kind']}: {outcome['what'].rpartition(' at ')[2][:150] or outcome['what'][:80]}"


def minimised(case: Case, outcome: dict[str, Any], worker: Worker) -> Case:
    """The case with mutations left out one by one while it fails in the same way."""
    kept = tuple(range(mutated(case.kind, case.seed)[2]))
    for i in kept if len(kept) > 1 else ():
        fewer = Case(kind=case.kind, seed=case.seed, only=tuple(k for k in kept if k != i))
        if signature(worker.run(fewer)) == signature(outcome):
            kept = fewer.only or ()
    return Case(kind=case.kind, seed=case.seed, only=kept)


def kept_failures(tally: Tally, folder: Path, limits: Limits) -> list[dict[str, Any]]:
    """One input of each cause is in the folder, with as few mutations as still fail; what is told of it."""
    causes: dict[str, list[tuple[Case, dict[str, Any]]]] = defaultdict(list)
    for case, outcome in tally.failures:
        causes[signature(outcome)].append((case, outcome))
    told, worker = [], Worker(limits, python_path())
    try:
        for cause, members in list(causes.items())[:_MOST_KEPT]:
            case, outcome = members[0]
            small = minimised(case, outcome, worker)
            study, files, _ = mutated(small.kind, small.seed, small.only)
            place = folder / f"{small.kind}-{small.seed.replace('/', '-')}"
            write_files(place, ({"study.yaml": study.encode()} if study else {}) | files)
            told.append(
                {"cause": cause, "what": outcome["what"], "inputs": len(members), "replay": f"{small.kind}:{small.seed}"}
            )
    finally:
        worker.close()
    return told


def replay(name: str) -> None:
    """One input in this process, its traceback on stderr."""
    import tempfile

    from fuzzing import feeding

    kind, _, seed = name.partition(":")
    with tempfile.TemporaryDirectory() as box:
        feeding._where = lambda: __import__("traceback").format_exc()
        print(feeding.Feeder(Path(box), 10**6).feed(kind, seed))


def main() -> int:
    """Runs the inputs, prints and writes the counts; exit code 1 when one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--first", type=int, default=0, help="leave out the inputs before this one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kinds", help="only these, separated by commas")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--failures", type=Path, default=Path(".autotune/fuzz"))
    parser.add_argument("--replay", metavar="KIND:SEED")
    arguments = parser.parse_args()
    if arguments.replay:
        replay(arguments.replay)
        return 0
    limits, began = Limits(), time.monotonic()
    kinds = arguments.kinds.split(",") if arguments.kinds else None
    tally = fuzzed(cases(arguments.inputs, arguments.seed, kinds, arguments.first), arguments.workers, limits)
    wall_s = time.monotonic() - began
    failures = kept_failures(tally, arguments.failures, limits)
    document = {
        "inputs": tally.n,
        "seed": arguments.seed,
        "workers": arguments.workers,
        "wall_s": round(wall_s, 1),
        "limits": {"address_mib": limits.address_mib, "resident_mib": limits.resident_mib, "deadline_s": limits.deadline_s},
        "python": platform.python_version(),
        "kinds": tally.as_json(),
        "failures": failures,
    }
    if arguments.out:
        arguments.out.write_text(json.dumps(document, indent=1) + "\n")
    for kind, found in document["kinds"].items():
        print(
            f"{kind:9} {found['inputs']:6} inputs: {found['accepted']} accepted, {found['refused']} refused, {found['failed']}"
        )
    for failure in failures:
        print(f"FAILED {failure['inputs']} × {failure['replay']}: {failure['what'][:400]}")
    print(f"{tally.n} inputs in {wall_s:.0f} s, {len(tally.failures)} failures")
    return 1 if tally.failures else 0


if __name__ == "__main__":
    sys.exit(main())
