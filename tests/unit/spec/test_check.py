"""Rules of check_model: torch models and their weights; what ONNX files are refused stands in the broken inputs."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import pytest

from autotune.errors import SpecError
from autotune.spec.check import check_model, torch_model
from autotune.spec.inputs import InputSpec
from autotune.spec.model import DataSpec, ModelSpec, SplitSpec, StudySpec

torch = pytest.importorskip("torch", reason="a torch model needs torch")

SOURCE = """\
import torch

def make():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))

def number():
    return 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "tiny_torch_models.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("tiny_torch_models", None)
    return tmp_path


def study(torch_name: str, weights: Path | None = None) -> StudySpec:
    data = DataSpec(validation=SplitSpec(npz=Path("val.npz")))
    return StudySpec(study="t", model=ModelSpec(torch=torch_name, weights=weights, input_shape=(4,)), data=data)


def test_a_torch_model_takes_its_weights_from_either_format(folder: Path) -> None:
    """safetensors, torch.save and the state dict inside a training checkpoint end up in the module, which is in eval mode."""
    safetensors = pytest.importorskip("safetensors.torch", reason="needs safetensors")
    state = {"1.weight": torch.full((2, 4), 2.0), "1.bias": torch.zeros(2)}
    torch.save(state, folder / "w.pt")
    safetensors.save_file(state, folder / "w.safetensors")
    torch.save({"epoch": 3, "state_dict": state}, folder / "checkpoint.pt")
    for name in ("w.pt", "w.safetensors", "checkpoint.pt"):
        spec = study("tiny_torch_models:make", folder / name)
        assert check_model(spec) == (InputSpec(name="input", shape=(None, 4), dtype="float32"),)
        made = torch_model(spec.model)
        assert not made.training
        assert made(torch.ones(1, 2, 2)).tolist() == [[8.0, 8.0]]


@pytest.mark.parametrize("name", ["tiny_torch_models:gone", "tiny_torch_models:number", "gone:make"])
def test_what_is_no_model_is_refused(folder: Path, name: str) -> None:
    """A missing module, a missing name and a callable that returns no module are faults of model.torch."""
    with pytest.raises(SpecError, match=name):
        check_model(study(name))


def test_code_in_a_weights_file_does_not_run(folder: Path) -> None:
    """A pickle that would create a file is refused, and the file is not there."""

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (folder / "ran",))

    (folder / "w.pt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(SpecError, match=r"w\.pt, which cannot be loaded"):
        check_model(study("tiny_torch_models:make", folder / "w.pt"))
    assert not (folder / "ran").exists()


def test_weights_of_another_model_are_refused(folder: Path) -> None:
    """Missing and unexpected tensors are named."""
    torch.save({"other": torch.zeros(1)}, folder / "w.pt")
    with pytest.raises(SpecError, match="other"):
        check_model(study("tiny_torch_models:make", folder / "w.pt"))
