"""outline: what explanations know of a graph."""

from __future__ import annotations

from pathlib import Path

from assets import explained_models as explained

from autotune.engines.build import load_backend
from autotune.variants.outline import GraphNode, outline_of


def by_name(folder: Path, precision: str = "fp32") -> dict[str, GraphNode]:
    variant = explained.variant(folder, precision, load_backend("onnxruntime"))
    return {n.name: n for n in outline_of(variant.path)}


def test_labels_tell_convolutions_apart(tmp_path: Path) -> None:
    """Depthwise and pointwise convolutions have kernels of their own in every engine, so they are kinds of their own here."""
    found = by_name(tmp_path)
    assert [found[n].label for n in explained.CONVOLUTIONS] == ["Conv 3×3", "Conv 3×3 depthwise", "Conv 1×1"]
    assert found["fc"].label == "Gemm"


def test_constants_do_not_flow(tmp_path: Path) -> None:
    """Weights, biases and the bounds of a Clip are left out of `inputs`; the DQ of a weight has none."""
    assert by_name(tmp_path)["stem"].inputs == ("input",)
    assert by_name(tmp_path)["depthwise/relu6"].inputs == ("depthwise_y",)
    (tmp_path / "q").mkdir()
    assert by_name(tmp_path / "q", "int8")["stem.w_DequantizeLinear"].inputs == ()


def test_formats_are_those_of_the_graphs_types(tmp_path: Path) -> None:
    """Between the casts of an fp16 graph everything is fp16; what Q makes is int8 whatever its sign."""
    half = by_name(tmp_path, "fp16")
    assert half["stem"].precision == "fp16" and half["graph_output_cast0"].precision == "fp32"
    (tmp_path / "q").mkdir()
    assert by_name(tmp_path / "q", "int8")["input_QuantizeLinear"].precision == "int8"
