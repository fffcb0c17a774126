"""No file that a stranger made brings autotune down: a small run of benchmarks/fuzz.py, and proof that it would notice."""

from __future__ import annotations

import sys
from pathlib import Path

import fuzz
import pytest
from fuzzing import feeding
from fuzzing.feeding import Feeder
from fuzzing.mutations import WEIGHTS, kinds_in_turn, mutated
from fuzzing.pool import Limits

N_INPUTS = 300


def test_mutated_inputs_are_accepted_or_refused() -> None:
    """Of 300 inputs of all kinds none gives a traceback, a crash, a hang, a stray file or more than 1 GiB."""
    tally = fuzz.fuzzed(fuzz.cases(N_INPUTS, 11, None), 1, Limits())
    assert tally.n == N_INPUTS and set(tally.outcomes) == set(WEIGHTS)
    assert [(c.kind, c.seed, o["what"]) for c, o in tally.failures] == []


def test_an_input_is_the_same_again() -> None:
    """What failed can be replayed from its seed, also with fewer mutations."""
    for kind in WEIGHTS:
        once, again = mutated(kind, "0/3"), mutated(kind, "0/3")
        assert once == again
    assert len({kind for kind, _ in zip(kinds_in_turn(), range(30), strict=False)}) == len(WEIGHTS)


def test_the_memory_of_whoever_fuzzes_does_not_count() -> None:
    """A process that holds more than the limit starts the workers: theirs alone is judged."""
    ballast = b"x" * (1 << 30)
    tally = fuzz.fuzzed(fuzz.cases(1, 11, None), 1, Limits())
    assert len(ballast) >= Limits().resident_mib << 20 and tally.failures == []


FAULTS = {
    "traceback": "raise KeyError('x')",
    "memory": "raise MemoryError",
    "wrote": "(folder.parent / 'stray').write_text('x')",
}


@pytest.mark.parametrize("kind", [*FAULTS, "read", "started"])
def test_faults_are_noticed(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loader that raises, writes beside the cache, reads outside its folder or starts a program does not pass."""

    def load(folder: Path, cache: Path) -> object:
        if kind == "read":
            return (folder.parent / "outside" / "secret").read_bytes()
        if kind == "started":
            import subprocess

            return subprocess.run([sys.executable, "-c", ""], check=True)
        return exec(FAULTS[kind], {"folder": folder})

    monkeypatch.setattr(feeding, "_study", load)
    feeder = Feeder(tmp_path, 10**6)
    assert feeder.feed("npz", "0/1").kind == (kind if kind in FAULTS else "wrote")
