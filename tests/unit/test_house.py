"""The house rules that a machine can check: import order, heavy imports, no trace of a machine, and a documented surface."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "autotune"

ORDER: tuple[tuple[str, ...], ...] = (
    (
        "redact",
        "printable",
        "errors",
        "fingerprint",
        "candidate",
        "registry",
        "assets",
        "pareto",
        "records",
        "cache",
        "user_code",
    ),
    ("devices",),
    ("cuda",),
    ("spec",),
    ("search",),
    ("space",),
    ("data",),
    ("variants",),
    ("engines",),
    ("telemetry",),
    ("bench",),
    ("explain",),
    ("trial",),
    ("store",),
    ("study",),
    ("fleet",),
    ("simulator",),
    ("export", "report"),
    ("fresh_process",),
    ("testing",),
    ("cli",),
)
"""Rooms and top-level modules, each importing only from earlier lines; within a line in the order of the names."""

BLIND: dict[str, set[str]] = {
    "search": {"candidate", "registry", "assets", "records", "cache", "devices", "cuda", "spec", "errors", "fingerprint"},
    "store": {"spec", "space", "data", "variants", "engines", "telemetry", "bench", "trial", "study"},
    "bench": {"space", "variants", "store"},
    "engines": {"spec", "space", "data", "store"},
    "trial": {"space", "store"},
    "report": {"store", "study", "trial"},
    "export": {"store", "study", "space"},
    "telemetry": {"spec", "data", "variants", "engines"},
    "explain": {"cache", "devices", "spec", "space", "data", "telemetry", "bench"},
}
"""What a room must not know although it comes later: the store knows records only, an engine no data, a trial no search."""

LIBRARIES: dict[str, set[str]] = {
    "onnxruntime": {"engines", "variants", "export"},
    "openvino": {"engines", "export"},
    "torch": {"engines", "variants", "spec", "cuda"},
    "torch_pruning": {"variants"},
    "onnx2torch": {"variants"},
    "onnx": {"engines", "variants", "spec", "testing"},
    "optuna": {"search", "study", "space", "report", "simulator"},
    "optuna_dashboard": {"report"},
    "matplotlib": {"report"},
    "sqlalchemy": {"store", "study"},
    "alembic": {"store"},
    "safetensors": {"variants", "spec"},
    "ml_dtypes": {"variants"},
    "torchvision": {"variants"},
    "pytest": {"testing"},
    "google": {"variants", "spec"},  # protobuf's errors, which onnx lets through
    "PIL": {"data", "spec"},
    "psutil": {"telemetry", "trial"},
    "rich": {"cli"},
    "click": {"cli"},
    "pydantic": {"spec", "simulator"},
    "yaml": {"spec", "cli", "fleet"},
    "fsspec": {"cache"},
    "filelock": {"study", "engines"},  # engines: the timings that builds share
    "pynvml": {"devices"},
    "cuda": {"cuda"},
    "pycuda": {"cuda"},
    "mlperf_loadgen": {"bench"},
    "ray": {"fleet"},
    "prometheus_client": {"report"},
}
"""The rooms that may import a library; no room imports one that is not named here, the standard library and numpy apart."""

LIGHT = {"click", "pydantic", "yaml", "filelock", "psutil", "pytest"}
"""Libraries that may be imported where a module begins. All others are imported in functions, so that help stays quick."""

AT_THE_TOP = {
    *((f"autotune/store/{name}.py", "sqlalchemy") for name in
      ("attendance", "changes", "connection", "crew", "failed_tries", "figures", "outcomes", "reading", "repetitions",
       "reported", "repository", "retry", "rows", "schema", "studies", "summaries", "tables", "trials")),
    ("autotune/study/trial_window.py", "optuna"),  # its class is a storage of Optuna's; imported when a study is opened
    ("autotune/search/sampler.py", "optuna"),  # its class is a sampler of Optuna's; nothing imports it before it is used
    ("autotune/export/run_onnxruntime.py", "onnxruntime"),  # a script that leaves with the bundle, never imported here
    ("autotune/export/run_openvino.py", "openvino"),
}  # fmt: skip


@cache
def imports() -> tuple[tuple[str, str, str, bool], ...]:
    """(file, its room, the imported module, whether at the top level) for every import that can happen at run time."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text())
        types_only = {id(inner) for node in ast.walk(tree) if _is_type_checking(node) for inner in ast.walk(node)}
        for node in ast.walk(tree):
            if id(node) not in types_only:
                name = path.relative_to(ROOT).as_posix()
                found += [(name, room(path), module, node in tree.body) for module in _modules(node)]
    return tuple(found)


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _modules(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
        yield from (f"autotune.{a.name}" for a in node.names) if node.module == "autotune" else (node.module,)


def room(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


def rank(name: str) -> tuple[int, int]:
    for i, line in enumerate(ORDER):
        if name in line:
            return i, line.index(name)
    raise AssertionError(f"{name} has no place in the order")


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode != 0:
        pytest.skip("no git here, so nobody can say which files are tracked")
    return [p for name in listed.stdout.decode().split("\0") if name and (p := ROOT / name).is_file()]


def test_imports_go_one_way() -> None:
    """A room imports earlier rooms only; so there are no cycles, and every room can be understood without the later ones."""
    wrong = []
    for file, here, module, _ in imports():
        there = module.split(".")[1] if module.startswith("autotune.") else ""
        if there in ("", "__version__") or there == here or here == "__init__":
            continue
        if rank(there) > rank(here) or there in BLIND.get(here, ()):
            wrong.append(f"{file} imports {module}")
    assert wrong == []


def test_every_room_has_a_place_in_the_order() -> None:
    """A new room is a decision; this is where it is written down."""
    present = {room(p) for p in PACKAGE.rglob("*.py")} - {"__init__"}
    assert present == {name for line in ORDER for name in line}


def test_libraries_stay_in_their_rooms() -> None:
    """Who replaces a library finds all of its uses in one place; a new dependency is a decision."""
    wrong = []
    for file, here, module, _ in imports():
        top = module.partition(".")[0]
        if top not in sys.stdlib_module_names and top not in ("autotune", "numpy") and here not in LIBRARIES.get(top, ()):
            wrong.append(f"{file} imports {module}")
    assert wrong == []


def test_heavy_libraries_are_imported_in_functions() -> None:
    """A module can be imported without the library that one of its functions needs, and costs nothing until it is used."""
    wrong = []
    for file, _, module, at_top in imports():
        top = module.partition(".")[0]
        if at_top and top in LIBRARIES and top not in LIGHT and (file, top) not in AT_THE_TOP:
            wrong.append(f"{file} imports {module}")
    assert wrong == []


HEAVY = ("torch", "optuna", "onnx", "onnxruntime", "openvino", "sqlalchemy", "alembic", "PIL", "pydantic", "rich", "numpy")


@pytest.mark.parametrize(
    "action",
    ["import autotune", "import runpy; runpy.run_module('autotune.cli.main', run_name='__main__', alter_sys=True)"],
    ids=["import", "help"],
)
def test_import_and_help_load_nothing_heavy(action: str) -> None:
    """`import autotune` and `autotune --help` take a moment, whatever is installed."""
    code = f"""
import atexit, json, sys
sys.argv = ["autotune", "--help"]
atexit.register(lambda: print(json.dumps(sorted({{m.partition(".")[0] for m in sys.modules}})), file=sys.stderr))
{action}
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    loaded = set(json.loads(done.stderr.splitlines()[-1]))
    assert loaded & set(HEAVY) == set()


def test_no_tracked_file_names_a_machines_folders() -> None:
    """The project runs anywhere and says nothing about where it was made."""
    # Spelled in two parts, so that this file does not find itself.
    pattern = re.compile(
        "|".join(
            re.escape(a + b) for a, b in (("/wor", "k/"), ("/tmp/", "venv"), ("/tmp", "/w_"), ("/ro", "ot/"), ("/ho", "me/"))
        )
    )
    wrong = []
    for path in tracked():
        content = path.read_bytes()
        if b"\0" in content[:8192] and path.suffix != ".db":
            continue
        for n, line in enumerate(content.decode("utf-8", "replace").splitlines(), 1):
            if pattern.search(line):
                wrong.append(f"{path.relative_to(ROOT)}:{n}: {line.strip()[:80]}")
    assert wrong == []


def commands() -> list[str]:
    import click

    from autotune.cli.main import cli

    context = click.Context(cli)
    found = []
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        inner = sorted(command.commands) if isinstance(command, click.Group) else [""]
        found += [f"{name} {sub}".strip() for sub in inner]
    return found


def test_every_command_stands_in_the_readme() -> None:
    """What can be typed is documented: `autotune NAME` for every command."""
    readme = (ROOT / "README.md").read_text()
    assert [c for c in commands() if not re.search(rf"\bautotune {re.escape(c)}\b", readme)] == []


def test_every_preset_loads(tmp_path: Path) -> None:
    """Each file in search_spaces/ can be extended by a study as it is."""
    from assets import fake_study as fake

    from autotune.candidate import KNOBS
    from autotune.spec.load import load_spec

    presets = sorted((ROOT / "search_spaces").glob("*.yaml"))
    assert presets
    for preset in presets:
        text = fake.STUDY[fake.STUDY.index("space:") : fake.STUDY.index("constraints:")]
        study = fake.write_study(tmp_path, (text, f"space: {{extends: {preset.stem}}}\n"), ("engines: [fake]\n", ""))
        assert set(load_spec(study).space) <= set(KNOBS), preset.name


def test_no_module_is_named_after_nothing() -> None:
    """A module is named by what it holds, and no file grows past 400 lines."""
    names = {"utils", "util", "helpers", "common", "misc", "manager"}
    assert [p.name for p in PACKAGE.rglob("*.py") if p.stem in names] == []
    assert [p.name for p in PACKAGE.rglob("*.py") if len(p.read_text().splitlines()) > 400] == []
