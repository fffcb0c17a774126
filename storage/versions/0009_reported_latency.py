"""Latency, energy and power are reported as throughput is: beside what one load gave, the estimate from all that ran."""

from __future__ import annotations

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """No table changes: at_measurements takes the new metrics `…_reported`, and the views, made anew after this, read them."""
