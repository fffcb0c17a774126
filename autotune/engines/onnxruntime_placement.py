"""Which of ONNX Runtime's providers took which nodes, told by the session (Session_GetEpGraphAssignmentInfo)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

RECORD = "session.record_ep_graph_assignment_info"
"""The entry of a session's configuration that makes it remember; off by default."""
CPU = "CPUExecutionProvider"
_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Nodes that one provider took together. `nodes`: (name, operation) in the graph's order, as the partitioner saw them."""

    provider: str
    nodes: tuple[tuple[str, str], ...]


def placements(session: Any) -> tuple[Placement, ...] | None:
    """The session's placements in the order in which they were made; None where this ONNX Runtime does not tell.

    The session must have been made with `RECORD` set.
    """
    if not hasattr(session, "get_provider_graph_assignment_info"):  # ONNX Runtime before 1.24
        return None
    return tuple(
        Placement(provider=found.ep_name, nodes=tuple((n.name, n.op_type) for n in found.get_nodes()))
        for found in session.get_provider_graph_assignment_info()
    )


def on_cpu(placed: Sequence[Placement]) -> str:
    """The nodes that the CPU took, in words: "Shape /s, Gather /g and 3 more"; empty where there are none."""
    found = [f"{op} {name}".strip() for p in placed if p.provider == CPU for name, op in p.nodes]
    more = len(found) - _SHOWN
    return ", ".join(found[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
