"""Tries whose process died or had to be ended, counted per candidate so that none is repeated for ever."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """One table more, empty at first: crashes before it were stored as trials."""
    op.create_table(
        "at_failed_tries",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("candidate_digest", sa.String(length=64), nullable=False),
        sa.Column("worker_id", sa.String(length=64), nullable=False),
        sa.Column("reason", sa.String(length=64), nullable=False),
        sa.Column("stage", sa.String(length=64), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["study_id"], ["at_studies.id"], name=op.f("fk_at_failed_tries_study_id_at_studies"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_at_failed_tries")),
        sa.UniqueConstraint(
            "study_id", "role", "number", "attempt", name=op.f("uq_at_failed_tries_study_id_role_number_attempt")
        ),
    )
    op.create_index(op.f("ix_at_failed_tries_study_id_candidate_digest"), "at_failed_tries", ["study_id", "candidate_digest"])
