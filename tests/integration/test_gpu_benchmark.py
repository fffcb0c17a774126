"""benchmarks/gpu.py as far as a machine without a GPU can run it: plan, refusal, runner, and the stages on doubles."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed: pip install 'autotune[nvml]'")

from assets.trt_double import World
from assets.trt_installed import installed
from assets.trt_surface import RELEASES
from gpu_stages import bench as bench_module
from gpu_stages import comparisons, contract, copies, energy, hand_written, models, ratio, rtx, runner, studies
from gpu_stages.bench import Bench
from gpu_stages.contract import outcomes
from gpu_stages.rounds import in_rounds

from autotune.candidate import Candidate
from autotune.cuda.host import HostRuntime
from autotune.devices.gpu import visible_gpus
from autotune.engines.build import load_backend
from autotune.engines.protocol import Engine
from autotune.errors import EnvironmentProblem
from autotune.records import Estimate, Series, TrialRecord, VariantInfo
from autotune.registry import ENGINES
from autotune.variants.variant import ModelVariant

ROOT = Path(__file__).parents[2]


def command(*words: object) -> subprocess.CompletedProcess[str]:
    """The script, run as a user runs it."""
    return subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), *map(str, words)],
        cwd=ROOT, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip


def test_a_dry_run_prints_every_stage_and_finds_nothing_wrong(tmp_path: Path) -> None:
    """Imports, arguments, paths, studies and driver calls are checked before anybody lends a GPU for it."""
    done = command("--out", tmp_path, "--dry-run")
    assert done.returncode == 0, done.stdout + done.stderr
    for name in runner.STAGES.keys() - {"mobilenet"}:
        assert f"\n{name}: " in done.stdout and f"--stage {name}" in done.stdout
    assert "mobilenet is left out" in done.stderr and not list(tmp_path.iterdir())


def test_a_dry_run_finds_what_is_not_there(tmp_path: Path) -> None:
    """A folder without the model is told now, not after three stages."""
    done = command("--out", tmp_path, "--data", tmp_path, "--dry-run", "--stage", "mobilenet")
    assert done.returncode == 1 and "labels.csv is not there" in done.stderr


def test_without_a_gpu_nothing_is_run(tmp_path: Path) -> None:
    """Exit code 3, what is missing and the command that helps."""
    try:
        if visible_gpus():
            pytest.skip("this machine has a GPU")
    except EnvironmentProblem:
        pass
    done = command("--out", tmp_path / "results")
    assert done.returncode == 3 and "no NVIDIA driver" in done.stderr and "nvidia-smi" in done.stderr
    assert not (tmp_path / "results").exists()


def test_the_plan_has_all_that_has_to_be_shown(tmp_path: Path) -> None:
    """Word by word, what is to be shown once there is a GPU: stages, sizes, formats, streams, libraries and bounds."""
    data = tmp_path / "data"
    (data / "images").mkdir(parents=True)
    for name in ("mobilenet_v2_1.0_224.onnx", "labels.csv"):
        (data / name).touch()
    texts = models.study_texts(Bench(out=tmp_path, data=data))
    resnet, mobilenet = (models.loaded(texts[name]) for name in ("resnet50", "mobilenet"))
    assert resnet.budget.trials >= 40 and mobilenet.budget.trials >= 40, "at least 40 trials"
    assert (resnet.device, mobilenet.device) == ("cuda:0", "cuda:0")
    assert models._SIDE == 224 and studies.ASKED_FORMATS == ("fp16", "bf16", "int8", "fp8")
    assert set(studies.ASKED_FORMATS) <= set(resnet.space["precision"].values)  # type: ignore[union-attr]  # a list of choices
    assert mobilenet.constraints.accuracy_drop == 0.01 and mobilenet.data.validation.labels is not None, "real accuracy"
    assert resnet.finalists.max_s is not None, "finalists have their part of a stage's time"
    assert (ratio.AIM, bench_module.MLPERF_H200_ITEMS_PER_S, bench_module.LIMIT_S) == (0.98, 94_620, 480.0)
    assert comparisons.STREAMS == (1, 2, 4, 8) and comparisons.THE_PAIR == ("cuda-core", "pycuda")
    assert list(runner.STAGES) == ["rtx", "contract", "resnet50", "mobilenet", "ratio", "streams", "runtimes", "energy"]


def test_a_class_that_failed_is_run_again_and_one_that_passed_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a repair the contracts are whole with the next run; what failed comes after what was never run."""
    log, repaired, tests = tmp_path / "log", tmp_path / "repaired", tmp_path / "tests"
    tests.mkdir()
    monkeypatch.setattr(contract, "GPU_TESTS", tests)
    text = (
        "from pathlib import Path\n\ndef note(name):\n    with Path({log!r}).open('a') as f:\n        f.write(name + ' ')\n\n"
    )
    text += "class TestBad:\n    def test_it(self):\n        note('bad')\n        assert Path({repaired!r}).exists()\n\n"
    text += "class TestGood:\n    def test_it(self):\n        note('good')\n\n"
    (tests / "test_it.py").write_text(text.format(log=str(log), repaired=str(repaired)))
    bench = Bench(out=tmp_path / "out")
    bench.work.mkdir(parents=True)
    first = contract.run(bench)
    assert (first["passed"], first["failed"], first["unfinished"]) == (1, 1, False)
    repaired.touch()
    with (tests / "test_it.py").open("a") as more:
        more.write("class TestNew:\n    def test_it(self):\n        note('new')\n")
    second = contract.run(replace(bench, before=first, began=time.monotonic()))
    assert (second["passed"], second["failed"], second["unfinished"]) == (3, 0, False) and not second["failures"]
    assert log.read_text().split() == ["bad", "good", "new", "bad"]


def test_the_contract_stage_runs_every_engine_and_runtime_for_gpus() -> None:
    """An engine that is added without a class in tests/gpu would never be tried on a GPU."""
    classes = contract.class_names()
    assert [c for c in classes if "runtimes" in c] == [
        f"test_gpu_runtimes.py::Test{n}" for n in ("CudaCore", "Torch", "Pycuda")
    ]
    on_gpus = [n for n in ENGINES.names() if n != "fake" and load_backend(n).capabilities().device == "cuda"]
    engines = [c.partition("::Test")[2].lower() for c in classes if "engines" in c]
    assert sorted(engines) == sorted(n.replace("-", "") for n in on_gpus)


# The runner

PROGRAMS = {
    "done": "import json, sys, pathlib; pathlib.Path(sys.argv[1]).write_text(json.dumps({'state': 'done', 'n': 1}))",
    "crash": "import os; os.abort()",
    "hang": "import time; time.sleep(60)",
    "partly": "import json, sys, time, pathlib; path = pathlib.Path(sys.argv[1]); "
    "n = json.loads(path.read_text())['result']['n'] if path.exists() else 0; "
    "path.write_text(json.dumps({'state': 'unfinished', 'result': {'n': n + 1}})); time.sleep(0 if n else 60)",
}


class Scripted(Bench):
    """A bench whose stages are small programs."""

    def command(self, stage: str) -> list[str]:
        return [sys.executable, "-c", PROGRAMS[stage], str(runner.result_path(self, stage))]


def test_a_stage_that_dies_or_hangs_is_recorded_and_the_others_go_on(tmp_path: Path) -> None:
    """The second run repeats only what is not done."""
    bench = Scripted(out=tmp_path, limit_s=2.0)
    assert runner.run_stages(bench, ["crash", "hang", "done"]) == 1
    assert [runner.state_of(bench, name) for name in ("crash", "hang", "done")] == ["failed", "failed", "done"]
    assert "status -6" in json.loads((tmp_path / "crash.json").read_text())["error"]
    assert "did not end within 2 s" in json.loads((tmp_path / "hang.json").read_text())["error"]
    written = (tmp_path / "done.json").stat().st_mtime_ns
    assert runner.run_stages(bench, ["done"]) == 0
    assert (tmp_path / "done.json").stat().st_mtime_ns == written
    runner.run_stages(bench, ["done"], again=True)
    assert (tmp_path / "done.json").stat().st_mtime_ns != written


def test_a_stage_that_is_killed_keeps_what_it_had_and_goes_on(tmp_path: Path) -> None:
    """Killed in its first run with one measurement kept; the next run begins behind it."""
    bench = Scripted(out=tmp_path, limit_s=2.0)
    assert runner.run_stages(bench, ["partly"]) == 1
    found = runner.document_of(bench, "partly")
    assert (found["state"], found["result"]) == ("unfinished", {"n": 1}) and "did not end" in found["error"]
    runner.run_stages(bench, ["partly"])
    assert runner.document_of(bench, "partly")["result"] == {"n": 2}


def test_what_is_unfinished_goes_on_and_what_fails_is_tried_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unattended: neither endless nor given up after one bad start."""
    outcomes = {"study": "unfinished unfinished done", "broken": "failed failed failed", "flaky": "failed done"}
    states = {name: iter(words.split()) for name, words in outcomes.items()}
    began: list[str] = []

    def stage(bench: Bench, name: str) -> None:
        began.append(name)
        runner._write(bench, name, {"state": next(states[name])})

    monkeypatch.setattr(runner, "_in_process", stage)
    assert runner.run_until_done(Bench(out=tmp_path), list(states), runs=8) == 1
    assert {name: began.count(name) for name in states} == {"study": 3, "broken": 2, "flaky": 2}


def test_a_stages_own_error_is_its_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the machine's facts beside it where they could be had; a bug comes with its traceback, and what was kept stays."""

    def buggy(bench: Bench) -> dict[str, Any]:
        bench.keep({"n": 1})
        raise KeyError("planted")

    monkeypatch.setattr(runner, "machine_facts", lambda: {"gpu": "one"})
    outcomes = {"well": lambda b: {"x": 1}, "longer": lambda b: {"unfinished": True}, "buggy": buggy}
    monkeypatch.setattr(runner, "STAGES", outcomes)
    assert [runner.run_one(Bench(out=tmp_path), name) for name in outcomes] == [0, 1, 1]
    found = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in outcomes}
    assert [found[name]["state"] for name in outcomes] == ["done", "unfinished", "failed"]
    assert found["well"]["result"] == {"x": 1} and found["well"]["machine"] == {"gpu": "one"}
    assert "KeyError: 'planted'" in found["buggy"]["error"] and "Traceback" in found["buggy"]["error"]
    assert found["buggy"]["result"] == {"n": 1, "unfinished": True}
    monkeypatch.setitem(outcomes, "buggy", lambda b: {"n": b.before["n"] + 1})
    assert runner.run_one(Bench(out=tmp_path), "buggy") == 0
    assert json.loads((tmp_path / "buggy.json").read_text())["result"] == {"n": 2}


MACHINE: dict[str, Any] = {
    "gpu": {"uuid": "GPU-1", "name": "H100", "driver": "580.1"},
    "host": {"device": "a CPU", "cores": 16, "memory_mib": 1000},
    "versions": {"torch": "2.13"},
}


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"gpu": {**MACHINE["gpu"], "name": "H200"}}, "gpu.name was H100, is H200"),
        ({"gpu": {**MACHINE["gpu"], "driver": "590.2"}}, "gpu.driver was 580.1, is 590.2"),
        ({"versions": {"torch": "2.14"}}, "versions.torch was 2.13, is 2.14"),
        ({"versions": {}}, "versions.torch was 2.13, is None"),
    ],
)
def test_another_machine_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], changed: dict[str, Any], told: str
) -> None:
    """Figures of two GPUs, drivers or releases are no rounds of one comparison; what there was is set aside, not lost."""
    begun: list[tuple[int, bool]] = []

    def stage(b: Bench) -> dict[str, Any]:
        begun.append((b.before.get("n", 0), b.anew))
        return {"n": b.before.get("n", 0) + 1, "unfinished": True}

    monkeypatch.setattr(runner, "STAGES", {"ratio": stage})
    for machine in (MACHINE, {**MACHINE, "gpu": {**MACHINE["gpu"], "uuid": "GPU-2"}}, {**MACHINE, **changed}):
        monkeypatch.setattr(runner, "machine_facts", lambda machine=machine: machine)
        runner.run_one(Bench(out=tmp_path), "ratio")
    assert begun == [(0, False), (1, False), (0, True)], "another card of the same kind goes on"
    assert told in capsys.readouterr().out
    found, before = (json.loads((tmp_path / name).read_text()) for name in ("ratio.json", "ratio.before.json"))
    assert found["result"]["n"] == 1 and found["began_anew"] == told
    assert before["result"]["n"] == 2 and before["gpus"] == ["GPU-1", "GPU-2"]


def test_short_loads_are_never_taken_for_full_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A result of --quick, or with fewer rounds or trials than asked for, counts as not run; only the latter goes on."""
    monkeypatch.setattr(runner, "machine_facts", lambda: MACHINE)
    monkeypatch.setattr(runner, "STAGES", {"ratio": lambda b: {"n": b.before.get("n", 0) + 1}})
    quick = Bench(out=tmp_path, quick=True, rounds=2, trials=6)
    runner.run_one(quick, "ratio")
    assert runner.state_of(quick, "ratio") == "done"
    full = replace(quick, quick=False)
    assert runner.state_of(full, "ratio") == "" and full.work != quick.work
    runner.run_one(full, "ratio")
    assert runner.document_of(full, "ratio")["result"] == {"n": 1} and runner.state_of(full, "ratio") == "done"
    for more in (replace(full, rounds=3), replace(full, trials=7)):
        assert runner.state_of(more, "ratio") == "" and runner.state_of(full, "ratio") == "done"
    runner.run_one(replace(full, rounds=3), "ratio")
    assert runner.document_of(full, "ratio")["result"] == {"n": 2}


def test_a_stage_that_dies_before_its_first_figure_does_not_pass_for_a_quick_one(tmp_path: Path) -> None:
    """The quick result that lay there is set aside; what is told is that this run failed."""
    (tmp_path / "crash.json").write_text(json.dumps({"state": "done", "quick": True, "result": {"n": 1}}))
    bench = Scripted(out=tmp_path, limit_s=10.0)
    assert runner.run_stages(bench, ["crash"]) == 1 and runner.state_of(bench, "crash") == "failed"
    assert "result" not in runner.document_of(bench, "crash") and (tmp_path / "crash.before.json").exists()


def test_rounds_end_before_the_limit_and_go_on_behind_what_there_is(tmp_path: Path) -> None:
    """One measurement is always made; then none begins that would not end in time. The second run has nothing twice."""
    kept: list[Mapping[str, Any]] = []
    late = Bench(out=tmp_path, rounds=2, limit_s=10.0, keep=kept.append)  # 10 s are kept free: for one only
    found, whole = in_rounds(late, {"head": 1}, "r", ("a", "b"), lambda name: f"{name}1")
    assert not whole and sum(map(len, found.values())) == 1
    assert kept == [{"head": 1, "r": found}]
    measured: list[str] = []

    def measure(name: str) -> str:
        measured.append(name)
        return f"{name}2"

    later = Bench(out=tmp_path, rounds=2, before={"r": found})
    again, whole = in_rounds(later, {}, "r", ("a", "b"), measure)
    assert whole and [len(v) for v in again.values()] == [2, 2] and len(measured) == 3
    assert [v for values in again.values() for v in values if v.endswith("1")] == [
        v for values in found.values() for v in values
    ]


def test_a_studys_hours_are_those_that_were_spent_and_those_that_are_left(tmp_path: Path) -> None:
    """900 s in earlier runs and 480 s from now, of which 60 s are for the last trial and 15 s for the rest: 1305 s."""
    assert studies.hours_of(Bench(out=tmp_path), 900.0) * 3600 == pytest.approx(1305.0, abs=2.0)
    assert studies.hours_of(Bench(out=tmp_path, limit_s=0.0), 900.0) * 3600 == pytest.approx(901.0)


# Figures

TRIAL = TrialRecord(
    number=0,
    state="complete",
    candidate=Candidate(
        engine="tensorrt",
        precision="fp16",
        pruning_ratio=0.0,
        batch_size=8,
        streams=1,
        worker_threads=None,
        memory_pool_mib=None,
    ),
    throughput_items_per_s=Estimate(value=100.0, low=99, high=101, n=5, method="m"),
    peak_memory_mib=900.0,
    pool_peak_mib=300.0,
)


def energy_series(times: Sequence[float], joules: Sequence[float], watts: Sequence[float]) -> tuple[Series, ...]:
    return (
        Series(metric="gpu_energy_j", unit="J", t_s=tuple(times), values=tuple(joules)),
        Series(metric="gpu_power_w", unit="W", t_s=tuple(times), values=tuple(watts)),
    )


def test_energy_is_told_both_ways() -> None:
    """Counter: 500 J in 2 s is 250 W. Power 200, 300, 200 W at 1, 2, 3 s: the trapezoids give 250 W. At 100 items/s: 2.5 J."""
    series = energy_series((1.0, 2.0, 3.0), (1000.0, 1240.0, 1500.0), (200.0, 300.0, 200.0))
    found = energy.energy_both_ways(series, 0.0, 3.0, lambda begin, end: 100.0)
    assert found["counter_w"] == found["power_w"] == 250.0 and found["power_against_counter"] == 1.0
    assert found["counter_j_per_item"] == found["power_j_per_item"] == 2.5 and found["span_s"] == 2.0
    absent = (Series(metric="gpu_energy_j", unit="J", absent="not on MIG"),)
    assert energy.energy_both_ways(absent, 0.0, 3.0, lambda begin, end: 100.0) == {"absent": {"gpu_energy_j": "not on MIG"}}
    assert energy.memory_both_ways(TRIAL)["nvml_beyond_pool_mib"] == 600.0


def test_energy_is_of_the_time_after_the_warm_up_and_of_the_items_of_that_time() -> None:
    """The warm-up ends at 1.5 s, and what NVML calls power until 2.5 s has some of it. From 3 to 5 s: 200 W either way, and
    50 items/s, which is 4 J. Over the whole series the counter would say 120 W and the readings 150 W."""
    times = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
    series = energy_series(times, (0, 0, 100, 200, 400, 600, 700), (50, 50, 100, 200, 200, 200, 90))
    spans: list[tuple[float, float]] = []

    def rate(begin: float, end: float) -> float:
        spans.append((begin, end))
        return 50.0

    found = energy.energy_both_ways(series, 1.5, 5.2, rate)
    assert (found["counter_w"], found["power_w"], found["span_s"]) == (200.0, 200.0, 2.0) and spans == [(3.0, 5.0)]
    assert found["counter_j_per_item"] == found["power_j_per_item"] == 4.0
    assert "too early for two readings" in energy.energy_both_ways(series, 4.5, 5.2, rate)["absent"]


def test_ratios_are_of_the_same_round() -> None:
    """A machine that slows down between rounds slows both sides: 200/100 and 110/50, not 200/50."""

    def rounds(*rates: float | None) -> list[dict[str, Any]]:
        return [{"throughput_items_per_s": None if r is None else {"value": r}} for r in rates]

    found = comparisons.ratios({"a": rounds(100, 50, None), "b": rounds(200, 110, 90), "c": rounds(None, None, None)}, "a")
    assert found["b"] == {"median": pytest.approx(2.1), "min": 2.0, "max": pytest.approx(2.2)} and found["c"] is None
    cut = comparisons.ratios({"a": rounds(100), "b": rounds(200, 110), "c": rounds()}, "a")
    assert cut["b"] == {"median": 2.0, "min": 2.0, "max": 2.0} and cut["c"] is None, "time ran out in the second round"


def test_a_runtime_by_itself_copies_and_allocates() -> None:
    """What came back is what was sent, over two streams; everything is released, and the pool's peak is all that was held."""
    host = HostRuntime(total_bytes=1 << 28)
    found = copies.measured(host, 0.05, n_bytes=1000)
    sent = np.arange(1000, dtype=np.uint8).tobytes()
    assert found["sha256"] == hashlib.sha256(sent * copies.N_STREAMS).hexdigest() and host.leaks() == {}
    assert found["bytes_per_s"]["value"] > 0 and found["allocations_per_s"]["value"] > 0
    assert found["pool_peak_mib"] == pytest.approx(32 + 2 * 1000 / 2**20, rel=0.01)


def test_a_runtime_that_fails_or_hangs_by_itself_is_an_error_of_its_own() -> None:
    """The others are compared all the same."""
    failed = copies.under("pycuda", 0.1, 60.0)
    assert list(failed) == ["error"] and failed["error"]
    assert copies.under("host", 30.0, 2.0) == {"error": "did not end within 2 s"}
    rounds = {"a": [{"bytes_per_s": {"value": 2.0}}], "b": [failed]}
    assert comparisons.ratios(rounds, "a", of="bytes_per_s")["b"] is None


def test_equal_figures_are_within_two_per_cent_or_not_told_apart() -> None:
    """And nothing is said of a library that gave no figure."""
    assert comparisons.equal_figures({"median": 1.015, "min": 1.01, "max": 1.02}) is True
    assert comparisons.equal_figures({"median": 0.95, "min": 0.9, "max": 1.01}) is True
    assert comparisons.equal_figures({"median": 0.95, "min": 0.9, "max": 0.97}) is False
    assert comparisons.equal_figures(None) is None


def test_pytests_report_is_told_by_outcome() -> None:
    """Failures with their message, skips counted by reason."""
    report = """<testsuites><testsuite>
    <testcase classname="a" name="x"/><testcase classname="a" name="y"><failure message="boom"/></testcase>
    <testcase classname="b" name="x"><skipped message="no GPU"/></testcase>
    <testcase classname="b" name="y"><skipped message="no GPU"/></testcase></testsuite></testsuites>"""
    assert outcomes(report) == {"passed": 1, "failed": 1, "failures": {"a::y": "boom"}, "skipped": {"no GPU": 2}}


# The stages themselves, on the doubles of TensorRT, NVML and CUDA: nothing of what they "measure" is a figure of anything


def test_images_are_whole_or_not_there(tmp_path: Path) -> None:
    """A process that is killed while it writes them leaves no images.npz, which would be taken for done for ever."""
    program = (
        "import os, sys, numpy as np; from pathlib import Path; from gpu_stages import models\n"
        "def killed(path, **arrays): Path(path).write_bytes(b'half'); os._exit(9)\n"
        "np.savez = killed; models.write_images(Path(sys.argv[1]), np.zeros(2), np.zeros(2))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT / "benchmarks", ROOT)))}
    ended = subprocess.run([sys.executable, "-c", program, str(tmp_path)], env=environment, check=False, timeout=60)
    assert ended.returncode == 9 and not (tmp_path / "images.npz").exists()
    models.write_images(tmp_path, np.zeros((2, 3), np.float32), np.arange(2))
    assert [p.name for p in tmp_path.iterdir()] == ["images.npz"]
    with np.load(tmp_path / "images.npz") as found:
        assert found["x"].shape == (2, 3) and found["y"].tolist() == [0, 1]


def write_small_model(folder: Path) -> None:
    """In place of ResNet-50: the contract's small network under the name, and in the form, that the stages use."""
    from autotune.testing.engine_contract import tiny_cnn

    folder.mkdir(parents=True, exist_ok=True)
    import onnxruntime as ort

    session = ort.InferenceSession(str(tiny_cnn(folder / "resnet50.onnx")), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).standard_normal((64, 1, 8, 8)).astype(np.float32)
    answers = session.run(None, {session.get_inputs()[0].name: x})[0]
    np.savez(folder / "images.npz", x=x, y=answers.argmax(1))


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A machine with a double of TensorRT 10.16 on a double of a GPU."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.delenv("AUTOTUNE_VISIBLE_BEFORE", raising=False)
    monkeypatch.setattr(models, "write_resnet50", write_small_model)
    paths = (tmp_path / "site", ROOT, ROOT / "tests")  # the trials' processes import the double, too
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, paths)))
    with installed("tensorrt-10.16.1", tmp_path, monkeypatch) as found:
        yield found
    monkeypatch.delenv("AUTOTUNE_VISIBLE_BEFORE", raising=False)


@pytest.fixture
def bench(tmp_path: Path, world: World) -> Bench:
    """On that machine."""
    return Bench(out=tmp_path / "out", trials=6, rounds=2, engines=("tensorrt",), quick=True)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """cuda-bindings are a double."""
    monkeypatch.setitem(sys.modules, "cuda", ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.bindings", ModuleType("cuda.bindings"))
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", fake_driver())


@pytest.mark.slow
def test_the_stages_run_on_doubles(bench: Bench, driver: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A study, then what builds on it: streams, runtimes, energy and the ratio to the hand-written loop."""
    study = studies.resnet50(bench)
    assert study["n_trials"] == 6 and study["states"]["complete"] >= 1 and not study["unfinished"]
    assert study["formats"]["fp16"]["engines"] == ["tensorrt"] and study["formats"]["fp8"]["trials"] >= 0
    assert study["best"]["candidate"]["engine"] == "tensorrt" and study["share_of_mlperf_h200"] > 0

    streams = comparisons.streams(bench)
    assert list(streams["streams"]) == ["1", "2", "4", "8"] and streams["against_one"]["1"]["median"] == 1.0
    assert all(r["state"] == "complete" for rounds in streams["streams"].values() for r in rounds), streams

    monkeypatch.setattr(comparisons, "_usable_runtimes", lambda: (["host"], {"torch": "no"}))
    runtimes = comparisons.runtimes(bench)
    assert runtimes["outputs_equal"] and len(runtimes["outputs_sha256"]["host"]) == 64, runtimes
    assert runtimes["figures_equal"] == {"host": True} and not runtimes["unfinished"]
    assert runtimes["candidate"]["cuda_graph"] == "off" and runtimes["against_host"]["host"]["median"] == 1.0

    def without(b: Bench) -> Any:
        plan = models.resnet50_plan(b)
        return replace(plan, backends={})

    with monkeypatch.context() as patched:
        patched.setattr(comparisons, "resnet50_plan", without)
        alone = comparisons.runtimes(bench)
    assert not alone["unfinished"] and alone["outputs_equal"] and "candidate" not in alone and alone["without_engine"]
    assert alone["figures_equal"] == {"host": True} and alone["allocations_against_host"]["host"]["median"] == 1.0
    assert len(alone["copies"]["host"]) == 2 and alone["copies"]["host"][0]["pool_peak_mib"] > 32

    told = energy.run(bench)["rounds"]["trial"]
    assert len(told) == 2 and told[0]["memory"]["pool_peak_mib"] > 0

    found = ratio.run(bench)
    assert set(found["items_per_s"]) == SIDES
    assert found["end_to_end"]["median"] > 0 and found["computing_only"]["median"] > 0


@pytest.mark.parametrize("works", [True, False])
def test_tensorrt_for_rtx_is_asked_step_by_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, works: bool) -> None:
    """On Hopper, which has no name in it: the usual engine is not valid; one for CURRENT is built or not; the rest follows."""
    monkeypatch.setattr("autotune.devices.gpu_probe.digest_of", lambda about: f"OF_THIS_TEST_{works}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.delenv("AUTOTUNE_VISIBLE_BEFORE", raising=False)
    if works:
        monkeypatch.setenv("AUTOTUNE_TEST_RTX_CURRENT", "1")
    kept: list[Mapping[str, Any]] = []
    with installed("tensorrt-rtx-1.7.1", tmp_path, monkeypatch, capability=(9, 0)):
        found = rtx.run(Bench(out=tmp_path, keep=kept.append))
    os.environ.pop(f"AUTOTUNE_PROBED_OF_THIS_TEST_{works}")
    monkeypatch.delenv("AUTOTUNE_VISIBLE_BEFORE", raising=False)
    told = {step["name"]: step["works"] for step in found["steps"]}
    built = {"build": True, "validity": False}
    opened = {"current_build": True, "current_validity": True, "current_load": True, "current_context": True}
    assert told == built | (opened if works else {"current_build": False}) and kept[0]["steps"] == found["steps"]
    assert found["steps"][1]["answer"] == "INVALID UNSUPPORTED_CC CUDA_ERROR (the engine is for GPUs with names)"
    assert (found["sm"], found["served"]) == ("sm_90", works)
    assert works or ("no compute capability" in found["why_not"] and "with status 1" in found["ended"])


def test_a_step_that_hangs_costs_its_time_and_not_the_answers_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was answered is kept, and how it ended is said."""
    program = 'import time; print(\'{"name": "build"}\', flush=True); time.sleep(60)'
    monkeypatch.setattr(rtx, "CURRENT_PROGRAM", program)
    assert rtx.answers_of("none", 3.0) == ([{"name": "build"}], "not within 3 s")


SIDES = {"autotune", "hand_written", "hand_written_computing_only", "autotune_computing_only"}


def test_what_cannot_compute_alone_is_measured_end_to_end_and_not_called_done(bench: Bench, world: World, driver: None) -> None:
    """TensorRT refuses to enqueue once both sides are measured: their ratio stands, and the reason for the missing one."""

    def keep(result: Mapping[str, Any]) -> None:
        if all(len(rounds) == 2 for rounds in result["items_per_s"].values()):
            world.faults["execute_async_v3"] = "planted"

    found = ratio.run(replace(bench, keep=keep))
    assert set(found["items_per_s"]) == SIDES - {"autotune_computing_only"} and found["end_to_end"]["median"] > 0
    assert found["computing_only"] is None and "did not enqueue" in found["failures"]["computing_only"] and found["failed"] == 1
    world.faults.clear()
    again = ratio.run(replace(bench, before=found))
    assert set(again["items_per_s"]) == SIDES and again["computing_only"]["median"] > 0 and "failed" not in again
    assert again["items_per_s"]["autotune"] == found["items_per_s"]["autotune"], "the second run adds what is missing"


def test_time_that_ends_end_to_end_keeps_what_was_computed_alone(bench: Bench, world: World, driver: None) -> None:
    """Measurements of an earlier run stay in the file while others are added."""
    kept: list[Mapping[str, Any]] = []
    left = {"items_per_s": {"hand_written_computing_only": [{"value": 1.0}]}}
    found = ratio.run(replace(bench, before=left, keep=kept.append, limit_s=0.0))
    assert found["unfinished"] and "failed" not in found
    assert all(k["items_per_s"]["hand_written_computing_only"] == [{"value": 1.0}] for k in kept) and kept


def test_torchs_captured_engine_has_both_ratios(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hand-written loop in torch, and the session's own graphs without copies, on the double of torch.cuda."""
    pytest.importorskip("torch", reason="torch is not installed: pip install 'autotune[torch]'")
    from assets import fake_torch_cuda

    from autotune.engines import torch_cuda

    fake_torch_cuda.install(monkeypatch)
    monkeypatch.setattr(torch_cuda, "_gap", lambda gpu: None)
    monkeypatch.setattr(torch_cuda, "_DEVICE", "cpu")
    monkeypatch.setattr(ratio, "_TORCH_DEVICE", "cpu")
    found = ratio.run(replace(bench, engines=("torch-cuda-graph",)))
    assert found["candidate"]["engine"] == "torch-cuda-graph" and set(found["items_per_s"]) == SIDES
    assert found["end_to_end"]["median"] > 0 and found["computing_only"]["median"] > 0 and not found["unfinished"]
    assert fake_torch_cuda.FakeGraph.captures == 4, "one for each stream of each side"


def test_the_loop_in_torch_copies_in_computes_and_copies_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies out are enqueued, and arrive when the stream is waited for; the computation alone copies nothing."""
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'autotune[torch]'")
    from assets import fake_torch_cuda

    fake_torch_cuda.install(monkeypatch)
    seen: list[Any] = []

    def compute(x: Any) -> tuple[Any, ...]:
        seen[:] = [x]
        return (torch.ones_like(x),)

    lanes = hand_written.torch_lanes(compute, {"x": np.zeros((2, 3), np.float32)}, 2, device="cpu")
    lane = lanes[1]
    lane.staging["x"][:] = 7
    lane.launch_compute()
    assert fake_torch_cuda.FakeGraph.replays == 1 and not seen[0].any()
    lane.launch()
    assert fake_torch_cuda.FakeGraph.replays == 2 and (seen[0] == 7).all(), "copied in on the way"
    waiting = lane.wait.__self__.waiting  # type: ignore[attr-defined]  # a bound method of the double's stream
    assert len(waiting) == 1
    lane.wait()
    assert waiting == []


@pytest.mark.slow
def test_a_runtime_that_hangs_is_an_error_of_its_own(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its outputs are an error text, which the next run asks for again; its figures are told all the same."""
    monkeypatch.setattr(comparisons, "_usable_runtimes", lambda: (["host"], {}))
    with monkeypatch.context() as patched:
        patched.setattr(comparisons, "_PROGRAM", "import time; time.sleep(60)")
        patched.setattr(comparisons, "_MOST_S", 2.0)
        patched.setattr(comparisons, "_LEAST_S", 1.0)
        found = comparisons.runtimes(replace(bench, rounds=1))
    assert found["outputs_sha256"] == {"host": "error: did not end within 2 s"} and not found["outputs_equal"]
    assert found["runtimes"]["host"][0]["state"] == "complete"
    again = comparisons.runtimes(replace(bench, rounds=1, before=found, began=time.monotonic()))
    assert len(again["outputs_sha256"]["host"]) == 64 and again["outputs_equal"]


@pytest.mark.slow
def test_energy_is_measured_where_the_end_of_every_request_is_known(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """On NVML's double and for three seconds: a figure of nothing, of a span within the load, for the items of that span."""
    monkeypatch.setattr(energy, "_SPAN_S", 3.0)
    found = energy.run(replace(bench, quick=False, rounds=1))
    (load,) = found["energy"]["load"]
    assert not found["unfinished"] and 1.0 < load["span_s"] <= 2.0 and load["items_per_s"] > 0 and load["power_w"] > 0
    assert "memory" in found["rounds"]["trial"][0] and "reported_j_per_item" in found["rounds"]["trial"][0]


@pytest.mark.slow
def test_a_study_on_another_machine_has_no_trials_of_the_first(bench: Bench) -> None:
    """The study's own database would go on where the stage begins anew."""
    first = studies.resnet50(replace(bench, trials=1))
    again = studies.resnet50(replace(bench, trials=1, anew=True))
    assert (first["n_trials"], again["n_trials"]) == (1, 1)
    assert first["trials"][0]["finished_at"] < again["trials"][0]["finished_at"]


@pytest.mark.slow
def test_a_study_ends_itself_in_its_time_and_goes_on(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Far fewer than the trials that were asked for fit; what was kept last is what there is, and the next run adds to it."""
    monkeypatch.setattr(studies, "_LAST_TRIAL_S", 1.0)
    monkeypatch.setattr(studies, "_MARGIN_S", 1.0)
    kept: list[Mapping[str, Any]] = []
    short = replace(bench, trials=1000, limit_s=8.0, keep=kept.append, began=time.monotonic())
    first = studies.resnet50(short)
    assert first["unfinished"] and first["ended"] in ("hours", "stopped") and time.monotonic() - short.began < 30
    n_kept = [k["n_trials"] for k in kept]
    assert n_kept == sorted(n_kept) and n_kept[-1] == first["n_trials"] >= 1, "kept after every trial"
    second = studies.resnet50(replace(bench, trials=first["n_trials"] + 1, keep=kept.append, began=time.monotonic()))
    assert second["n_trials"] == first["n_trials"] + 1 and not second["unfinished"]
    assert [t["number"] for t in second["trials"]][: first["n_trials"]] == [t["number"] for t in first["trials"]]


@pytest.mark.parametrize("release", RELEASES)
def test_the_hand_written_loop_runs_on_every_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: None, release: str
) -> None:
    """Memory of the context as each release takes it; in TensorRT for RTX with the same kernels as autotune's contexts."""
    from autotune.testing.engine_contract import tiny_cnn

    name = "tensorrt-rtx" if "rtx" in release else "tensorrt"
    with installed(release, tmp_path, monkeypatch) as world:
        info = VariantInfo(key="v", precision="fp32", scheme="", pruning_ratio=0.0, achieved_pruning=0.0, params=1, macs=1,
                           model_bytes=1)  # fmt: skip
        variant = ModelVariant(key="v", path=tiny_cnn(tmp_path / "tiny.onnx"), info=info)
        backend, candidate = load_backend(name), replace(TRIAL.candidate, engine=name, precision="fp32", batch_size=2)
        backend.build(variant, candidate, tmp_path)
        lanes = hand_written.tensorrt_lanes(name.replace("-", "_"), (tmp_path / "engine.plan").read_bytes(), 2, 2)
        mine = world.contexts[-2:]
        for lane in lanes:
            lane.begin()
            lane.launch()
            lane.wait()
        assert [lane.staging["input"].shape for lane in lanes] == [(2, 1, 8, 8)] * 2
        assert all(context._memory[0] % 256 == 0 and context._n_enqueued == 4 for context in mine)
        if world.surface.is_rtx:
            engine = Engine(key="k", backend=name, variant=variant, folder=tmp_path)
            with backend.open(engine, candidate):
                ours = world.contexts[-1]._config
            for found in (context._config for context in mine):
                kinds = [c.dynamic_shapes_kernel_specialization_strategy.name for c in (found, ours)]
                assert kinds == ["EAGER", "EAGER"] and found.cuda_graph_strategy.name == "DISABLED"


def fake_driver() -> Any:
    """The driver's calls that the hand-written loop makes, on the host double; each returns (status, value)."""
    host = HostRuntime()
    pool, kept, made = host.pool(), {}, itertools.count(1)

    def stream_create(flags: int) -> tuple[int, Any]:
        stream = host.stream()
        kept[stream.handle] = stream
        return 0, stream.handle

    def alloc(n_bytes: int) -> tuple[int, int]:
        buffer = pool.allocate(n_bytes, next(iter(kept.values())))
        kept[buffer.pointer] = buffer
        return 0, buffer.pointer

    def host_alloc(n_bytes: int, flags: int) -> tuple[int, int]:
        buffer = host.pinned(n_bytes)
        kept[buffer.pointer] = buffer
        return 0, buffer.pointer

    def copy(target: int, source: int, n_bytes: int, stream: int) -> tuple[int]:
        host._copy(kept[target], kept[source], n_bytes, kept[stream])
        return (0,)

    def begin(stream: int, mode: Any) -> tuple[int]:
        kept["capture"] = host.capture(kept[stream])
        kept["captured"] = kept["capture"].__enter__()
        return (0,)

    def end(stream: int) -> tuple[int, Any]:
        kept["capture"].__exit__(None, None, None)
        return 0, kept["captured"].graph

    mode = SimpleNamespace(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL=1)
    return SimpleNamespace(
        CUstreamCaptureMode=mode,
        cuInit=lambda flags: (0,),
        cuDevicePrimaryCtxRetain=lambda device: (0, next(made)),
        cuCtxSetCurrent=lambda context: (0,),
        cuStreamCreate=stream_create,
        cuStreamSynchronize=lambda stream: (kept[stream].synchronize(), (0,))[1],
        cuStreamBeginCapture=begin,
        cuStreamEndCapture=end,
        cuGraphInstantiate=lambda graph, flags: (0, graph),
        cuGraphLaunch=lambda graph, stream: (graph.launch(kept[stream]), (0,))[1],
        cuMemAlloc=alloc,
        cuMemHostAlloc=host_alloc,
        cuMemcpyHtoDAsync=copy,
        cuMemcpyDtoHAsync=copy,
    )


def test_the_hand_written_loop_calls_the_driver_as_it_is() -> None:
    """Every call exists in the installed cuda-bindings, and the double above has no other."""
    pytest.importorskip("cuda.bindings", reason="cuda-bindings is not installed: pip install 'autotune[cuda-core]'")
    assert hand_written.unknown_calls() == []
    assert {n for n in vars(fake_driver()) if n.startswith("cu")} == set(hand_written.CALLS)
