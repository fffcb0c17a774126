"""A text-like task: two integer inputs of any length, one embedding out, a metric of the whole set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from autotune.cli.running import bench_candidate

VOCABULARY, WIDTH, LENGTH, PAIRS = 64, 32, 12, 40


def write_model(path: Path) -> None:
    """Mean of word vectors over the attention mask, then two dense layers: what a sentence encoder does, in small."""
    rng = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array((rng.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32), name)

    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["words"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["mask3"]),
        helper.make_node("Mul", ["words", "mask3"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "middle"], ["sum"], keepdims=0),
        helper.make_node("ReduceSum", ["mask", "middle"], ["count"], keepdims=1),
        helper.make_node("Div", ["sum", "count"], ["mean"]),
        helper.make_node("MatMul", ["mean", "w1"], ["h1"]),
        helper.make_node("Relu", ["h1"], ["r1"]),
        helper.make_node("MatMul", ["r1", "w2"], ["embedding"]),
    ]
    constants = [
        numpy_helper.from_array(rng.standard_normal((VOCABULARY, WIDTH)).astype(np.float32), "table"),
        weight("w1", WIDTH, 48),
        weight("w2", 48, WIDTH),
        numpy_helper.from_array(np.array([2], dtype=np.int64), "last"),
        numpy_helper.from_array(np.array([1], dtype=np.int64), "middle"),
    ]
    inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, ["batch", "length"]) for n in ("input_ids", "attention_mask")]
    outputs = [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", WIDTH])]
    graph = helper.make_graph(nodes, "text", inputs, outputs, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))


def write_pairs(path: Path) -> None:
    """Rows 2i and 2i+1 are a pair that shares a share of its words; the label is that share."""
    rng = np.random.default_rng(1)
    ids = rng.integers(1, VOCABULARY, size=(2 * PAIRS, LENGTH))
    shared = np.linspace(0, 1, PAIRS)
    for i, share in enumerate(shared):
        n = round(share * LENGTH)
        ids[2 * i + 1, :n] = ids[2 * i, :n]
    mask = np.ones_like(ids)
    mask[::3, -2:] = 0
    np.savez(path, ids=ids, mask=mask, y=np.repeat(shared, 2))


STUDY = """
study: text
model: {path: model.onnx}
data:
  validation: {npz: pairs.npz, inputs: {input_ids: ids, attention_mask: mask}, labels: y}
  calibration: {npz: pairs.npz, inputs: {input_ids: ids, attention_mask: mask}, labels: y}
  metric: spearman_pairs
engines: [onnxruntime, openvino]
space: {precision: [fp32, int8], batch_size: [4]}
load: {window_s: 0.05, min_windows: 3, max_s: 0.2, warmup_s: 0.05}
cache: cache
"""


def write_study(folder: Path) -> str:
    """A study file with its model and data in `folder`."""
    write_model(folder / "model.onnx")
    write_pairs(folder / "pairs.npz")
    (folder / "study.yaml").write_text(STUDY)
    return str(folder / "study.yaml")


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_text_fits(tmp_path: Path, engine: str, precision: str) -> None:
    """A model with two integer inputs is measured on both engines, its whole-set metric with a paired interval."""
    pytest.importorskip(engine)
    study = write_study(tmp_path)
    record = bench_candidate(study, [f"engine={engine}", f"precision={precision}", "batch_size=4", "streams=2"])
    assert record.state == "complete", record.reject
    assert record.accuracy is not None and record.accuracy_drop is not None and record.throughput_items_per_s is not None
    assert record.accuracy.method == "bootstrap" and record.accuracy.n == PAIRS
    if engine == "openvino" and precision == "int8":
        return  # OpenVINO 2026.4.1 computes this graph wrongly at some batches; see the next test
    # Pairs that share words have closer means: the encoder is random, but the ranking follows the share.
    assert record.accuracy.value > 0.5
    assert abs(record.accuracy_drop.value) < 0.1
    assert record.accuracy_drop.half_width < record.accuracy.half_width  # pairing takes out what both models share


def test_settings_that_change_the_answers_get_an_accuracy_of_their_own(tmp_path: Path) -> None:
    """Accuracy known from other settings is taken over only where this session answers alike."""
    pytest.importorskip("openvino")
    study = write_study(tmp_path)
    int8 = ["engine=openvino", "precision=int8"]
    first = bench_candidate(study, [*int8, "batch_size=80"])
    second = bench_candidate(study, [*int8, "batch_size=4"])
    assert first.accuracy is not None and second.accuracy is not None
    if "accuracy_depends_on_settings" in second.flags:  # OpenVINO 2026.4.1
        assert second.accuracy.value != first.accuracy.value and "accuracy" not in second.cached
    else:
        assert second.accuracy == first.accuracy and "accuracy" in second.cached
