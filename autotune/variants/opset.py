"""A graph at the opset that a recipe needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autotune.errors import Unsupported

if TYPE_CHECKING:
    from onnx import ModelProto

_ONNX = ("", "ai.onnx")


def opset_of(model: ModelProto) -> int:
    """The version of the ONNX operators that the graph uses; 0 where it names none."""
    return max((o.version for o in model.opset_import if o.domain in _ONNX), default=0)


def at_opset(model: ModelProto, opset: int, precision: str) -> ModelProto:
    """The graph at `opset` or, where it is newer already, as it is. Raises Unsupported naming the precision that needs it."""
    import onnx

    if any(n.domain not in _ONNX for n in model.graph.node) or any(o.domain not in _ONNX for o in model.opset_import):
        raise Unsupported(f"{precision}: the graph uses operations outside the ONNX standard", stage="variant")
    if opset_of(model) >= opset:
        return model
    try:
        return onnx.version_converter.convert_version(model, opset)
    except Exception as exc:
        raise Unsupported(
            f"{precision} needs opset {opset}, and the graph cannot be converted: {exc}", stage="variant"
        ) from exc


def drop_unused_domains(model: ModelProto) -> None:
    """Domains that no node uses are not imported; ONNX Runtime lists all that it knows when it writes a graph."""
    used = {n.domain for n in model.graph.node} | set(_ONNX)
    kept = [o for o in model.opset_import if o.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
