"""How a trial's answers compare with the reference's, beside the mean."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """One column more; trials that were measured before have none."""
    op.add_column("at_trials", sa.Column("agreement", sa.JSON(), nullable=True))
