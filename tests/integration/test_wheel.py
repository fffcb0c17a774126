"""The wheel: one importable name with its data, and a command line that works in an environment without engines."""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling", reason="building the wheel without the network needs hatchling")
    out = tmp_path_factory.mktemp("wheel")
    code = "import os, sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, str(out)], cwd=ROOT, check=True, capture_output=True, timeout=120)
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_brings_one_name_and_its_data(wheel: Path) -> None:
    """`autotune` and nothing else is importable; search spaces, migrations, views and dashboards are inside it."""
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {t for t in tops if not t.endswith(".dist-info")} == {"autotune"} and len(tops) == 2
    assets = {name.split("/")[2] for name in names if name.startswith("autotune/_assets/")}
    assert assets == {"search_spaces", "storage", "dashboards"}
    for folder in ("search_spaces", "storage", "dashboards"):
        here = {
            p.relative_to(ROOT).as_posix() for p in (ROOT / folder).rglob("*") if p.is_file() and "__pycache__" not in p.parts
        }
        there = {n.removeprefix("autotune/_assets/") for n in names if n.startswith(f"autotune/_assets/{folder}/")}
        assert here == there
    assert "autotune/py.typed" in names
    assert not [n for n in names if n.endswith((".pyc", ".db", ".onnx")) or "/tests/" in n]
    sources = {p.relative_to(ROOT).as_posix() for p in (ROOT / "autotune").rglob("*.py")}
    assert sources <= set(names)


@pytest.mark.slow
def test_the_installed_wheel_works_without_engines(wheel: Path, tmp_path: Path) -> None:
    """With its plain dependencies alone it helps, lists presets, makes a database, and says what is missing: exit code 3."""
    venv.create(tmp_path / "env", with_pip=True)
    python, program = tmp_path / "env" / "bin" / "python", tmp_path / "env" / "bin" / "autotune"
    installed = subprocess.run(
        [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", str(wheel)],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    if installed.returncode != 0:
        if any(sign in installed.stderr for sign in ("No matching distribution", "Connection", "resolve", "Max retries")):
            pytest.skip(f"no package index: {installed.stderr.splitlines()[-1]}")
        raise AssertionError(installed.stderr)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([str(program), *words], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)

    assert "Finds out" in run("--help").stdout
    assert "cpu: " in run("presets").stdout
    doctor = run("doctor")
    assert doctor.returncode == 3
    for engine in ("onnxruntime", "openvino"):
        assert f"✗ {engine}: the package {engine} is not installed. Try: pip install 'autotune[{engine}]'" in doctor.stdout
    (tmp_path / "fresh.db").touch()
    upgraded = run("db", "upgrade", "--storage", "sqlite:///fresh.db")
    assert upgraded.returncode == 0, upgraded.stderr
    assert "no study yet" in run("status", "--storage", "sqlite:///fresh.db").stdout
