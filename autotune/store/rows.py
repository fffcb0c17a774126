"""TrialRecord ↔ rows: the one place that knows which field lives in which column."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from sqlalchemy import RowMapping

from autotune.candidate import KNOBS, Candidate
from autotune.fingerprint import digest_of
from autotune.records import (
    ESTIMATES,
    FAILED_AGAIN,
    LATENCIES,
    LOAD_ESTIMATES,
    LOADED,
    Agreement,
    Estimate,
    LoadFigures,
    Rejection,
    Repetition,
    Series,
    TrialRecord,
    VariantInfo,
    loaded_fields,
)
from autotune.store.reported import REPORTED, UNITS

Values = dict[str, Any]

_LEARNT = {"regime", "repetitions"}
"""Fields that a trial does not bring along: the study learns them afterwards."""
_OF_THE_TRIAL = {"candidate", "reject", "load", "variant", "agreement", "cached", "flags", "telemetry"}
_REBUILT = {*_OF_THE_TRIAL, *ESTIMATES, *loaded_fields({}, {}), *_LEARNT}
_AS_THEY_ARE = tuple(f.name for f in fields(TrialRecord) if f.name not in _REBUILT)


def trial_values(record: TrialRecord) -> Values:
    """The columns of at_trials that a finished trial sets. Raises ValueError on a number that is not finite."""
    reject = record.reject
    return {
        **candidate_values(record.candidate),
        "state": record.state,
        "metric": storable_text(record.metric),
        "reject_reason": reject.reason if reject else None,
        "reject_stage": reject.stage if reject else None,
        "reject_message": storable_text(reject.message) if reject else None,
        "variant_digest": variant_values(record.variant)["digest"] if record.variant else None,
        "engine_key": record.engine_key,
        "scores_key": record.scores_key,
        "agreement": None if record.agreement is None else asdict(record.agreement),
        "peak_memory_mib": _finite("peak_memory_mib", record.peak_memory_mib),
        "pool_peak_mib": _finite("pool_peak_mib", record.pool_peak_mib),
        "model_bytes": None if record.model_bytes is None else int(record.model_bytes),
        "build_s": _finite("build_s", record.build_s),
        "measure_s": _finite("measure_s", record.measure_s),
        "stage_s": {k: _finite(f"stage_s.{k}", v) for k, v in record.stage_s.items()},
        "cached": list(record.cached),
        "flags": list(record.flags),
        "device": storable_text(record.device),
        "versions": dict(record.versions),
        "started_at": record.started_at,
        "finished_at": record.finished_at,
    }


def candidate_values(candidate: Candidate) -> Values:
    """The knobs' columns, and the digest that equal candidates share."""
    return {**candidate.as_json(), "candidate_digest": candidate.digest}


def variant_values(variant: VariantInfo) -> Values:
    """The row of at_variants."""
    values = {**asdict(variant), "notes": list(variant.notes)}
    return {**values, "digest": digest_of(values)}


def measurement_values(record: TrialRecord) -> list[Values]:
    """One row of at_measurements for each Estimate that the record holds. Raises ValueError on a number that is not finite."""
    found = {name: (getattr(record, name), UNITS.get(name, "")) for name in ESTIMATES}
    found |= {metric: (getattr(record.latency_ms, name), UNITS[metric]) for metric, name in LATENCIES.items()}
    found |= {name: (getattr(record.load, name, None), UNITS.get(name, "")) for name in LOAD_ESTIMATES}
    return [
        {
            "metric": metric,
            **{k: _finite(f"{metric}.{k}", getattr(estimate, k)) for k in ("value", "low", "high")},
            "n": int(estimate.n),
            "method": estimate.method,
            "unit": unit,
        }
        for metric, (estimate, unit) in found.items()
        if estimate is not None
    ]


def load_values(record: TrialRecord) -> list[Values]:
    """The row of at_loads, if the trial was loaded. Raises ValueError on a number that is not finite."""
    if record.load is None:
        return []
    values = {name: getattr(record.load, name) for name in _LOAD_COLUMNS}
    return [{name: _finite(f"load.{name}", v) if isinstance(v, float) else v for name, v in values.items()}]


def load_from_row(row: RowMapping | None, estimates: Mapping[str, Estimate]) -> LoadFigures | None:
    """The figures that `load_values` described, None where there is no row."""
    if row is None:
        return None
    measured = {name: estimates.get(name) for name in LOAD_ESTIMATES}
    return LoadFigures(**{name: row[name] for name in _LOAD_COLUMNS}, **measured)  # type: ignore[arg-type]  # field names


_LOAD_COLUMNS = tuple(f.name for f in fields(LoadFigures) if f.name not in LOAD_ESTIMATES)


def telemetry_values(record: TrialRecord) -> list[Values]:
    """One row of at_telemetry per series; a sample that is not finite was not measured, and is left out."""
    rows = []
    for position, series in enumerate(record.telemetry):
        pairs = [(float(t), float(v)) for t, v in zip(series.t_s, series.values, strict=True)]
        pairs = [(t, v) for t, v in pairs if math.isfinite(t) and math.isfinite(v)]
        rows.append(
            {
                "position": position,
                "metric": series.metric,
                "unit": series.unit,
                "t_s": [t for t, _ in pairs],
                "samples": [v for _, v in pairs],
                "absent": None if series.absent is None else storable_text(series.absent),
            }
        )
    return rows


def series_from_row(row: RowMapping) -> Series:
    """The series that `telemetry_values` described."""
    return Series(
        metric=row["metric"], unit=row["unit"], t_s=tuple(row["t_s"]), values=tuple(row["samples"]), absent=row["absent"]
    )


def candidate_from_row(row: RowMapping) -> Candidate:
    """The candidate in a row of at_trials."""
    return Candidate.from_json({name: row[name] for name in KNOBS})


def record_from_rows(
    row: RowMapping,
    variant: VariantInfo | None,
    estimates: Mapping[str, Estimate],
    load: RowMapping | None,
    repetitions: tuple[Repetition, ...],
    regime: int,
) -> TrialRecord:
    """The record that was stored, without its telemetry, with what the study learnt of it since. `regime`: of its own load."""
    reported = {metric: found for metric, name in REPORTED.items() if (found := estimates.get(name)) is not None}
    measured = {name: estimates.get(name) for name in ESTIMATES}
    measured |= loaded_fields({metric: estimates.get(metric) for metric in LOADED}, reported)
    reject = Rejection(reason=row["reject_reason"], stage=row["reject_stage"], message=row["reject_message"])
    return TrialRecord(
        **{name: row[name] for name in _AS_THEY_ARE},
        candidate=candidate_from_row(row),
        reject=None if reject.reason is None else reject,
        load=load_from_row(load, estimates),
        variant=variant,
        agreement=Agreement.from_json(row["agreement"]),
        cached=tuple(row["cached"]),
        flags=(*row["flags"], *([FAILED_AGAIN] if any(r.state != "complete" for r in repetitions) else ())),
        regime=max((r.regime for r in repetitions if r.throughput_items_per_s), default=regime),
        repetitions=repetitions,
        **measured,  # type: ignore[arg-type]  # the names are fields of that type
    )


def _finite(name: str, value: float | None) -> float | None:
    if value is None:
        return None
    if not math.isfinite(value):
        raise ValueError(f"{name} is {value}; a number that was not measured must be None.")
    return float(value)


def storable_text(value: str) -> str:
    """PostgreSQL takes neither NUL nor half a surrogate pair, and a dying engine's log may hold both."""
    return value.encode("utf-8", "replace").decode().replace("\x00", "�")
