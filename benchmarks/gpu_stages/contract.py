"""Stage contract: pytest on tests/gpu, a class at a time, so that a hang or a kill costs one class and not the others."""

from __future__ import annotations

import ast
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

from gpu_stages.bench import Bench

ROOT = Path(__file__).parents[2]
GPU_TESTS = ROOT / "tests" / "gpu"
_MARGIN_S = 10.0
_LEAST_S = 60.0
"""With less than that left no further class begins, unless none has: a contract opens an engine some dozens of times."""


def run(bench: Bench) -> dict[str, Any]:
    """The runtimes' and the engines' contracts on this GPU: what passed, what failed and why, what was skipped and why."""
    names = class_names()
    classes = {name: found for name, found in bench.before.get("classes", {}).items() if name in names}
    failed = [name for name, found in classes.items() if found["failed"]]
    pending = [*(name for name in names if name not in classes), *failed]  # what failed comes last: it may hang once more
    for begun, name in enumerate(list(pending)):
        if begun and bench.left_s < _MARGIN_S + _LEAST_S:
            break
        found = _of_class(bench, name)
        if found is None and begun:  # it had what others left of the stage, and is tried again with a whole one
            break
        classes[name] = found or _hung(name)
        pending.remove(name)
        bench.keep({"classes": classes, **summed(classes)})
    return {"classes": classes, **summed(classes), "unfinished": bool(pending)}


def _hung(name: str) -> dict[str, Any]:
    return {"passed": 0, "failed": 1, "failures": {name: "did not end within a whole stage"}, "skipped": {}}


def class_names() -> list[str]:
    """ "test_gpu_engines.py::TestTensorRt", …: the tests' classes in the order of the files."""
    found = []
    for path in sorted(GPU_TESTS.glob("test_*.py")):
        classes = [n for n in ast.parse(path.read_text()).body if isinstance(n, ast.ClassDef) and n.name.startswith("Test")]
        found += [f"{path.name}::{c.name}" for c in classes]
    return found


def _of_class(bench: Bench, name: str) -> dict[str, Any] | None:
    """What became of the class; None where it did not end in the time that is left."""
    report = bench.work / "contract.xml"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", str(GPU_TESTS / name)]
    limit_s = max(_LEAST_S / 2, bench.left_s - _MARGIN_S)
    try:
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        return None
    if not report.exists():
        return {"passed": 0, "failed": 1, "failures": {name: (ended.stdout + ended.stderr)[-1000:]}, "skipped": {}}
    return outcomes(report.read_text())


def summed(classes: dict[str, Any]) -> dict[str, Any]:
    """Counts over all classes, every failure, and how many were skipped for each reason."""
    failures, skipped = {}, dict[str, int]()
    for found in classes.values():
        failures |= found["failures"]
        for reason, n in found["skipped"].items():
            skipped[reason] = skipped.get(reason, 0) + n
    counts = {kind: sum(found[kind] for found in classes.values()) for kind in ("passed", "failed")}
    return {**counts, "failures": failures, "skipped": skipped}


def outcomes(junit: str) -> dict[str, Any]:
    """Counts by outcome, the message of each failure, and how many were skipped for each reason."""
    passed, failures, skipped = 0, {}, dict[str, int]()
    for case in ET.fromstring(junit).iter("testcase"):  # our own pytest wrote it
        name = f"{case.get('classname')}::{case.get('name')}"
        bad = next((c for c in case if c.tag in ("failure", "error")), None)
        skip = case.find("skipped")
        if bad is not None:
            failures[name] = (bad.get("message") or "")[:1000]
        elif skip is not None:
            reason = (skip.get("message") or "")[:300]
            skipped[reason] = skipped.get(reason, 0) + 1
        else:
            passed += 1
    return {"passed": passed, "failed": len(failures), "failures": failures, "skipped": skipped}
