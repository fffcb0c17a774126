"""`autotune explain` on the fake engine, whose layers are a formula: who can be explained, what is said, and when it waits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from assets import fake_study as fake

from autotune.engines.fake import FAULTS

SEGV = next(mib for mib, fault in FAULTS.items() if fault == "segv")
UNBUILT = next(mib for mib, fault in FAULTS.items() if fault == "build")
PRIORS = (
    "priors: [{precision: int8, batch_size: 8, streams: 2, worker_threads: 4}, {precision: int8-tensor, batch_size: 8}, "
    f"{{batch_size: 16, memory_pool_mib: {SEGV}}}, {{batch_size: 32, memory_pool_mib: {UNBUILT}}}]"
)
ACCEPTED, INACCURATE, CRASHED, NEVER_BUILT = 2, 3, 4, 5
"""Numbers of the trials: 1 is the engine's default, then the priors in their order."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study with a trial of each fate."""
    found = tmp_path_factory.mktemp("explain")
    pools = f"space:\n  memory_pool_mib: [64, {SEGV}, {UNBUILT}]"
    fake.write_study(found, ("trials: 12", "trials: 5"), (fake.PRIORS, PRIORS), ("space:", pools))
    fake.autotune(found, "start", "study.yaml")
    states = [(t["number"], t["state"]) for t in document(found, "trials")]
    assert states == [(1, "complete"), (2, "complete"), (3, "rejected"), (4, "rejected"), (5, "rejected")]
    return found


def document(folder: Path, command: str, *words: object) -> Any:
    return json.loads(fake.autotune(folder, command, "study.yaml", *words, "--json").stdout)


def test_one_trial_as_json(folder: Path) -> None:
    """One document on stdout; progress is on stderr."""
    found = document(folder, "explain", ACCEPTED, "--runs", 3)
    assert set(found) == {"study", "trial", "against", "comparison", "verdict", "caveats"}
    assert found["trial"]["trial"] == ACCEPTED and found["trial"]["n_runs"] == 3
    assert found["against"] is None and found["comparison"] is None
    assert found["trial"]["layers"][0]["nodes"] and found["trial"]["by_role"]
    assert any("one of its 2 streams with 2 of its 4 threads" in caveat for caveat in found["caveats"])
    assert any("profiler" in caveat for caveat in found["caveats"])


def test_against_another(folder: Path) -> None:
    """Both sides, matched by node, with a verdict that names both."""
    found = document(folder, "explain", ACCEPTED, "--against", "ref")
    assert found["trial"]["precision"] == "int8" and found["against"]["precision"] == "fp32"
    assert {m["name"] for m in found["comparison"]["matched"]} >= {"between layers"}
    assert found["verdict"][0].startswith("int8 ") and "fp32" in found["verdict"][0]


def test_a_trial_that_was_rejected_for_its_accuracy_has_an_engine(folder: Path) -> None:
    """Why it is as fast as it is can be asked all the same."""
    assert document(folder, "explain", INACCURATE)["trial"]["precision"] == "int8-tensor"


@pytest.mark.parametrize(("trial", "sign"), [(CRASHED, "rejected in accuracy"), (NEVER_BUILT, "rejected in engine")])
def test_a_trial_without_an_engine_is_refused_with_its_fate(folder: Path, trial: int, sign: str) -> None:
    """Wrong input: exit code 2, and nothing was run."""
    done = fake.autotune(folder, "explain", "study.yaml", trial, expect=2)
    assert f"trial {trial} has no engine to explain: {sign}" in done.stderr and "profiling" not in done.stderr
    assert done.stdout == ""


def test_an_unknown_trial_is_refused_with_those_there_are(folder: Path) -> None:
    """As `show` does, for either of the two."""
    assert "its trials: 1 to 5" in fake.autotune(folder, "explain", "study.yaml", 99, expect=2).stderr
    assert "its trials: 1 to 5" in fake.autotune(folder, "explain", "study.yaml", 1, "--against", 99, expect=2).stderr


def test_text_is_plain_where_it_is_piped(folder: Path) -> None:
    """No escape codes; the verdict first, the caveats last, and --top rows at most."""
    text = fake.autotune(folder, "explain", "study.yaml", ACCEPTED, "--against", 1, "--top", 1).stdout
    assert "\x1b" not in text
    assert text.splitlines()[0].startswith("int8 ") and text.splitlines()[-2].startswith("note: ")
    assert "largest change" in text and "longest layers" in text


def test_it_waits_for_who_measures_and_says_so(folder: Path) -> None:
    """A profile beside a study's measurement would spoil both; nothing is profiled until the other is done."""
    program = "from autotune.study.lock import device_lock\nwith device_lock('cpu'):\n    print(flush=True)\n    input()"
    pipe, environment = subprocess.PIPE, fake.environment(folder)
    with subprocess.Popen([sys.executable, "-c", program], env=environment, stdin=pipe, stdout=pipe, text=True) as holder:
        assert holder.stdout is not None and holder.stdin is not None
        holder.stdout.readline()
        words = fake.command("explain", "study.yaml", 1, "--json")
        with subprocess.Popen(words, cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True) as waiting:
            assert waiting.stderr is not None
            assert waiting.stderr.readline() == "waiting: another process measures on cpu\n"
            holder.communicate("\n")
            out, err = waiting.communicate(timeout=120)
    assert json.loads(out)["trial"]["trial"] == 1 and err.startswith("profiling trial 1")


def test_an_engine_that_is_no_longer_in_the_cache_is_made_again(folder: Path) -> None:
    """The cache may be emptied at any time."""
    import shutil

    for kind in ("engines", "variant"):
        shutil.rmtree(folder / "cache" / kind)
    found = document(folder, "explain", ACCEPTED)
    assert not any("was measured on the variant" in caveat for caveat in found["caveats"])
