"""Our tables, all named `at_…`, which stand beside Optuna's in one database and refer to none of them.

This is what the code writes today; how a database gets there is `storage/versions/`, and a test holds the two together.
"""

from __future__ import annotations

from datetime import UTC, datetime
from types import NoneType
from typing import Any, get_args, get_type_hints

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    func,
)
from sqlalchemy.types import TypeDecorator, TypeEngine

from autotune.candidate import KNOBS, Candidate, Knob

PREFIX = "at_"
VERSION_TABLE = "at_schema_version"
HEAD = "0009"
"""The revision in `storage/versions/` that makes these tables; a test compares."""


class UtcTime(TypeDecorator[str]):
    """An instant: ISO 8601 text with its offset in Python, a timestamp in UTC in the database, so that charts can use it."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> datetime | None:
        """Text without an offset means UTC. Raises ValueError on anything but ISO 8601."""
        if value is None:
            return None
        parsed = datetime.fromisoformat(value)
        return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> str | None:
        """Milliseconds, as trials are stamped; microseconds only where there are some."""
        if value is None:
            return None
        aware = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
        return aware.isoformat(timespec="microseconds" if aware.microsecond % 1000 else "milliseconds")


def database_now(dialect: str) -> ColumnElement[str]:
    """The database's own clock as UtcTime: workers on several hosts share it, so ages of heartbeats can be compared."""
    if dialect == "sqlite":
        return func.strftime("%Y-%m-%d %H:%M:%f000", "now", type_=UtcTime)
    return func.clock_timestamp(type_=UtcTime)


def _knob_column(knob: Knob, annotation: Any) -> Column[Any]:
    kinds: dict[str, TypeEngine[Any]] = {"choice": String(64), "int": BigInteger(), "float": Double()}
    return Column(knob.name, kinds[knob.kind], nullable=NoneType in get_args(annotation))


def _knob_columns() -> list[Column[Any]]:
    hints = get_type_hints(Candidate)
    return [_knob_column(knob, hints[name]) for name, knob in KNOBS.items()]


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

environments = Table(
    "at_environments",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("device", Text, nullable=False),
    Column("fingerprint", JSON, nullable=False),
    Column("created_at", UtcTime, nullable=False),
)

studies = Table(
    "at_studies",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(100), nullable=False, unique=True),
    Column("state", String(16), nullable=False),
    Column("target_trials", Integer, nullable=False),
    Column("objectives", JSON, nullable=False),
    Column("spec", JSON, nullable=False),
    Column("spec_digest", String(64), nullable=False),
    Column("model_digest", String(64), nullable=False),
    Column("environment_key", String(64), ForeignKey("at_environments.key"), nullable=False),
    Column("created_at", UtcTime, nullable=False),
)

variants = Table(
    "at_variants",
    metadata,
    # Of the row, not of the variant: one key made on two hosts may differ in its notes, and each trial keeps its own.
    Column("digest", String(64), primary_key=True),
    Column("key", String(64), nullable=False, index=True),
    Column("precision", String(64), nullable=False),
    Column("scheme", Text, nullable=False),
    Column("pruning_ratio", Double, nullable=False),
    Column("achieved_pruning", Double, nullable=False),
    Column("params", BigInteger, nullable=False),
    Column("macs", BigInteger),
    Column("model_bytes", BigInteger, nullable=False),
    Column("notes", JSON, nullable=False),
)

engines = Table(
    "at_engines",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("engine", String(64), nullable=False),
    Column("variant_key", String(64)),
    Column("created_at", UtcTime, nullable=False),
)

trials = Table(
    "at_trials",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("study_id", Integer, ForeignKey("at_studies.id", ondelete="CASCADE"), nullable=False),
    Column("role", String(16), nullable=False),
    Column("number", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    *_knob_columns(),
    Column("candidate_digest", String(64), nullable=False),
    Column("metric", Text, nullable=False, default=""),
    Column("reject_reason", String(64)),
    Column("reject_stage", String(64)),
    Column("reject_message", Text),
    Column("variant_digest", String(64), ForeignKey("at_variants.digest")),
    Column("engine_key", String(64), ForeignKey("at_engines.key")),
    Column("scores_key", String(64)),
    Column("agreement", JSON(none_as_null=True)),
    Column("peak_memory_mib", Double),
    Column("pool_peak_mib", Double),
    Column("model_bytes", BigInteger),
    Column("build_s", Double),
    Column("measure_s", Double),
    Column("stage_s", JSON, nullable=False, default=dict),
    Column("cached", JSON, nullable=False, default=list),
    Column("flags", JSON, nullable=False, default=list),
    Column("device", Text, nullable=False, default=""),
    Column("versions", JSON, nullable=False, default=dict),
    Column("environment_key", String(64), ForeignKey("at_environments.key"), nullable=False),
    Column("started_at", UtcTime),
    Column("finished_at", UtcTime),
    Column("worker_id", String(64), nullable=False),
    Column("host", Text, nullable=False),
    Column("pid", BigInteger, nullable=False),
    Column("pid_started", BigInteger, nullable=False),
    Column("boot_id", String(64), nullable=False),
    Column("heartbeat_at", UtcTime, nullable=False),
    UniqueConstraint("study_id", "role", "number"),
    Index(None, "study_id", "role", "state"),
    Index(None, "study_id", "candidate_digest"),
    Index(None, "worker_id", "state"),
    # An id is never used again, so a late write to a discarded trial cannot hit another one.
    sqlite_autoincrement=True,
)

measurements = Table(
    "at_measurements",
    metadata,
    Column("trial_id", Integer, ForeignKey("at_trials.id", ondelete="CASCADE"), primary_key=True),
    Column("metric", String(64), primary_key=True),
    Column("value", Double, nullable=False),
    Column("low", Double, nullable=False),
    Column("high", Double, nullable=False),
    Column("n", BigInteger, nullable=False),
    Column("method", Text, nullable=False),
    Column("unit", String(32), nullable=False),
)

loads = Table(
    "at_loads",
    metadata,
    # How the trial was loaded, and what only some scenarios have; its estimates stand in at_measurements.
    Column("trial_id", Integer, ForeignKey("at_trials.id", ondelete="CASCADE"), primary_key=True),
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
)

telemetry = Table(
    "at_telemetry",
    metadata,
    Column("trial_id", Integer, ForeignKey("at_trials.id", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("metric", String(64), nullable=False),
    Column("unit", String(32), nullable=False),
    Column("t_s", JSON, nullable=False),
    Column("samples", JSON, nullable=False),
    Column("absent", Text),
)

repetitions = Table(
    "at_repetitions",
    metadata,
    # A repetition is a trial of its own (role final or canary); this row says of which trial.
    Column("trial_id", Integer, ForeignKey("at_trials.id", ondelete="CASCADE"), primary_key=True),
    Column("of_trial_id", Integer, ForeignKey("at_trials.id", ondelete="CASCADE"), nullable=False),
    Column("role", String(16), nullable=False),
    Column("round", Integer, nullable=False),
    UniqueConstraint("of_trial_id", "role", "round"),
)

failed_tries = Table(
    "at_failed_tries",
    metadata,
    # A try whose process died or had to be ended. It outlives the trial's row, which goes when the candidate is put back.
    Column("id", Integer, primary_key=True),
    Column("study_id", Integer, ForeignKey("at_studies.id", ondelete="CASCADE"), nullable=False),
    Column("role", String(16), nullable=False),
    Column("number", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("candidate_digest", String(64), nullable=False),
    Column("worker_id", String(64), nullable=False),
    Column("reason", String(64), nullable=False),
    Column("stage", String(64), nullable=False),
    Column("message", Text, nullable=False),
    Column("at", UtcTime, nullable=False),
    UniqueConstraint("study_id", "role", "number", "attempt"),
    Index(None, "study_id", "candidate_digest"),
)

regimes = Table(
    "at_regimes",
    metadata,
    # The first regime has no row: it began with the study.
    Column("study_id", Integer, ForeignKey("at_studies.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("since", UtcTime, nullable=False),
    Column("steady_until", UtcTime, nullable=False),
    Column("ratio", Double, nullable=False),
    Column("reason", Text, nullable=False),
)

pareto = Table(
    "at_pareto",
    metadata,
    Column("study_id", Integer, ForeignKey("at_studies.id", ondelete="CASCADE"), primary_key=True),
    Column("trial_id", Integer, ForeignKey("at_trials.id", ondelete="CASCADE"), primary_key=True),
    Column("since", UtcTime, nullable=False),
)

workers = Table(
    "at_workers",
    metadata,
    # A worker's row stays when it is killed: that is how everybody knows that a study was interrupted.
    Column("worker_id", String(64), primary_key=True),
    Column("study_id", Integer, ForeignKey("at_studies.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("host", Text, nullable=False),
    Column("pid", BigInteger, nullable=False),
    Column("pid_started", BigInteger, nullable=False),
    Column("boot_id", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("began_at", UtcTime, nullable=False),
    Column("heartbeat_at", UtcTime, nullable=False),
)

orders = Table(
    "at_orders",
    metadata,
    # A pause stands until its row is deleted; stops are kept, and concern the workers that began before them.
    Column("order_id", String(32), primary_key=True),
    Column("study_id", Integer, ForeignKey("at_studies.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("kind", String(16), nullable=False),
    Column("given_at", UtcTime, nullable=False),
    Column("given_by", Text, nullable=False),
    Column("at_once", Boolean, nullable=False),
)
