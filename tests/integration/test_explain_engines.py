"""`autotune explain` through the command line on both CPU engines, fp32 and int8, with their real profilers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from assets import explained_models as explained
from assets import fake_study as fake

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'autotune[onnxruntime]'")
pytest.importorskip("openvino", reason="openvino is not installed: pip install 'autotune[openvino]'")

STUDY = """\
study: explained
model: {path: model.onnx}
data:
  validation: {npz: val.npz, labels: y}
  calibration: {npz: val.npz}
  metric: top1
engines: [onnxruntime, openvino]
space: {precision: [fp32, int8], pruning_ratio: 0.0, batch_size: [2, 4], streams: 1, worker_threads: 1}
priors:
  - {engine: onnxruntime, precision: fp32, batch_size: 4}
  - {engine: onnxruntime, precision: int8, batch_size: 4}
  - {engine: openvino, precision: fp32, batch_size: 4}
  - {engine: openvino, precision: int8, batch_size: 2}
load: {window_s: 0.05, min_windows: 3, max_s: 0.2, warmup_s: 0.05, precision: 0.5}
budget: {trials: 6}
finalists: off
canary: off
storage: sqlite:///study.db
cache: cache
"""
ORT_FP32, ORT_INT8, OV_FP32, OV_INT8 = (
    ("onnxruntime", "fp32"),
    ("onnxruntime", "int8"),
    ("openvino", "fp32"),
    ("openvino", "int8"),
)


class Run:
    """A finished study, and what `explain` says of its trials."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        explained.write_model(folder / "model.onnx")
        samples = explained.inputs(64, seed=1)["input"]
        np.savez(folder / "val.npz", x=samples, y=np.arange(64) % 4)
        (folder / "study.yaml").write_text(STUDY)
        fake.autotune(folder, "start", "study.yaml")
        listed = json.loads(fake.autotune(folder, "trials", "study.yaml", "--json").stdout)
        self.trials = {
            (t["candidate"]["engine"], t["candidate"]["precision"]): t["number"]
            for t in reversed(listed)  # the file's own priors come first, and are meant: kernels differ by batch
            if t["state"] == "complete"
        }

    def explain(self, pair: tuple[str, str], against: tuple[str, str] | None = None) -> Any:
        more = ["--against", self.trials[against]] if against else []
        return json.loads(fake.autotune(self.folder, "explain", "study.yaml", self.trials[pair], *more, "--json").stdout)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("explained"))


@pytest.mark.parametrize("pair", [ORT_FP32, ORT_INT8, OV_FP32, OV_INT8], ids="-".join)
def test_every_convolution_is_found_in_its_format(run: Run, pair: tuple[str, str]) -> None:
    """Each is in one layer, computed as the trial says; times add up to no more than the execution."""
    found = run.explain(pair)["trial"]
    for convolution in explained.CONVOLUTIONS:
        (layer,) = [x for x in found["layers"] if convolution in x["nodes"]]
        assert (layer["role"], layer["precision"]) == ("compute", pair[1])
    assert found["stayed_wide"] == []
    assert sum(s["share"] for s in found["by_role"]) + found["between"]["share"] == pytest.approx(1, abs=0.05)
    assert found["plain_us"]["n"] == 20 == found["n_runs"]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(ORT_INT8, ORT_FP32), (OV_INT8, OV_FP32), (ORT_INT8, OV_INT8), (OV_FP32, ORT_FP32)],
    ids=lambda pair: "-".join(pair),
)
def test_the_same_work_is_matched(run: Run, ours: tuple[str, str], theirs: tuple[str, str]) -> None:
    """Between precisions and between engines, each convolution is one row that both sides spend time on, and rows add up."""
    found = run.explain(ours, theirs)
    rows = found["comparison"]["matched"]
    for convolution in explained.CONVOLUTIONS:
        (row,) = [m for m in rows if convolution in m["nodes"]]
        assert row["ours"]["n_layers"] and row["theirs"]["n_layers"]
        assert row["ours"]["precisions"] == [ours[1]] and row["theirs"]["precisions"] == [theirs[1]]
    totals = [found[side]["profiled_us"] / found[side]["batch_size"] for side in ("trial", "against")]
    slack = sum(len(found[side]["layers"]) * 2 for side in ("trial", "against"))  # whole µs of OpenVINO's counters
    assert sum(m["lost_us_per_item"] for m in rows) == pytest.approx(totals[0] - totals[1], abs=slack)
    assert found["comparison"]["ratio"]["low"] > 0


def test_what_int8_costs_at_the_models_ends_is_named(run: Run) -> None:
    """Q at the input and DQ at the output are no missed fusions. OpenVINO runs the latter in the last product or after it."""
    ends = {"at the model's input, where it is needed", "at the model's output, where it is needed"}
    for pair, certain in ((ORT_INT8, ends), (OV_INT8, {"at the model's input, where it is needed"})):
        unfused = run.explain(pair)["trial"]["unfused"]
        assert certain <= {f["why"] for f in unfused if f["role"] == "quantize"} <= ends


def test_a_sum_that_one_engine_fuses_and_the_other_does_not(run: Run) -> None:
    """ONNX Runtime computes the residual sum in int8 as a layer, OpenVINO inside the convolution before it."""
    found = run.explain(ORT_INT8, OV_INT8)["comparison"]["fused_there"]
    assert found == [["sum", "not fused into project (Conv 1×1)"]]
