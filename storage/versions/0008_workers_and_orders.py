"""Who works on a study, on every host and between the trials too, and what is ordered of them: pause and stop."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Two tables more, empty: nobody works while a database is upgraded, and no study was paused before."""
    op.create_table(
        "at_workers",
        sa.Column("worker_id", sa.String(64), nullable=False),
        sa.Column("study_id", sa.Integer, nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("pid", sa.BigInteger, nullable=False),
        sa.Column("pid_started", sa.BigInteger, nullable=False),
        sa.Column("boot_id", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("began_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("heartbeat_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["study_id"], ["at_studies.id"], name="fk_at_workers_study_id_at_studies", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("worker_id", name="pk_at_workers"),
    )
    op.create_index("ix_at_workers_study_id", "at_workers", ["study_id"])
    op.create_table(
        "at_orders",
        sa.Column("order_id", sa.String(32), nullable=False),
        sa.Column("study_id", sa.Integer, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("given_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("given_by", sa.Text, nullable=False),
        sa.Column("at_once", sa.Boolean, nullable=False),
        sa.ForeignKeyConstraint(["study_id"], ["at_studies.id"], name="fk_at_orders_study_id_at_studies", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("order_id", name="pk_at_orders"),
    )
    op.create_index("ix_at_orders_study_id", "at_orders", ["study_id"])
