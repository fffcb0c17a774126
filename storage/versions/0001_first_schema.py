"""The first schema: environments, studies, variants, engines, trials, measurements, telemetry, fronts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy import BigInteger, Column, Double, ForeignKeyConstraint, Integer, PrimaryKeyConstraint, String, Text

revision = "0001"
down_revision = None


def upgrade() -> None:
    """The tables stand beside Optuna's, and none refers to them."""
    _artifacts()
    _studies()
    _trials()
    _measured()
    _fronts()


def _instant(name: str, *, nullable: bool = False) -> Column[object]:
    return Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _json(name: str) -> Column[object]:
    return Column(name, sa.JSON(), nullable=False)


def _refers(table: str, column: str, other: str, key: str, **options: str) -> ForeignKeyConstraint:
    return ForeignKeyConstraint([column], [f"{other}.{key}"], name=f"fk_{table}_{column}_{other}", **options)


def _artifacts() -> None:
    op.create_table(
        "at_environments",
        Column("key", String(64), nullable=False),
        Column("device", Text, nullable=False),
        _json("fingerprint"),
        _instant("created_at"),
        PrimaryKeyConstraint("key", name="pk_at_environments"),
    )
    op.create_table(
        "at_engines",
        Column("key", String(64), nullable=False),
        Column("engine", String(64), nullable=False),
        Column("variant_key", String(64)),
        _instant("created_at"),
        PrimaryKeyConstraint("key", name="pk_at_engines"),
    )
    op.create_table(
        "at_variants",
        Column("digest", String(64), nullable=False),
        Column("key", String(64), nullable=False),
        Column("precision", String(64), nullable=False),
        Column("scheme", Text, nullable=False),
        Column("pruning_ratio", Double, nullable=False),
        Column("achieved_pruning", Double, nullable=False),
        Column("params", BigInteger, nullable=False),
        Column("macs", BigInteger),
        Column("model_bytes", BigInteger, nullable=False),
        _json("notes"),
        PrimaryKeyConstraint("digest", name="pk_at_variants"),
    )
    op.create_index("ix_at_variants_key", "at_variants", ["key"])


def _studies() -> None:
    op.create_table(
        "at_studies",
        Column("id", Integer, nullable=False),
        Column("name", String(100), nullable=False),
        Column("state", String(16), nullable=False),
        Column("target_trials", Integer, nullable=False),
        _json("objectives"),
        _json("spec"),
        Column("spec_digest", String(64), nullable=False),
        Column("model_digest", String(64), nullable=False),
        Column("environment_key", String(64), nullable=False),
        _instant("created_at"),
        _refers("at_studies", "environment_key", "at_environments", "key"),
        PrimaryKeyConstraint("id", name="pk_at_studies"),
        sa.UniqueConstraint("name", name="uq_at_studies_name"),
    )


def _trials() -> None:
    op.create_table(
        "at_trials",
        Column("id", Integer, nullable=False),
        Column("study_id", Integer, nullable=False),
        Column("role", String(16), nullable=False),
        Column("number", Integer, nullable=False),
        Column("state", String(16), nullable=False),
        *_knobs(),
        *_outcome(),
        *_worker(),
        _refers("at_trials", "study_id", "at_studies", "id", ondelete="CASCADE"),
        _refers("at_trials", "variant_digest", "at_variants", "digest"),
        _refers("at_trials", "engine_key", "at_engines", "key"),
        _refers("at_trials", "environment_key", "at_environments", "key"),
        PrimaryKeyConstraint("id", name="pk_at_trials"),
        sa.UniqueConstraint("study_id", "role", "number", name="uq_at_trials_study_id_role_number"),
        sqlite_autoincrement=True,
    )
    for columns in (["study_id", "role", "state"], ["study_id", "candidate_digest"], ["worker_id", "state"]):
        op.create_index(f"ix_at_trials_{'_'.join(columns)}", "at_trials", columns)


def _knobs() -> list[Column[object]]:
    return [
        Column("engine", String(64), nullable=False),
        Column("precision", String(64), nullable=False),
        Column("pruning_ratio", Double, nullable=False),
        Column("batch_size", BigInteger, nullable=False),
        Column("streams", BigInteger),
        Column("worker_threads", BigInteger),
        Column("memory_pool_mib", BigInteger),
        Column("candidate_digest", String(64), nullable=False),
    ]


def _outcome() -> list[Column[object]]:
    return [
        Column("metric", Text, nullable=False),
        Column("reject_reason", String(64)),
        Column("reject_stage", String(64)),
        Column("reject_message", Text),
        Column("variant_digest", String(64)),
        Column("engine_key", String(64)),
        Column("scores_key", String(64)),
        Column("peak_memory_mib", Double),
        Column("model_bytes", BigInteger),
        Column("build_s", Double),
        Column("measure_s", Double),
        _json("stage_s"),
        _json("cached"),
        _json("flags"),
        Column("device", Text, nullable=False),
        _json("versions"),
        Column("environment_key", String(64), nullable=False),
        _instant("started_at", nullable=True),
        _instant("finished_at", nullable=True),
    ]


def _worker() -> list[Column[object]]:
    return [
        Column("worker_id", String(64), nullable=False),
        Column("host", Text, nullable=False),
        Column("pid", BigInteger, nullable=False),
        Column("pid_started", BigInteger, nullable=False),
        Column("boot_id", String(64), nullable=False),
        _instant("heartbeat_at"),
    ]


def _measured() -> None:
    op.create_table(
        "at_measurements",
        Column("trial_id", Integer, nullable=False),
        Column("metric", String(64), nullable=False),
        Column("value", Double, nullable=False),
        Column("low", Double, nullable=False),
        Column("high", Double, nullable=False),
        Column("n", BigInteger, nullable=False),
        Column("method", Text, nullable=False),
        Column("unit", String(32), nullable=False),
        _refers("at_measurements", "trial_id", "at_trials", "id", ondelete="CASCADE"),
        PrimaryKeyConstraint("trial_id", "metric", name="pk_at_measurements"),
    )
    op.create_table(
        "at_telemetry",
        Column("trial_id", Integer, nullable=False),
        Column("position", Integer, nullable=False),
        Column("metric", String(64), nullable=False),
        Column("unit", String(32), nullable=False),
        _json("t_s"),
        _json("samples"),
        Column("absent", Text),
        _refers("at_telemetry", "trial_id", "at_trials", "id", ondelete="CASCADE"),
        PrimaryKeyConstraint("trial_id", "position", name="pk_at_telemetry"),
    )


def _fronts() -> None:
    op.create_table(
        "at_pareto",
        Column("study_id", Integer, nullable=False),
        Column("trial_id", Integer, nullable=False),
        _instant("since"),
        _refers("at_pareto", "study_id", "at_studies", "id", ondelete="CASCADE"),
        _refers("at_pareto", "trial_id", "at_trials", "id", ondelete="CASCADE"),
        PrimaryKeyConstraint("study_id", "trial_id", name="pk_at_pareto"),
    )
