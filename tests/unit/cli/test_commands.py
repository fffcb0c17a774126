"""The command line: help for everything, exit codes, one JSON document on stdout, and wrong input refused before it runs."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import pynvml
import pytest
from assets import fake_study as fake
from assets.fake_nvml import install

from autotune.cli.main import cli, main
from autotune.fingerprint import cpu_fingerprint

BROKEN = runpy.run_path(str(Path(__file__).parents[2] / "assets" / "broken_inputs.py"))
ESTIMATE = {"value", "low", "high", "n", "method"}
TRIAL = {
    "number", "state", "reject", "candidate", "accuracy", "accuracy_drop", "throughput_items_per_s", "latency_ms",
    "energy_j_per_item", "power_w", "peak_memory_mib", "model_bytes", "build_s", "measure_s", "cached", "device", "versions",
    "flags", "started_at", "finished_at",
}  # fmt: skip
KNOBS = {"engine", "precision", "pruning_ratio", "batch_size", "streams", "worker_threads", "memory_pool_mib"}


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Runs the command line in this process, with cache and locks under the test's folder."""
    for name, value in fake.environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AUTOTUNE_STORAGE", raising=False)

    def run(*words: object) -> Said:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main([str(w) for w in words])
        out, err = capsys.readouterr()
        return Said(code=int(left.value.code or 0), out=out, err=err)

    return run


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study of four trials, one of them rejected; its file."""
    folder = tmp_path_factory.mktemp("cli")
    fake.write_study(folder, ("trials: 12", "trials: 4"))
    fake.autotune(folder, "start", "study.yaml")
    return folder / "study.yaml"


def all_commands() -> list[list[str]]:
    import click

    context, found = click.Context(cli), [[]]
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        found.append([name])
        found += [[name, sub] for sub in getattr(command, "commands", {})]
    return found


@pytest.mark.parametrize("words", all_commands(), ids=lambda w: " ".join(w) or "autotune")
def test_every_command_has_help(call: Any, words: Sequence[str]) -> None:
    """--help says in a sentence what a command does, and explains each of its options."""
    said = call(*words, "--help")
    assert said.code == 0 and said.err == ""
    sentence = said.out.split("\n\n")[1].strip()
    assert sentence.endswith(".") and len(sentence) > 20
    assert call(*words, "-h").out == said.out


@pytest.mark.parametrize("name", BROKEN["CASES"])
def test_wrong_input_leaves_with_2_and_its_place(call: Any, name: str, tmp_path: Path) -> None:
    """Exit code 2, file:line, the reason, no traceback; no database, no cache and no other file beside the study."""
    study = BROKEN["build"](name, tmp_path / name)
    if name.startswith("torch"):
        pytest.importorskip("torch", reason="a torch model needs torch")
    before = sorted(study.parent.rglob("*"))
    said = call("start", study)
    assert said.code == 2 and said.out == ""
    assert BROKEN["CASES"][name].fragment in said.err
    assert re.search(r"\.yaml:\d+: ", said.err) and "Traceback" not in said.err and "hush" not in said.err
    assert sorted(study.parent.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "fragment"),
    [
        (["nonsense"], "nonsense"),
        (["start"], "STUDY.yaml"),
        (["start", "missing.yaml"], "missing.yaml"),
        (["start", "STUDY", "--trials", "0"], "--trials"),
        (["start", "STUDY", "--trials", "many"], "--trials"),
        (["show", "STUDY", "999"], "its trials: 1 to "),
        (["show", "STUDY", "-1"], ""),
        (["export", "STUDY", "--trial", "999", "--out", "x"], "its trials"),
        (["best", "STUDY", "--prefer", "beauty"], "allowed: accuracy, throughput"),
        (["best", "STUDY", "--prefer", "cost"], "allowed"),
        (["best", "STUDY", "--prefer", "energy"], "not measured"),
        (["report", "STUDY", "--out", "front.docx"], "allowed: .html, .png, .svg, .pdf"),
        (["trials", "STUDY", "--limit", "0"], "--limit"),
        (["trials", "STUDY", "--state", "happy"], "complete"),
        (["bench", "STUDY", "--set", "speed=9"], "KNOB=VALUE"),
        (["bench", "STUDY", "--set", "batch_size=many"], "a value of kind int"),
        (["bench", "STUDY", "--set", "batch_size=0"], "allowed: 1 to"),
        (["bench", "STUDY", "--set", "engine=openvino"], "allowed: fake"),
        (["calibration", "STUDY", "1"], "precision fp32 is not calibrated; calibrated precisions: int8, "),
        (["calibration", "STUDY", "3", "--size", "200"], "allowed: 1 to 199, of the 200 calibration samples"),
        (["calibration", "STUDY", "3", "--subsets", "1"], "--subsets"),
        (["init", "--model", "missing.onnx"], "missing.onnx"),
    ],
)
def test_wrong_words_leave_with_2(call: Any, study: Path, words: list[str], fragment: str) -> None:
    """A slip in a command is answered with what is allowed."""
    said = call(*(str(study) if w == "STUDY" else w for w in words))
    assert said.code == 2, said
    assert fragment in said.err and "Traceback" not in said.err


def test_unknown_studies_and_databases(call: Any, study: Path, tmp_path: Path) -> None:
    """A study that is not there: 2 with those that are; a database that is not there: 4, and none is made."""
    database = f"sqlite:///{study.parent / 'study.db'}"
    said = call("front", "other", "--storage", database)
    assert said.code == 2 and "studies there: fake" in said.err
    said = call("front", "other", "--storage", f"sqlite:///{tmp_path / 'none.db'}")
    assert said.code == 4 and not (tmp_path / "none.db").exists()
    assert call("status", "--storage", "mysql://me:hush@host/db").code == 4


def test_places_that_cannot_be_written(call: Any, study: Path, tmp_path: Path) -> None:
    """A folder that is a file, as a full disk would: exit code 3 with the path, no traceback."""
    (tmp_path / "file").write_text("")
    blocked = tmp_path / "file" / "out"
    for words in (
        ["report", study, "--out", f"{blocked}.png"],
        ["init", "--model", study.parent / "model.onnx", "--out", blocked],
    ):
        said = call(*words)
        assert said.code == 3 and "cannot write" in said.err and str(blocked) in said.err


def assert_trial(document: dict[str, Any]) -> None:
    """A TRIAL of the contract: its keys are there, Estimates are whole, null is not measured."""
    assert document.keys() >= TRIAL and document["candidate"].keys() >= KNOBS
    assert document["state"] in ("complete", "rejected", "crashed", "running")
    for name in ("accuracy", "accuracy_drop", "throughput_items_per_s", "energy_j_per_item", "power_w"):
        assert document[name] is None or document[name].keys() == ESTIMATE
    assert document["latency_ms"].keys() == {"p50", "p90", "p95", "p99"}
    assert all(p is None or p.keys() == ESTIMATE for p in document["latency_ms"].values())
    if document["state"] == "complete":
        assert document["reject"] is None and document["throughput_items_per_s"]["value"] > 0
    else:
        assert document["reject"].keys() == {"reason", "stage", "message"}


@pytest.mark.parametrize("how", ["file", "name"])
def test_json_of_a_study(call: Any, study: Path, how: str) -> None:
    """front, best, show, trials and status print one document on stdout that holds to the contract, and nothing else."""
    where = [study] if how == "file" else ["fake", "--storage", f"sqlite:///{study.parent / 'study.db'}"]

    def document(name: str, *more: object) -> Any:
        said = call(name, where[0], *more, *where[1:], "--json")
        assert said.code == 0
        return json.loads(said.out)

    front = document("front")
    trials = document("trials")
    # Three priors, then one draw with a fresh seed: it may be rejected, and a number is left out where a draw was a duplicate.
    numbers = [t["number"] for t in trials]
    assert numbers[:3] == [1, 2, 3] and len(numbers) == 4 and numbers[3] > 3
    assert [t["state"] for t in trials[:3]] == ["complete", "rejected", "complete"]
    last = trials[3]["state"]
    counts = {"complete": 2 + (last == "complete"), "rejected": 1 + (last == "rejected"), "crashed": 0}
    assert front["study"] == "fake" and front["n_trials"] == counts
    for trial in (
        front["reference"],
        *front["front"],
        *trials,
        document("best"),
        document("show", "2"),
        document("show", "ref"),
    ):
        assert_trial(trial)
    assert document("show", "2")["reject"]["reason"] == "accuracy_too_low"
    status = document("status")
    assert (status["study"], status["state"], status["target"], status["running"]) == ("fake", "idle", 4, [])
    assert_trial(status["best"])


def test_tables_show_what_json_holds(call: Any, study: Path) -> None:
    """Without --json the same is a table for people, with the reason of the rejected trial."""
    said = call("trials", study)
    assert "±" in said.out and "rejected in accuracy" in said.out
    assert "Pareto front of 4 trials" in call("front", study).out
    assert "accuracy_too_low" in call("show", study, "2").out
    assert "4 of 4 trials" in call("status", study).out


def test_trials_come_in_pages(call: Any, study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest, the page before it, and those in one state; of many the table shows the newest and says so."""

    def numbers(*words: object) -> list[int]:
        return [t["number"] for t in json.loads(call("trials", study, *words, "--json").out)]

    every = numbers()
    assert numbers("--limit", 2) == every[-2:] and numbers("--limit", 2, "--before", every[-1]) == every[-3:-1]
    assert 2 in numbers("--state", "rejected") and 1 not in numbers("--state", "rejected")
    monkeypatch.setattr("autotune.cli.query_commands.SHOWN", 3)
    said = call("trials", study)
    assert f"the 3 newest; earlier ones: --before {every[1]}, or --all" in said.err
    assert "newest" not in call("trials", study, "--all").err


def test_many_studies_are_told_from_their_fronts(call: Any, study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above so many studies `status` reads each one's stored front only; the documents have the same form."""
    words = ("status", "--storage", f"sqlite:///{study.parent / 'study.db'}", "--json")
    (one,) = json.loads(call(*words).out)
    monkeypatch.setattr("autotune.cli.status.FEW", 0)
    (many,) = json.loads(call(*words).out)
    assert many.keys() == one.keys()
    assert {k: v for k, v in many.items() if k != "best"} == {k: v for k, v in one.items() if k != "best"}
    assert_trial(many["best"])
    assert f"best: trial {many['best']['number']}, " in call(*words[:-1]).out


def test_a_report_is_one_page(call: Any, study: Path, tmp_path: Path) -> None:
    """`report --out …html` writes the page with the front, and the rejected trial with its reason."""
    said = call("report", study, "--out", tmp_path / "sub" / "report.html")
    assert said.code == 0, said
    text = (tmp_path / "sub" / "report.html").read_text()
    assert text.startswith("<!doctype html>") and "accuracy_too_low" in text and "<svg" in text and "<script" not in text


def test_bench_measures_one_candidate_and_stores_nothing(call: Any, study: Path) -> None:
    """The named knobs at the values, the others at the engine's defaults; a TRIAL document; the database unchanged."""
    before = call("trials", study, "--json").out
    said = call("bench", study, "--set", "precision=int8", "--set", "batch_size=16", "--json")
    document = json.loads(said.out)
    assert said.code == 0
    assert_trial(document)
    found = {k: document["candidate"][k] for k in ("precision", "batch_size", "streams", "worker_threads")}
    assert found == {"precision": "int8", "batch_size": 16, "streams": 1, "worker_threads": 1}
    assert document["accuracy"]["value"] == pytest.approx(0.88)
    assert document["accuracy_drop"]["value"] == pytest.approx(0.02)
    assert call("trials", study, "--json").out == before


def test_doctor_says_what_the_machine_can_do(call: Any) -> None:
    """Engines with precisions and the reasons for refusals; exit code 0 as long as one engine can run."""
    said = call("doctor", "--json")
    document = json.loads(said.out)
    assert {e["name"] for e in document["engines"]} >= {"onnxruntime", "openvino"} and "fake" not in said.out.split(
        "libraries"
    )[0]
    for engine in document["engines"]:
        assert engine["precisions"] if engine["available"] else engine["missing"] and engine["remedy"]
    assert said.code == (0 if any(e["available"] for e in document["engines"]) else 3)
    assert document["instructions"] == list(cpu_fingerprint().instructions)
    told = call("doctor").out
    assert "✓" in told and all(name in told for name in document["instructions"])


def test_doctor_lists_the_libraries_that_drive_a_gpu(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In their order, each usable or with what is missing and what helps; the double for tests is none of them."""
    install(monkeypatch, init=pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)
    document = json.loads(call("doctor", "--json").out)
    assert [r["name"] for r in document["cuda_runtimes"]] == ["cuda-core", "torch", "pycuda"]
    for runtime in document["cuda_runtimes"]:
        assert runtime["usable"] is not bool(runtime["missing"] and runtime["remedy"]) and not runtime["tried"]
    said = call("doctor").out
    for runtime in document["cuda_runtimes"]:
        assert f"{'✓' if runtime['usable'] else '✗'} CUDA runtime {runtime['name']}" in said


@pytest.mark.parametrize("words", [("start",), ("start", "--dry-run"), ("bench", "--set", "precision=fp32")], ids=" ".join)
def test_a_gpu_that_is_not_there_stops_the_command(
    words: tuple[str, ...], call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A study for cuda:0 on a machine without a GPU: exit code 3, what is missing, what helps, and no database left behind."""
    install(monkeypatch, init=pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)
    path = fake.write_study(tmp_path, ("engines: [fake]", "device: cuda:0"))
    said = call(words[0], path, *words[1:])
    assert said.code == 3 and said.out == ""
    assert "device: cuda:0: no NVIDIA driver is visible on this machine" in said.err
    assert "Try: nvidia-smi" in said.err and "device: cpu" in said.err and "Traceback" not in said.err
    assert not (tmp_path / "study.db").exists()


def test_schema_and_presets(call: Any) -> None:
    """The schema is a JSON schema of the study file, and each preset says what it is for."""
    schema = json.loads(call("schema").out)
    assert "properties" in schema and {"study", "model", "data"} <= schema["properties"].keys()
    presets = json.loads(call("presets", "--json").out)
    assert {p["name"] for p in presets} >= {"cpu"} and all(p["description"] and p["knobs"] for p in presets)
    assert "\ncpu: " in call("presets").out


def test_db_upgrade(call: Any, study: Path, tmp_path: Path) -> None:
    """A fresh file gets the schema, a current one is left alone, a missing one and one of an unknown revision are refused."""
    import sqlite3

    fresh = tmp_path / "fresh.db"
    url = f"sqlite:///{fresh}"
    said = call("db", "upgrade", "--storage", url)
    assert said.code == 4 and not fresh.exists()
    fresh.touch()
    assert "none → " in call("db", "upgrade", "--storage", url).err
    assert "nothing to do" in call("db", "upgrade", "--storage", url).err
    assert "nothing to do" in call("db", "upgrade", "--storage", f"sqlite:///{study.parent / 'study.db'}").err
    with sqlite3.connect(fresh) as connection:
        connection.execute("UPDATE at_schema_version SET version_num = '9999'")
    connection.close()
    said = call("db", "upgrade", "--storage", url)
    assert said.code == 4 and "9999" in said.err
    assert call("status", "--storage", url).code == 4


@pytest.mark.parametrize("form", ["npz", "folder"])
def test_init_writes_a_study_that_starts(call: Any, study: Path, tmp_path: Path, form: str) -> None:
    """What init wrote goes through start --dry-run as it is; an existing file is not replaced."""
    data = study.parent / "val.npz"
    if form == "folder":
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "val.npz").write_bytes(data.read_bytes())
        data = tmp_path / "data"
    out = tmp_path / "new.yaml"
    assert call("init", "--model", study.parent / "model.onnx", "--data", data, "--out", out).code == 0
    text = out.read_text()
    assert text.startswith("# yaml-language-server: $schema=")
    said = call("start", out, "--dry-run", "--json")
    assert said.code == 0, said.err
    plan = json.loads(said.out)
    assert plan["engines_precisions"] and plan["knobs"]["batch_size"] and plan["estimate"]["trials"] >= 1
    assert not list(tmp_path.glob("*.db"))
    assert call("init", "--model", study.parent / "model.onnx", "--data", data, "--out", out).code == 2
    assert out.read_text() == text


def test_names_in_a_model_stay_in_the_comments_of_a_study(call: Any, study: Path, tmp_path: Path) -> None:
    """An input called like a line of YAML does not become one."""
    model = onnx.load(study.parent / "model.onnx")
    model.graph.input[0].name = model.graph.node[0].input[0] = "x\nseed: 7 #\x1b[2J"
    onnx.save(model, tmp_path / "hostile.onnx")
    out = tmp_path / "new.yaml"
    said = call("init", "--model", tmp_path / "hostile.onnx", "--data", study.parent / "val.npz", "--out", out)
    assert said.code in (0, 2), said.err
    text = out.read_text() if out.exists() else ""
    assert "\nseed: 7" not in text and "\x1b" not in text + said.err


def test_a_dry_run_says_what_is_left_out_and_why(call: Any, study: Path, tmp_path: Path) -> None:
    """The space after the capability filter, with the reason for each part that is gone; nothing is measured."""
    said = call(
        "start", fake.write_study(tmp_path / "s", ("[fp32, int8, int8-tensor]", "[fp32, bf16]"), (fake.PRIORS, "")), "--dry-run"
    )
    assert said.code == 0 and "not searched: precision=bf16 on fake: the fake engine has no bf16" in said.out
    assert not (tmp_path / "s" / "study.db").exists()


def test_a_dry_run_says_where_the_study_stands(call: Any, tmp_path: Path) -> None:
    """It begins; then three of twelve trials are there; then a change that may not be made is refused, with nothing written."""
    file = fake.write_study(tmp_path / "s")
    assert json.loads(call("start", file, "--dry-run", "--json").out)["finished_trials"] is None
    assert call("start", file, "--trials", 3).code == 0
    said = call("start", file, "--dry-run", "--trials", 12)
    assert said.code == 0 and "goes on: 3 of 12 trials are there" in said.out and "estimate: 9 trials" in said.out
    file.write_text(file.read_text() + "objectives: [accuracy, latency_p99]\n")
    said = call("start", file, "--dry-run")
    assert said.code == 2 and "objectives" in said.err


def test_start_prints_one_json_document(tmp_path: Path) -> None:
    """start --json ends with the front; progress is on stderr."""
    fake.write_study(tmp_path, ("trials: 12", "trials: 1"))
    done = fake.autotune(tmp_path, "start", "study.yaml", "--json")
    document = json.loads(done.stdout)
    assert document["ended"] == "trials" and len(document["front"]) == 1
    assert "trial 1 [" in done.stderr


def test_a_closed_pipe_is_quiet(study: Path) -> None:
    """`autotune trials STUDY --json | head -1` prints a line and no complaint."""
    words = " ".join(fake.command("trials", study.name, "--json"))
    done = subprocess.run(
        ["sh", "-c", f"{words} | head -1"], cwd=study.parent, env=fake.environment(study.parent), capture_output=True, text=True
    )
    assert (done.stdout, done.stderr, done.returncode) == ("[\n", "", 0)
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.run(
        fake.command("status", study.name, "--json"), cwd=study.parent, env=fake.environment(study.parent),
        stdout=writer, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    os.close(writer)
    assert process.stderr == ""


@pytest.mark.parametrize("words", [("status", "--json"), ("front",), ("trials", "--json"), ("schema",)], ids=" ".join)
def test_an_output_that_takes_nothing_is_told(study: Path, words: tuple[str, ...]) -> None:
    """`autotune status STUDY --json > /dev/full`: exit code 3 and a line, as for any other file that cannot be written."""
    named = words if words == ("schema",) else (words[0], study.name, *words[1:])
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            fake.command(*named), cwd=study.parent, env=fake.environment(study.parent), stdout=full, stderr=subprocess.PIPE,
            text=True, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (3, "autotune: cannot write the output: No space left on device\n")


def test_a_report_that_does_not_fit_leaves_the_old_one(study: Path, tmp_path: Path) -> None:
    """Half a picture is never seen: the new one takes the old one's place once it is whole.

    The limit leaves room for what SQLite keeps beside its file, 32 KiB.
    """
    out = tmp_path / "report.png"
    out.write_text("old")
    limited = ["bash", "-c", 'ulimit -f 36; trap "" XFSZ; exec "$@"', "-"]
    for path in (out, tmp_path / "new.png"):
        done = subprocess.run(
            [*limited, *fake.command("report", study.name, "--out", str(path))], cwd=study.parent,
            env=fake.environment(study.parent), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 3 and f"cannot write {path}: File too large" in done.stderr, done.stderr
    assert out.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["report.png"]


def test_stop_of_nothing_says_so(call: Any, study: Path) -> None:
    """Stopping what does not run is no error."""
    said = call("stop", study)
    assert said.code == 0 and "nothing of fake runs here" in said.err


def test_a_detached_study_is_seen_and_stopped(tmp_path: Path) -> None:
    """--detach comes back when the study is at work; status shows it also between trials; stop ends it after a trial."""
    fake.write_study(tmp_path, ("trials: 12", "trials: 5000"))
    done = fake.autotune(tmp_path, "start", "study.yaml", "--detach")
    found = re.search(r"runs as process (\d+); log: (\S+)", done.stderr)
    assert found, done.stderr
    for _ in range(3):
        status = json.loads(fake.autotune(tmp_path, "status", "study.yaml", "--json").stdout)
        assert status["state"] == "running" and int(found[1]) in status["workers_here"]
    assert "1 worker(s) of fake asked to stop" in fake.autotune(tmp_path, "stop", "study.yaml").stderr
    deadline = time.monotonic() + 60
    while json.loads(fake.autotune(tmp_path, "status", "study.yaml", "--json").stdout)["state"] != "idle":
        assert time.monotonic() < deadline, Path(found[2]).read_text()
    assert "Traceback" not in Path(found[2]).read_text()


def test_a_detached_study_that_cannot_begin_says_why(tmp_path: Path) -> None:
    """What is found out only after the start comes back as the command's own exit code and reason."""
    (tmp_path / "file").write_text("")
    fake.write_study(tmp_path)
    done = fake.autotune(tmp_path, "start", "study.yaml", "--detach", "--storage", f"sqlite:///{tmp_path}/file/x.db", expect=4)
    assert "did not start" in done.stderr and "file/x.db" in done.stderr


def test_an_error_on_a_terminal_moves_nothing(call: Any, tmp_path: Path) -> None:
    """A name from a file that somebody else wrote cannot rename the window or hide a line."""
    fake.write_study(tmp_path)
    text = (tmp_path / "study.yaml").read_text()
    (tmp_path / "study.yaml").write_text(text.replace("study: fake", 'study: "a\\e]0;title\\a"'))
    said = call("start", tmp_path / "study.yaml", "--dry-run")
    assert said.code == 2 and "\\x1b]0;title\\x07" in said.err and "\x1b" not in said.err


def test_the_module_runs_as_the_program_does() -> None:
    """`python -m autotune.cli.main` is `autotune`."""
    done = subprocess.run([sys.executable, "-m", "autotune.cli.main", "--version"], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"autotune, version \d+\.\d+\.\d+\S*\n", done.stdout)
