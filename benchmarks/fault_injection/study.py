"""The study that the faults meet: the digits model on two real CPU engines, always the same candidates."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from autotune.candidate import Candidate
from autotune.space.sampling import candidate_from_params, params_from_candidate
from autotune.spec.load import load_spec
from autotune.study.plan import make_plan

ROOT = Path(__file__).resolve().parents[2]
STUDY = """\
study: {name}
model: {{path: {data}/model.onnx}}
data:
  validation: {{npz: {data}/val.npz, labels: y}}
  calibration: {{npz: {data}/calib.npz}}
  preprocess: {{layout: NCHW, scale: 0.00392156862745098, mean: [0.3], std: [0.35]}}
  metric: top1
device: cpu
engines: [faulty-onnxruntime, faulty-openvino]
space:
  precision: [fp32, int8]
  pruning_ratio: 0.0
  batch_size: [1, 2, 4, 8, 16, 32]
  streams: [1, 2]
  worker_threads: [1, 2]
priors:
  - {{engine: faulty-onnxruntime, precision: fp32, batch_size: 32, streams: 1, worker_threads: 2}}
  - {{engine: faulty-onnxruntime, precision: int8, batch_size: 8, streams: 1, worker_threads: 2}}
  - {{engine: faulty-onnxruntime, precision: int8, batch_size: 32, streams: 1, worker_threads: 1}}
  - {{engine: faulty-onnxruntime, precision: int8, batch_size: 1, streams: 2, worker_threads: 1}}
  - {{engine: faulty-openvino, precision: fp32, batch_size: 32, streams: 1, worker_threads: 2}}
  - {{engine: faulty-openvino, precision: fp32, batch_size: 4, streams: 1, worker_threads: 1}}
  - {{engine: faulty-openvino, precision: int8, batch_size: 32, streams: 1, worker_threads: 2}}
  - {{engine: faulty-openvino, precision: int8, batch_size: 8, streams: 1, worker_threads: 1}}
  - {{engine: faulty-openvino, precision: int8, batch_size: 1, streams: 1, worker_threads: 1}}
  - {{engine: faulty-openvino, precision: int8, batch_size: 16, streams: 2, worker_threads: 2}}
constraints: {{accuracy_drop: 0.05}}
load: {{window_s: 0.06, min_windows: 5, max_s: 0.6, warmup_s: 0.06, precision: 0.05}}
search: {{strategy: random}}
warm_start: off
budget: {{trials: {trials}}}
finalists: {{rounds: 2, at_most: 4, max_s: 30}}
canary: {{every_trials: 4, every_minutes: 100000}}
limits: {{deadline_s: {deadline_s:g}, memory_mib: 1500}}
storage: sqlite:///unused.db
cache: {cache}
seed: 0
"""


def digits(folder: Path) -> Path:
    """The digits model and its data are in the folder, trained if they are not there yet."""
    if not (folder / "val.npz").exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, str(ROOT / "examples" / "digits" / "make_model.py"), str(folder)], check=True)
    return folder


def write_study(folder: Path, name: str, data: Path, cache: Path, deadline_s: float) -> Path:
    """study.yaml in the folder, whose budget is as many trials as there are candidates."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "study.yaml"
    given = {"name": name, "data": data, "cache": cache, "deadline_s": deadline_s}
    path.write_text(STUDY.format(trials=1, **given))
    path.write_text(STUDY.format(trials=len(candidates_of(path)), **given))
    return path


def candidates_of(path: Path) -> tuple[Candidate, ...]:
    """What the study asks for first, and, with this budget, at all: its priors, as the space knows them."""
    plan = make_plan(load_spec(path))
    params = (params_from_candidate(c, plan.space) for c in plan.priors)
    return tuple(dict.fromkeys(candidate_from_params(p) for p in params if p is not None))


def clean(folder: Path) -> Path:
    """The folder is there and empty."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
