"""Two knobs that builders of engines have, and the peak of an engine's own memory pool."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, Double, String

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Three columns more, NULL in every trial that is there: no engine had these knobs before."""
    op.add_column("at_trials", Column("builder_level", BigInteger(), nullable=True))
    op.add_column("at_trials", Column("cuda_graph", String(64), nullable=True))
    op.add_column("at_trials", Column("pool_peak_mib", Double(), nullable=True))
