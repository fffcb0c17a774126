"""A whole study and its disk: what the front needs stays, what is damaged is made again, and hosts share what they made."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from assets import fake_study as fake

SHORT = ("budget: {trials: 12}", "budget: {trials: 4}")


def found(folder: Path, *words: object) -> Any:
    return json.loads(fake.autotune(folder, *words, "--json").stdout)


def artifacts(trial: Mapping[str, Any]) -> set[str]:
    return {f"variant/{trial['variant']['key']}", f"engines/{trial['engine_key']}", f"accuracy/{trial['scores_key']}"}


def present(cache: Path) -> set[str]:
    return {f"{p.parent.parent.name}/{p.parent.name}" for p in cache.glob("*/*/artifact.json")}


def test_cleaning_keeps_the_front_and_damage_is_mended(tmp_path: Path) -> None:
    """After `cache clean` the front's and the reference's artifacts are there; damaged ones are made again and flagged."""
    fake.write_study(tmp_path, SHORT)
    fake.autotune(tmp_path, "start", "study.yaml")
    cache = tmp_path / "cache"
    found(tmp_path, "cache", "--folder", cache)
    assert found(tmp_path, "cache", "--folder", cache, "clean")["removed"] > 0
    shown = found(tmp_path, "front", "study.yaml")
    needed = set().union(*map(artifacts, [shown["reference"], *shown["front"]]))
    assert needed <= present(cache) and not list(cache.glob("samples/*/artifact.json"))
    for kind in ("engines", "variant", "accuracy"):
        for folder in (cache / kind).iterdir():
            for path in folder.glob("*") if folder.is_dir() else ():
                if path.name != "artifact.json":
                    path.write_bytes(path.read_bytes()[:-1] + b"!")
    fake.autotune(tmp_path, "start", "study.yaml", "--trials", 6)
    after = [*found(tmp_path, "trials", "study.yaml"), found(tmp_path, "front", "study.yaml")["reference"]]
    assert [t["state"] for t in after].count("crashed") == 0
    assert any("artifact_rebuilt" in t["flags"] for t in after)


def test_two_hosts_share_what_they_made(tmp_path: Path) -> None:
    """The second one's trials find the variants and engines of the first one's in the shared folder."""
    shared = ("cache: cache", f"cache: cache\nartifacts: file://{tmp_path}/share")
    for name in ("one", "two"):
        fake.write_study(tmp_path / name, SHORT, shared)
        fake.autotune(tmp_path / name, "start", "study.yaml")
    assert list((tmp_path / "share" / "artifacts" / "engines").glob("*.json"))
    counts = found(tmp_path / "two", "cache", "--folder", tmp_path / "two" / "cache")["shared"]
    assert counts["fetched"] > 0 and counts["failures"] == 0
    reference = found(tmp_path / "two", "front", "study.yaml")["reference"]
    assert {"variant", "engine", "accuracy"} <= set(reference["cached"])


IN_A_SMALL_DISK = """
set -e
mount -t tmpfs -o size=6m none {disk} || exit 77
dd if=/dev/zero of={disk}/filler bs=1k count={filler} status=none
status=0; {start} || status=$?
echo "first: $status, half-written: $(find {disk} -name '*.part' | wc -l)"
rm {disk}/filler
{start}
"""


@pytest.mark.parametrize("filler_kib", [6100, 6076])
def test_a_full_disk_stops_the_study_and_a_free_one_goes_on(tmp_path: Path, filler_kib: int) -> None:
    """On a file system whose room ends while the reference is measured, or soon after: exit code 3, which folder, how
    much is free and what to do; no half artifact and no traceback. With room again the study meets its target.
    """
    if shutil.which("unshare") is None:
        pytest.skip("no unshare here, so no file system of its own can be mounted")
    disk = tmp_path / "disk"
    disk.mkdir()
    fake.write_study(tmp_path, SHORT, ("cache: cache", f"cache: {disk}/cache"))
    start = shlex.join(map(str, fake.command("start", "study.yaml")))
    script = IN_A_SMALL_DISK.format(disk=disk, filler=filler_kib, start=start)
    command = ["unshare", "--user", "--map-root-user", "--mount", "bash", "-c", script]
    done = subprocess.run(command, cwd=tmp_path, env=fake.environment(tmp_path), capture_output=True, text=True, timeout=120)
    if done.returncode in (1, 77) and not done.stdout:
        pytest.skip(f"no file system of its own can be mounted here: {done.stderr[-200:]}")
    assert done.returncode == 0, done.stderr
    assert "first: 3, half-written: 0" in done.stdout
    assert "the disk is full" in done.stderr and f"cannot write to {disk}/cache" in done.stderr and "Free there:" in done.stderr
    assert "autotune cache clean" in done.stderr and "Traceback" not in done.stderr
    assert "Pareto front of 4 trials" in done.stdout
