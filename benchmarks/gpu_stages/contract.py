"""Stage contract: pytest on tests/gpu."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

from gpu_stages.bench import Bench

ROOT = Path(__file__).parents[2]
GPU_TESTS = ROOT / "tests" / "gpu"


def run(bench: Bench) -> dict[str, Any]:
    """The runtimes' and the engines' contracts on this GPU: what passed, what failed and why, what was skipped and why."""
    report = bench.work / "contract.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", str(GPU_TESTS)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if not report.exists():
        raise RuntimeError(f"pytest left no report: {ended.stdout[-2000:]}{ended.stderr[-2000:]}")
    return outcomes(report.read_text()) | {"pytest_status": ended.returncode}


def outcomes(junit: str) -> dict[str, Any]:
    """Counts by outcome, the message of each failure, and how many were skipped for each reason."""
    passed, failures, skipped = 0, {}, {}
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
