"""torch as an engine: the graph is checked before it is measured, and what torch would let pass is refused."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'autotune[torch]'")
if find_spec("onnx2torch") is None:
    pytest.skip("onnx2torch is not installed: pip install 'autotune[torch]'", allow_module_level=True)

from autotune.candidate import Candidate  # noqa: E402
from autotune.engines import torch_computation  # noqa: E402
from autotune.engines.torch_cpu import TorchCompileCpu, TorchCpu  # noqa: E402
from autotune.errors import BuildFailed, OutOfMemory, Unstable  # noqa: E402
from autotune.spec.inputs import InputSpec  # noqa: E402


class Variant:
    """As much of a ModelVariant as building reads."""

    def __init__(self, path: Path) -> None:
        self.path = path


@pytest.fixture
def variant(tmp_path: Path) -> Any:
    """Two inputs a and b, [batch, 2] each: y = a − b, z = a · W."""
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 2]) for n in "abyz"]
    nodes = [helper.make_node("Sub", ["a", "b"], ["y"]), helper.make_node("MatMul", ["a", "w"], ["z"])]
    weight = numpy_helper.from_array(np.eye(2, dtype=np.float32), "w")
    graph = helper.make_graph(nodes, "g", ends[:2], ends[2:], [weight])
    path = tmp_path / "source.onnx"
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return Variant(path)


def test_inputs_are_matched_by_name(variant: Any, tmp_path: Path) -> None:
    """torch takes them by place, callers give them in any order: a − b is not b − a."""
    torch_computation.write_checked_model(variant, tmp_path)
    wanted = (InputSpec(name="a", shape=(None, 2), dtype="float32"), InputSpec(name="b", shape=(None, 2), dtype="float32"))
    a, b = np.array([[3.0, 3.0]], np.float32), np.array([[1.0, 2.0]], np.float32)
    compute = torch_computation.loaded_function(tmp_path, "fp32", "cpu")
    found = torch_computation.called(compute, torch_computation.ordered_inputs({"b": b, "a": a}, wanted))
    np.testing.assert_array_equal(found[0], [[2.0, 1.0]])


def test_a_module_that_computes_something_else_is_not_built(
    variant: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operation that the importer gets wrong would be measured as if it were the model."""
    monkeypatch.setattr("autotune.variants.convert_torch.module_from_onnx", lambda *a, **k: torch.nn.Bilinear(2, 2, 2))
    monkeypatch.setattr(torch_computation, "as_function", lambda *a: lambda x, y: (x + y, x))
    with pytest.raises(BuildFailed, match="computes something else: output y"):
        torch_computation.write_checked_model(variant, tmp_path)


def test_images_of_another_size_are_refused() -> None:
    """A network that ends in a pooling would compute on; a free size takes any."""
    wanted = (InputSpec(name="x", shape=(None, 3, None), dtype="float32"),)
    given = {"x": np.zeros((2, 3, 7), np.float32)}
    assert list(torch_computation.ordered_inputs(given, wanted)) == ["x"]
    for wrong in ({"x": np.zeros((2, 4, 7), np.float32)}, {"x": np.zeros((2, 3), np.float32)}, {}, {**given, "y": given["x"]}):
        with pytest.raises(Unstable, match="wanted: x: float32"):
            torch_computation.ordered_inputs(wrong, wanted)


def test_failures_are_told_apart() -> None:
    """Out of memory may fit with other settings; before the load a failure is one to build."""
    assert isinstance(torch_computation.rejection(torch.OutOfMemoryError("x"), "load"), OutOfMemory)
    assert isinstance(torch_computation.rejection(RuntimeError("can't allocate memory: 1 TB"), "open"), OutOfMemory)
    assert isinstance(torch_computation.rejection(RuntimeError("x"), "load"), Unstable)
    assert isinstance(torch_computation.rejection(RuntimeError(""), "open"), BuildFailed)


def test_worker_threads_are_shared_by_the_streams() -> None:
    """Each stream's thread has its own team: 8 threads on 4 streams are 2 each, and never 0."""
    some = {"engine": "torch", "precision": "amp-bf16", "pruning_ratio": 0.0, "batch_size": 1, "memory_pool_mib": None}
    shown = TorchCpu().deployment(Candidate(**some, streams=4, worker_threads=8))
    assert shown["num_threads"] == 2 and shown["autocast"] == "bf16" and shown["dtype"] == "fp32" and shown["compile"] is None
    assert TorchCompileCpu().deployment(Candidate(**some, streams=4, worker_threads=1))["num_threads"] == 1


def test_compiling_without_a_compiler_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inductor would fail in the first trial, with a page of its own."""
    monkeypatch.setenv("PATH", "")
    assert "C++ compiler" in TorchCompileCpu().capabilities().missing and TorchCpu().capabilities().available
