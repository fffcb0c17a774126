"""A bundle is complete or not there, says what it holds, runs with numpy and the engine alone, and notices a changed file."""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from assets import fake_study as fake

from autotune.cache import Cache
from autotune.candidate import Candidate
from autotune.engines.build import load_backend
from autotune.errors import ExportError, SpecError
from autotune.export.bundle import BundleSource, export_bundle
from autotune.records import TrialRecord
from autotune.spec.load import load_spec
from autotune.trial.materialize import materialize

ENGINES = {"onnxruntime": "onnxruntime", "openvino": "openvino"}
BATCH = 4
CHANGES = (
    ("engines: [fake]", "engines: [ENGINE]"),
    ("[fp32, int8, int8-tensor]", "[fp32, int8]"),
    ("batch_size: [8, 16, 32]", f"batch_size: [{BATCH}, 8]"),
    ("streams: [1, 2, 4]", "streams: [1, 2]"),
    ("worker_threads: [1, 2, 4]", "worker_threads: 1"),
    (fake.PRIORS, "priors: [{batch_size: 4}]"),
    ("constraints: {accuracy_drop: 0.05}\n", "constraints: {accuracy_drop: 0.99}\n"),
    ("trials: 12", "trials: 2"),
)  # fmt: skip


@pytest.fixture(scope="module", params=ENGINES)
def study(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two trials, measured on a real engine; the study file's folder."""
    pytest.importorskip(ENGINES[request.param], reason=f"{request.param} is not installed")
    folder = tmp_path_factory.mktemp(request.param)
    fake.write_study(folder, *((old, new.replace("ENGINE", request.param)) for old, new in CHANGES))
    fake.autotune(folder, "start", "study.yaml")
    (folder / "engine").write_text(request.param)
    return folder


@pytest.fixture
def bundle(study: Path, tmp_path: Path) -> Path:
    out = tmp_path / "bundle"
    fake.autotune(study, "export", "study.yaml", "--out", out)
    return out


def run_py(folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """The bundle's own script in an interpreter that cannot see autotune, its working folder or the tests' paths."""
    block = "import sys; sys.modules['autotune'] = None; sys.argv = sys.argv[1:]; import runpy; "
    code = block + "runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-I", "-c", code, str(folder / "run.py"), *map(str, words)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


def test_the_manifest_lists_every_file_with_its_checksum(bundle: Path) -> None:
    """Whoever copies a bundle can tell that it arrived whole: names inside the folder, digests of the bytes, no others."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    present = {p.relative_to(bundle).as_posix() for p in bundle.rglob("*") if p.is_file()} - {"manifest.json"}
    assert set(manifest["files"]) == present
    for name, digest in manifest["files"].items():
        assert not Path(name).is_absolute() and ".." not in Path(name).parts
        assert hashlib.sha256((bundle / name).read_bytes()).hexdigest() == digest
    assert not any(p.is_symlink() for p in bundle.rglob("*"))


def test_the_manifest_holds_the_evidence(study: Path, bundle: Path) -> None:
    """The numbers are those of the study's best trial, with their intervals, device and versions."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    best = json.loads(fake.autotune(study, "best", "study.yaml", "--json").stdout)
    for name, value in manifest["trial"].items():
        assert best[name] == value
    assert manifest["target"] == (study / "engine").read_text()
    assert manifest["trial"]["throughput_items_per_s"].keys() == {"value", "low", "high", "n", "method"}
    assert manifest["trial"]["versions"]
    assert manifest["instructions"] == json.loads(fake.autotune(study, "doctor", "--json").stdout)["instructions"]


def test_the_instructions_are_told_where_they_are_known(study: Path, tmp_path: Path) -> None:
    """In the manifest and in the README, which has no word of them otherwise."""
    from dataclasses import replace

    engine = (study / "engine").read_text()
    source = made(study, Candidate.from_json(candidate(engine)))
    for known in (("amx_int8", "avx2"), ()):
        folder = export_bundle(replace(source, instructions=known), engine, tmp_path / f"{len(known)}")
        assert json.loads((folder / "manifest.json").read_text())["instructions"] == list(known)
        assert ("Its instructions: amx_int8, avx2." in (folder / "README.md").read_text()) == bool(known)
        assert ("instructions" in (folder / "README.md").read_text()) == bool(known)


def test_the_script_runs_in_a_fresh_process_without_autotune(bundle: Path) -> None:
    """It needs numpy and the engine, nothing else, and prints items per second."""
    done = run_py(bundle, "--seconds", "0.3")
    assert done.returncode == 0, done.stderr
    assert re.search(r"[\d.]+ items/s at batch \d+", done.stdout)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_outputs_equal_the_engines(study: Path, tmp_path: Path, precision: str) -> None:
    """A deployment answers as the engine did that was measured, in every precision."""
    engine = (study / "engine").read_text()
    source = made(study, Candidate.from_json({**candidate(engine), "precision": precision}))
    folder = export_bundle(source, engine, tmp_path / "out")
    x = np.random.default_rng(3).normal(size=(BATCH, 2)).astype(np.float32)
    np.savez(tmp_path / "samples.npz", x=x)
    done = run_py(folder, "--input", tmp_path / "samples.npz", "--seconds", "0.1")
    assert done.returncode == 0, done.stderr
    backend = load_backend(engine)
    with backend.open(source.materials.engine, source.record.candidate) as session:
        session.submit({"x": x}, 0)
        expected = session.wait(0)["logits"].copy()
    with np.load(folder / "outputs.npz") as outputs:
        np.testing.assert_allclose(outputs["logits"], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["model", "settings.json", "run.py"])
def test_a_changed_file_is_refused(bundle: Path, name: str) -> None:
    """One changed byte in any file, and the script does not run."""
    path = next(bundle.glob("model.*")) if name == "model" else bundle / name
    path.write_bytes(path.read_bytes() + b"\n")
    done = run_py(bundle, "--seconds", "0.1")
    assert done.returncode != 0 and "differs from the file that was exported" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "missing.bin"])
def test_names_in_a_manifest_cannot_leave_the_folder(bundle: Path, name: str) -> None:
    """A manifest from elsewhere cannot make the script read outside its folder; a missing file is named."""
    (bundle.parent / "secret").write_text("x")
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"][name] = hashlib.sha256(b"x").hexdigest()
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    done = run_py(bundle, "--seconds", "0.1")
    assert done.returncode != 0 and f"{name} is not in this folder" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("manifest", [None, "", "{", "[]", "{}", '{"files": []}', '{"files": {"a\\u0000b": "0"}}'])
def test_a_damaged_manifest_is_told(bundle: Path, manifest: str | None) -> None:
    """Missing, empty, cut off or of another form: the script says so in a line and does not run."""
    if manifest is None:
        (bundle / "manifest.json").unlink()
    else:
        (bundle / "manifest.json").write_text(manifest)
    done = run_py(bundle, "--seconds", "0.1")
    assert done.returncode != 0 and "export the bundle again" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["manifest.json", "settings.json"])
def test_links_in_a_circle_are_told(bundle: Path, name: str) -> None:
    """A file that is a link to itself is missing like any other."""
    (bundle / name).unlink()
    (bundle / name).symlink_to(name)
    done = run_py(bundle, "--seconds", "0.1")
    assert done.returncode != 0 and "export the bundle again" in done.stderr and "Traceback" not in done.stderr


def test_an_input_that_does_not_fit_is_told(bundle: Path, tmp_path: Path) -> None:
    """No file, no archive, or none of the model's inputs in it."""
    (tmp_path / "text.npz").write_text("text")
    np.savez(tmp_path / "other.npz", other=np.zeros(3))
    for name in ("missing.npz", "text.npz", "other.npz"):
        done = run_py(bundle, "--input", tmp_path / name, "--seconds", "0.1")
        assert done.returncode != 0 and f"{name}: " in done.stderr and "Traceback" not in done.stderr


def test_the_scripts_check_files_alike() -> None:
    """Each stands alone, since a bundle needs nothing of ours; what both do is written twice, and must stay the same."""
    folder = Path(inspect.getfile(export_bundle)).parent
    found = []
    for name in ENGINES:
        tree = ast.parse((folder / f"run_{name}.py").read_text())
        functions = {f.name: ast.unparse(f) for f in tree.body if isinstance(f, ast.FunctionDef)}
        found.append([functions[f] for f in ("_content", "_document", "_check_files")])
    assert found[0] == found[1]


def test_a_folder_that_is_not_empty_stays_as_it_was(study: Path, tmp_path: Path) -> None:
    """An export never mixes with or replaces what is there: exit code 5, and nothing left beside it."""
    out = tmp_path / "there"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    done = fake.autotune(study, "export", "study.yaml", "--out", out, expect=5)
    assert "not empty" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["there"] and (out / "mine.txt").read_text() == "keep"


def test_a_wrong_target_is_refused(study: Path, tmp_path: Path) -> None:
    """Numbers of one engine are no promise for another (5); a target nobody knows is wrong input (2). Nothing is written."""
    other = next(e for e in ENGINES if e != (study / "engine").read_text())
    done = fake.autotune(study, "export", "study.yaml", "--target", other, "--out", tmp_path / "a", expect=5)
    assert "was measured on" in done.stderr
    done = fake.autotune(study, "export", "study.yaml", "--target", "../run", "--out", tmp_path / "b", expect=2)
    assert "onnxruntime, openvino" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_trial_without_a_result_is_refused(study: Path, tmp_path: Path) -> None:
    """Only what was measured can be promised."""
    engine = (study / "engine").read_text()
    source = made(study, Candidate.from_json(candidate(engine)), state="rejected")
    with pytest.raises(ExportError, match="only a complete trial"):
        export_bundle(source, engine, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_is_not_the_measured_one_is_refused(study: Path, tmp_path: Path) -> None:
    """When the cache is gone and the variant comes out different, the numbers are not of this model."""
    engine = (study / "engine").read_text()
    source = made(study, Candidate.from_json(candidate(engine)), variant_key="another")
    with pytest.raises(ExportError, match="was measured on the variant another"):
        export_bundle(source, engine, tmp_path / "out")


def test_a_lost_cache_gives_the_same_bundle(study: Path, bundle: Path, tmp_path: Path) -> None:
    """The files are made again from the study alone, byte for byte where no training is involved."""
    shutil.move(study / "cache", study / "cache-before")
    try:
        fake.autotune(study, "export", "study.yaml", "--out", tmp_path / "again")
    finally:
        shutil.rmtree(study / "cache", ignore_errors=True)
        shutil.move(study / "cache-before", study / "cache")
    before, after = (json.loads((f / "manifest.json").read_text()) for f in (bundle, tmp_path / "again"))
    assert before["trial"] == after["trial"] and before["settings"] == after["settings"]
    assert set(before["files"]) == set(after["files"])


def test_an_unknown_target_is_a_spec_error(study: Path, tmp_path: Path) -> None:
    """Programs that embed autotune get the list of targets, too."""
    source = made(study, Candidate.from_json(candidate((study / "engine").read_text())))
    with pytest.raises(SpecError, match="allowed: onnxruntime, openvino"):
        export_bundle(source, "nowhere", tmp_path / "out")


def candidate(engine: str) -> dict[str, Any]:
    fixed = {"engine": engine, "precision": "fp32", "pruning_ratio": 0.0, "batch_size": BATCH}
    return {**fixed, "streams": 1, "worker_threads": 1, "memory_pool_mib": None}


def made(study: Path, candidate: Candidate, *, state: str = "complete", variant_key: str = "") -> BundleSource:
    """A source whose record says `state` and, if given, another variant."""
    from dataclasses import replace

    spec = load_spec(study / "study.yaml")
    materials = materialize(spec, candidate, Cache(study / "cache"))
    info = replace(materials.variant.info, key=variant_key) if variant_key else materials.variant.info
    record = TrialRecord(number=0, state=state, candidate=candidate, variant=info)  # type: ignore[arg-type]
    settings = load_backend(candidate.engine).deployment(candidate)
    return BundleSource(record=record, materials=materials, settings=settings, preprocess=None)
