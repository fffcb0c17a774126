"""How each trial was loaded: the scenario, the rate that arrived, the SLO, and who was late."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, Double, ForeignKeyConstraint, Integer, PrimaryKeyConstraint, String

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """One table more; trials from before have no row in it, and ran in the closed loop."""
    op.create_table(
        "at_loads",
        Column("trial_id", Integer, nullable=False),
        Column("scenario", String(16), nullable=False),
        Column("driver", String(16), nullable=False),
        Column("n_requests", BigInteger, nullable=False),
        Column("offered_items_per_s", Double),
        Column("slo_ms", Double),
        Column("slo_percentile", Integer),
        Column("queued_share", Double),
        Column("late_share", Double),
        Column("mean_batch", Double),
        Column("foreign_cpu_share", Double),
        Column("n_repeated_windows", Integer, nullable=False),
        ForeignKeyConstraint(["trial_id"], ["at_trials.id"], name="fk_at_loads_trial_id_at_trials", ondelete="CASCADE"),
        PrimaryKeyConstraint("trial_id", name="pk_at_loads"),
    )
