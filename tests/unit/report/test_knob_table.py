"""The README's table of knobs is the one that the backends give."""

from __future__ import annotations

from pathlib import Path

import pytest

from autotune.report.knob_table import knob_table, with_table

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("path", [ROOT / "README.md", ROOT / "docs" / "nvidia.md"], ids=lambda path: path.name)
def test_documents_hold_the_generated_table(path: Path) -> None:
    """Whoever changes what a knob does on an engine also changes these: python -m autotune.report.knob_table FILE."""
    text = path.read_text()
    assert with_table(text) == text


def test_rewriting_changes_nothing_else() -> None:
    """Text around the markers stays, and a second rewrite changes nothing."""
    once = with_table("before\n<!-- knobs:begin onnxruntime openvino -->\nold\n<!-- knobs:end -->\nafter\n")
    assert once.startswith("before\n<!-- knobs:begin onnxruntime openvino -->\n| knob | onnxruntime | openvino |")
    assert once.endswith("<!-- knobs:end -->\nafter\n")
    assert with_table(once) == once


def test_knobs_that_none_of_the_engines_has_are_left_out() -> None:
    """A table of CPU engines says nothing of CUDA graphs; one with TensorRT in it does."""
    assert "cuda_graph" not in knob_table(["onnxruntime"]) and "`cuda_graph`" in knob_table(["onnxruntime", "tensorrt"])


def test_a_document_without_markers_is_refused() -> None:
    """Nothing is written into a file that has no place for the table."""
    with pytest.raises(ValueError, match="markers"):
        with_table("no table here")
