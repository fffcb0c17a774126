"""A model given as torch code with its weights, from the study file to a measured trial."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from autotune.cli.running import bench_candidate

torch = pytest.importorskip("torch", reason="a torch model needs torch")

MODULE = """
from torch import nn

class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x):
        return nn.functional.relu(x + self.norm(self.conv(x)))

def residual():
    return nn.Sequential(nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), Block(16), nn.Conv2d(16, 32, 3, stride=2),
                         nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4))
"""
STUDY = """
study: torch-model
model: {torch: "residual_net_of_a_user:residual", weights: weights.safetensors, input_shape: [1, 12, 12]}
data:
  validation: {npz: samples.npz, labels: y}
  calibration: {npz: samples.npz, labels: y}
space: {precision: [fp32, int8], pruning_ratio: [0.0, 0.5]}
load: {window_s: 0.05, min_windows: 3, max_s: 0.2, warmup_s: 0.05}
recovery: {epochs: 1, steps: 1}
limits: {deadline_s: 120}
cache: cache
"""


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A study file beside the user's module, its weights, and samples labelled by the model itself."""
    safetensors = pytest.importorskip("safetensors.torch", reason="needs safetensors")
    (tmp_path / "residual_net_of_a_user.py").write_text(MODULE)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))  # nothing else on the machine is waited for
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "residual_net_of_a_user", raising=False)
    import residual_net_of_a_user

    torch.manual_seed(0)
    net = residual_net_of_a_user.residual().eval()
    safetensors.save_file(net.state_dict(), tmp_path / "weights.safetensors")
    x = torch.randn(120, 1, 12, 12)
    with torch.no_grad():
        np.savez(tmp_path / "samples.npz", x=x.numpy(), y=net(x).argmax(1).numpy())
    (tmp_path / "study.yaml").write_text(STUDY)
    return str(tmp_path / "study.yaml")


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_torch_model_is_measured(study: str, engine: str) -> None:
    """Labels are the module's own answers, so the unmodified model on an engine is right on every sample."""
    pytest.importorskip(engine)
    record = bench_candidate(study, [f"engine={engine}", "precision=fp32", "batch_size=4"])
    assert record.state == "complete", record.reject
    assert record.accuracy is not None and record.accuracy.value == 1.0 and record.throughput_items_per_s is not None


def test_a_torch_model_is_pruned_and_quantized(study: str) -> None:
    """Half the channels of what may be pruned go, and the int8 graph of the rest runs.

    The export ran the module before: had that happened in the process that forks trials, this one would wait for ever.
    """
    pytest.importorskip("torch_pruning", reason="pruning needs torch-pruning")
    pytest.importorskip("onnxruntime")
    record = bench_candidate(study, ["engine=onnxruntime", "precision=int8", "pruning_ratio=0.5"])
    assert record.variant is not None and record.variant.achieved_pruning > 0.2
    assert record.state == "complete", record.reject
