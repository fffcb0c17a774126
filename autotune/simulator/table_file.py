"""A sweep's table as a file: gzipped JSON in columns, with its format and version; read without trusting it.

JSON, because it can hold nothing but data, and anybody can look into it: `zcat TABLE | python -m json.tool`. Numbers are kept
to five significant digits, well below any noise of a measurement. See docs/simulator.md for the fields.
"""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from autotune.candidate import KNOBS, Candidate
from autotune.errors import SpecError
from autotune.fingerprint import DeviceFingerprint
from autotune.records import Estimate, Rejection, TrialRecord
from autotune.simulator.table import ARTIFACTS, Artifact, EngineFacts, Load, Point, SweepTable
from autotune.simulator.table_checks import check_estimate, check_load, check_table, count, index, number
from autotune.spec.model import ConstraintsSpec, LoadSpec
from autotune.spec.positions import dotted

FORMAT, VERSION = "autotune-sweep", 1
MOST_BYTES = 64 << 20
"""Unpacked. A table of 10,000 points has 3 MB; whatever unpacks to more was not written here."""
_STATES = ("complete", "rejected", "crashed")
_LOAD = ("items_per_s", "half_width", "windows", "seconds", "p99_ms", "memory_mib", "energy_j")
_TIMES = ("open_s", "probe_s", "other_s")


def save_table(table: SweepTable, path: Path) -> None:
    """The table is at `path`, whole or not at all. The same table gives the same bytes."""
    text = json.dumps(document_of(table), separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with scratch.open("wb") as handle:
            # No name and no time in the header: they would change the bytes.
            with gzip.GzipFile(filename="", mode="wb", fileobj=handle, mtime=0) as packed:
                packed.write(text.encode())
            handle.flush()
            os.fsync(handle.fileno())
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def load_table(path: Path) -> SweepTable:
    """The table in the file. Raises SpecError saying what is wrong with it, and what to do."""
    try:
        with gzip.open(path, "rb") as handle:
            content = handle.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise SpecError(f"{path}: no such table; record one: autotune sweep STUDY.yaml --out {path}") from None
    except (OSError, EOFError, zlib.error) as exc:
        raise SpecError(f"{path}: found no whole gzip file ({exc}); allowed: a table written by `autotune sweep`") from exc
    if len(content) > MOST_BYTES:
        raise SpecError(f"{path}: unpacks to more than {MOST_BYTES >> 20} MiB; allowed: a table written by `autotune sweep`")
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as exc:
        raise SpecError(f"{path}: found no JSON ({exc}); allowed: a table written by `autotune sweep`") from exc
    return table_of(document, str(path))


def document_of(table: SweepTable) -> dict[str, Any]:
    """The JSON form."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "study": table.study,
        "model": dict(table.model),
        "device": asdict(table.device),
        "recorded": dict(table.recorded),
        "metric": table.metric,
        "objectives": list(table.objectives),
        "constraints": table.constraints.model_dump(mode="json", exclude_none=True),
        "load": table.load.model_dump(mode="json"),
        "price_per_hour": table.price_per_hour,
        "pairs": [list(p) for p in table.pairs],
        "values": {k: list(v) for k, v in table.values.items()},
        "engines": {
            name: {"knobs": sorted(e.knobs), "build_knobs": sorted(e.build_knobs), "defaults": dict(e.defaults)}
            for name, e in table.engines.items()
        },
        "priors": [c.as_json() for c in table.priors],
        "reference": table.reference.as_json(),
        "reference_artifacts": dict(table.reference_artifacts),
        "missing": table.missing,
        "artifacts": [_short(asdict(a)) for a in table.artifacts],
        **_columns(table.points),
    }


def _columns(points: Sequence[Point]) -> dict[str, Any]:
    rejects = list(dict.fromkeys(p.reject for p in points if p.reject is not None))
    return {
        "rejects": [asdict(r) for r in rejects],
        "points": {
            **{knob: column for knob in KNOBS if set(column := [getattr(p.candidate, knob) for p in points]) != {None}},
            "state": [_STATES.index(p.state) for p in points],
            "reject": [None if p.reject is None else rejects.index(p.reject) for p in points],
            **{f"row_of_{kind}": [p.artifacts.get(kind) for p in points] for kind in ARTIFACTS},
            **{name: [_digits(getattr(p, name)) for p in points] for name in _TIMES},
            "inferred": [int(p.inferred) for p in points],
            "n_loads": [len(p.loads) for p in points],
        },
        "loads": {name: [_digits(getattr(x, name)) for p in points for x in p.loads] for name in _LOAD},
    }


def _digits(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _short(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is None, numbers cut to the file's digits; estimates of accuracy keep all of theirs."""
    return {k: _digits(v) for k, v in values.items() if v is not None}


def table_of(document: Any, where: str) -> SweepTable:
    """The table that `document_of` described. Raises SpecError; `where` is the file's name in its message."""
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise SpecError(f'{where}: found no "format": "{FORMAT}"; allowed: a table written by `autotune sweep`')
    if document.get("version") != VERSION:
        raise SpecError(
            f"{where}: found a table of version {document.get('version')!r}; this autotune reads version {VERSION}. "
            "Record it again with `autotune sweep`, or use the version of autotune that wrote it"
        )
    try:
        table = _table(document)
        check_table(table)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as exc:
        raise SpecError(f"{where}: the table is damaged: {_what(exc)}; allowed: a table written by `autotune sweep`") from exc
    return table


def _what(exc: Exception) -> str:
    """One line on what is damaged."""
    if isinstance(exc, ValidationError):
        first = exc.errors(include_url=False)[0]
        return ": ".join(part for part in (dotted(first["loc"]), first["msg"]) if part)
    return f"no {exc}" if isinstance(exc, KeyError) else (str(exc) or type(exc).__name__).splitlines()[0]


def _table(d: Mapping[str, Any]) -> SweepTable:
    return SweepTable(
        study=str(d["study"]),
        model={k: str(v) for k, v in d["model"].items()},
        device=DeviceFingerprint.from_json(d["device"]),
        recorded=dict(d["recorded"]),
        metric=str(d["metric"]),
        objectives=tuple(d["objectives"]),
        constraints=ConstraintsSpec.model_validate(d["constraints"]),
        load=LoadSpec.model_validate(d["load"]),
        price_per_hour=d["price_per_hour"],
        pairs=tuple((str(e), str(p)) for e, p in d["pairs"]),
        values={k: tuple(v) for k, v in d["values"].items()},
        engines={
            name: EngineFacts(
                knobs=frozenset(e["knobs"]), build_knobs=frozenset(e["build_knobs"]), defaults=dict(e["defaults"])
            )
            for name, e in d["engines"].items()
        },
        priors=tuple(Candidate.from_json(c) for c in d["priors"]),
        reference=TrialRecord.from_json(d["reference"]),
        reference_artifacts=cast(Any, {k: index(v, len(d["artifacts"])) for k, v in d["reference_artifacts"].items()}),
        missing=count(d["missing"], "missing"),
        artifacts=tuple(_artifact(a, f"artifacts[{i}]") for i, a in enumerate(d["artifacts"])),
        points=_points(d),
    )


def _artifact(values: Mapping[str, Any], where: str) -> Artifact:
    estimates = {name: Estimate.from_json(values.get(name)) for name in ("accuracy", "drop")}
    for name, found in estimates.items():
        check_estimate(found, f"{where}.{name}")
    return Artifact(kind=values["kind"], seconds=number(values["seconds"], f"{where}.seconds", least=0), **estimates)


def _points(d: Mapping[str, Any]) -> tuple[Point, ...]:
    columns, rejects = d["points"], [Rejection(**r) for r in d["rejects"]]
    n = len(columns["state"])
    if any(len(column) != n for column in columns.values()):
        raise ValueError("its columns differ in length")
    loads = _loads(d["loads"])
    found, at = [], 0
    for i in range(n):
        n_loads = index(columns["n_loads"][i], len(loads) - at + 1)
        rows = {kind: columns[f"row_of_{kind}"][i] for kind in ARTIFACTS}
        reject = columns["reject"][i]
        found.append(
            Point(
                candidate=Candidate.from_json({knob: columns[knob][i] if knob in columns else None for knob in KNOBS}),
                state=cast(Any, _STATES[index(columns["state"][i], len(_STATES))]),
                reject=None if reject is None else rejects[index(reject, len(rejects))],
                artifacts=cast(Any, {k: index(row, len(d["artifacts"])) for k, row in rows.items() if row is not None}),
                loads=loads[at : at + n_loads],
                inferred=bool(columns["inferred"][i]),
                **{name: number(columns[name][i], f"points.{name}[{i}]", least=0) for name in _TIMES},
            )
        )
        at += n_loads
    if at != len(loads):
        raise ValueError(f"it has {len(loads)} loads, of which its points name {at}")
    return tuple(found)


def _loads(columns: Mapping[str, Sequence[Any]]) -> tuple[Load, ...]:
    rows = zip(*(columns[name] for name in _LOAD), strict=True)
    found = tuple(Load(**dict(zip(_LOAD, row, strict=True))) for row in rows)
    for row, load in enumerate(found):
        check_load(load, row)
    return found
