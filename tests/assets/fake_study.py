"""A study on the fake engine, whose accuracy and throughput are closed formulas (autotune/engines/fake.py)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

N_SAMPLES = 200
"""Feature 1 of sample i is (i + ½)/200, so that every error rate that is a multiple of 1/200 is met exactly."""

PRIORS = "priors: [{precision: int8-tensor, batch_size: 8}, {precision: int8, batch_size: 32, streams: 4, worker_threads: 4}]"
STUDY = f"""\
study: fake
model: {{path: model.onnx}}
data:
  validation: {{npz: val.npz, inputs: x, labels: y}}
  calibration: {{npz: val.npz, inputs: x}}
  metric: top1
engines: [fake]
space:
  precision: [fp32, int8, int8-tensor]
  pruning_ratio: 0.0
  batch_size: [8, 16, 32]
  streams: [1, 2, 4]
  worker_threads: [1, 2, 4]
{PRIORS}
constraints: {{accuracy_drop: 0.05}}
load: {{window_s: 0.05, min_windows: 4, max_s: 0.2, warmup_s: 0.1, precision: 0.05}}
budget: {{trials: 12}}
limits: {{deadline_s: 60}}
finalists: off
canary: off
storage: sqlite:///study.db
cache: cache
seed: 1
"""


def write_model(path: Path) -> None:
    """A linear layer from two features to ten classes; the fake engine never runs it, but quantizers take it for real."""
    from onnx import TensorProto, helper, numpy_helper

    weights = np.random.default_rng(0).normal(size=(2, 10)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["logits"])],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())


def write_study(folder: Path, *changes: tuple[str, str]) -> Path:
    """The study file in `folder`, with model and data; each change is (old text, new text)."""
    folder.mkdir(parents=True, exist_ok=True)
    write_model(folder / "model.onnx")
    classes = np.arange(N_SAMPLES) % 10
    x = np.stack([classes, (np.arange(N_SAMPLES) + 0.5) / N_SAMPLES], axis=1).astype(np.float32)
    np.savez(folder / "val.npz", x=x, y=classes.astype(np.int64))
    text = STUDY
    for old, new in changes:
        if old not in text:
            raise ValueError(f"{old!r} is not in the study")
        text = text.replace(old, new)
    (folder / "study.yaml").write_text(text)
    return folder / "study.yaml"


def environment(folder: Path) -> dict[str, str]:
    """This process's environment with locks and caches under `folder`, so that no other study on the machine is waited for."""
    runtime = folder / "runtime"
    runtime.mkdir(exist_ok=True)
    folders = {"XDG_RUNTIME_DIR": runtime, "AUTOTUNE_LOCKS": runtime, "AUTOTUNE_CACHE": folder / "cache"}
    return {**os.environ, **{name: str(place) for name, place in folders.items()}, "COLUMNS": "200"}


def command(*arguments: object) -> list[str]:
    """The command line, run by the interpreter that runs the tests."""
    return [sys.executable, "-m", "autotune.cli.main", *map(str, arguments)]


def autotune(folder: Path, *arguments: object, expect: int | None = 0) -> subprocess.CompletedProcess[str]:
    """The command's result; with `expect`, its exit code is that."""
    done = subprocess.run(command(*arguments), cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=240)
    if expect is not None and done.returncode != expect:
        raise AssertionError(f"{arguments} left with {done.returncode}, not {expect}:\n{done.stdout}\n{done.stderr}")
    return done


def optuna_trials(folder: Path, url: str = "") -> list[Any]:
    """Optuna's trials, as its own library reads them, in the study's own database or the one at `url`."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.load_study(study_name="fake", storage=url or f"sqlite:///{folder / 'study.db'}").get_trials(deepcopy=False)


def violated(trial: Any) -> dict[str, float]:
    """The constraints of an Optuna trial that are broken."""
    return {k: v for k, v in constraints(trial).items() if v > 0}


def constraints(trial: Any) -> dict[str, float]:
    """All constraints of an Optuna trial."""
    return {k.removeprefix("constraints:"): v for k, v in trial.system_attrs.items() if k.startswith("constraints:")}


def candidates(documents: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The candidates of TRIAL documents."""
    from autotune.candidate import Candidate

    return [Candidate.from_json(d["candidate"]) for d in documents]
