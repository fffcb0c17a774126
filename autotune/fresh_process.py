"""What the engines' contract asks of a new interpreter: programs that get JSON and print JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import packages_distributions
from typing import Any

from autotune.engines.protocol import Backend


def vendors_of(backend: Backend) -> set[str]:
    """Top-level modules of the engine's distributions, those apart that autotune itself needs."""
    wanted = {d.replace("_", "-") for d in backend.capabilities().distributions}
    modules = {m for m, owners in packages_distributions().items() if wanted & {o.replace("_", "-") for o in owners}}
    return (modules | {name.partition(".")[0] for name in backend.preload}) - {"numpy", "onnx"}


def in_fresh_process(program: str, backend: Backend, **words: Any) -> dict[str, Any]:
    """What `program` printed as JSON, in a new interpreter that can import what this one can."""
    kind = type(backend)
    given = {"module": kind.__module__, "name": kind.__qualname__, "preload": backend.preload, **words}
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, "-c", program, json.dumps(given)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


CONSTRUCT = """
import json, sys
import autotune.engines.protocol
from autotune.registry import load_object
given = json.loads(sys.argv[1])
before = set(sys.modules)
load_object(given["module"] + ":" + given["name"])()
new = {m.partition(".")[0] for m in set(sys.modules) - before}
print(json.dumps({"new": sorted(new & set(given["vendors"]))}))
"""

WITHOUT_LIBRARY = """
import json, sys
from importlib import metadata
from autotune.registry import load_object
given = json.loads(sys.argv[1])
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in given["vendors"]:
            raise ModuleNotFoundError(f"No module named {name!r}")
sys.meta_path.insert(0, Absent())
if not given["installed"]:
    known = metadata.version
    def version(name):
        if name.partition("-")[0] in given["vendors"]:
            raise metadata.PackageNotFoundError(name)
        return known(name)
    metadata.version = version
able = load_object(given["module"] + ":" + given["name"])().capabilities()
print(json.dumps({"available": able.available, "missing": able.missing, "remedy": able.remedy}))
"""

FORK = """
import importlib, json, os, pathlib, signal, sys
from autotune import testing
from autotune.registry import load_object
given = json.loads(sys.argv[1])
missing = []
for name in ("onnx", *given["preload"]):
    try:
        importlib.import_module(name)
    except ImportError:
        missing.append(name)
if (child := os.fork()) == 0:
    status = 1
    try:
        signal.alarm(60)
        contract = testing.EngineContract()
        contract.backend = load_object(given["module"] + ":" + given["name"])
        contract.answer_once(pathlib.Path(given["folder"]))
        status = 0
    finally:
        os._exit(status)
print(json.dumps({"not_importable": missing, "status": os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}))
"""
