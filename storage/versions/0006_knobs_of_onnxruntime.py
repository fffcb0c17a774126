"""Three knobs that ONNX Runtime's CUDA provider has: layout, convolution search and growth of the arena."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, String

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Three columns more, NULL in every trial that is there: the engine chose, and so it does where they are NULL."""
    for name in ("layout", "conv_search", "arena_growth"):
        op.add_column("at_trials", Column(name, String(64), nullable=True))
