"""What recorded tables say of the constants that a search expects throughput by (autotune/study/expectations.py).

    python benchmarks/expectations.py --out benchmarks/results/expectations.json

Of each table the effects are fitted by least squares to the logarithm of its points' throughputs, in fp32 and 8-bit integers.
Printed beside the constants: the fits' mean and range over the tables, `left`, the standard deviation of what a table's own
fit does not explain, and `best_openvino_over_onnxruntime`, the fastest unpruned int8 of the one over that of the other. By
default the tables of benchmarks/tables/development, on which settings are chosen; nothing is timed here.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np

from autotune.search.encoding import Params
from autotune.simulator.table import Point, SweepTable
from autotune.simulator.table_file import load_table
from autotune.space.capability import SearchSpace
from autotune.space.sampling import params_from_candidate
from autotune.study.expectations import EFFECTS, amounts


def main() -> None:
    """Fits every table, and writes and prints what they have in common."""
    arguments = _arguments()
    tables = {path.name.removesuffix(".json.gz"): load_table(path) for path in sorted(arguments.tables.glob("*.json.gz"))}
    if not tables:
        sys.exit(f"{arguments.tables} holds no tables; record some: python benchmarks/record_sweeps.py --data FOLDER")
    fits = {name: fitted(table) for name, table in tables.items()}
    found = {name: [fit["effects"][name] for fit in fits.values() if name in fit["effects"]] for name in EFFECTS}
    document = {
        "effects": {
            name: {"expected": EFFECTS[name], "mean": statistics.mean(each), "min": min(each), "max": max(each)}
            for name, each in found.items()
            if each
        },
        "tables": fits,
    }
    if arguments.out:
        arguments.out.write_text(json.dumps(document, indent=2) + "\n")
    print(json.dumps(document, indent=2))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, default=Path(__file__).resolve().parent / "tables" / "development")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def fitted(table: SweepTable) -> dict[str, Any]:
    """The effects that explain a table best; of what all of its points have in common nothing can be said."""
    measured = [p for p in table.points if p.loads and (p.candidate.precision == "fp32" or _is_int8(p))]
    rows = [amounts(_params(p, table.space()), table.device.cores) for p in measured]
    names = [name for name in EFFECTS if len({row[name] for row in rows}) > 1]
    design = np.array([[1.0, *(row[name] for name in names)] for row in rows])
    logarithms = np.log([p.items_per_s for p in measured])
    weights = np.linalg.lstsq(design, logarithms, rcond=None)[0]
    best = {e: max((p.items_per_s for p in measured if _is_plain_int8(p, e)), default=math.nan) for e in _ENGINES}
    ratio = best["openvino"] / best["onnxruntime"]
    return {
        "points": len(measured),
        "effects": dict(zip(names, weights[1:].tolist(), strict=True)),
        "left": float(np.std(logarithms - design @ weights)),
        "best_openvino_over_onnxruntime": None if math.isnan(ratio) else ratio,
    }


def _params(point: Point, space: SearchSpace) -> Params:
    params = params_from_candidate(point.candidate, space)
    if params is None:
        sys.exit(f"{point.candidate} is no point of its table's own space")
    return params


_ENGINES = ("onnxruntime", "openvino")


def _is_int8(point: Point) -> bool:
    return str(point.candidate.precision).startswith("int8")


def _is_plain_int8(point: Point, engine: str) -> bool:
    return point.candidate.engine == engine and _is_int8(point) and not point.candidate.pruning_ratio


if __name__ == "__main__":
    main()
