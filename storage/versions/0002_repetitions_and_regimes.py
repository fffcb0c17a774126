"""Trials measured again (finalists, the canary), and the regimes of the machine that the canary found."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy import Column, Double, ForeignKeyConstraint, Integer, PrimaryKeyConstraint, String, Text

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Two tables more; what was there stays as it is."""
    op.create_table(
        "at_repetitions",
        Column("trial_id", Integer, nullable=False),
        Column("of_trial_id", Integer, nullable=False),
        Column("role", String(16), nullable=False),
        Column("round", Integer, nullable=False),
        _refers("at_repetitions", "trial_id", "at_trials"),
        _refers("at_repetitions", "of_trial_id", "at_trials"),
        PrimaryKeyConstraint("trial_id", name="pk_at_repetitions"),
        sa.UniqueConstraint("of_trial_id", "role", "round", name="uq_at_repetitions_of_trial_id_role_round"),
    )
    op.create_table(
        "at_regimes",
        Column("study_id", Integer, nullable=False),
        Column("number", Integer, nullable=False),
        Column("since", sa.DateTime(timezone=True), nullable=False),
        Column("steady_until", sa.DateTime(timezone=True), nullable=False),
        Column("ratio", Double, nullable=False),
        Column("reason", Text, nullable=False),
        _refers("at_regimes", "study_id", "at_studies"),
        PrimaryKeyConstraint("study_id", "number", name="pk_at_regimes"),
    )


def _refers(table: str, column: str, other: str) -> ForeignKeyConstraint:
    return ForeignKeyConstraint([column], [f"{other}.id"], name=f"fk_{table}_{column}_{other}", ondelete="CASCADE")
