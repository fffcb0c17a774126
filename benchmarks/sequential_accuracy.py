"""How many samples an early rejection takes, and how often it is wrong: variants with a stated truth, and real scores.

    python benchmarks/sequential_accuracy.py --data ../shared/data/imagenet --out benchmarks/results/sequential_accuracy.json

Nothing here is a timing, so it may run on a busy machine. Two parts:

1. 10,000 simulated variants of a model with N validation samples of which it gets 78 % right. A variant loses and wins exact
   numbers of samples, so its drop on the full set is known: a fifth of the variants lie at the limit exactly, a fifth below it
   from −2 points on, the others above it up to 20 points. Wins are what int8 variants of real models show, 0.2 to 4 % of the
   samples, losses the wins and the drop. Each variant is visited in a random order of its own, and judged by
   * `sequential`: the product's own test (autotune.bench.sequential), with the product's looks;
   * `full_set`: all samples, as without early stop: never wrong, N samples each;
   * `naive_mcnemar`: McNemar's exact one-sided test of "no drop" at each look, at the same error rate uncorrected;
   * `naive_limit`: a one-sided z test of "the drop is at most the limit" at each look, uncorrected.
   A variant within the limit that is rejected before its last sample is an error.
2. With --data (mobilenet_v2_1.0_224.onnx, images/, labels.csv): MobileNetV2 in fp32, int8 and int8-tensor on ONNX Runtime,
   measured on every sample; then their real paired scores in 1,000 random orders: samples until the rejection, if any.

Deterministic for a seed. Needs for --data: pip install 'autotune[onnxruntime]'
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import tempfile
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotune.bench.sequential import DropTest
from autotune.bench.statistics import p_of_losses, share_estimate
from autotune.bench.visit import next_look, visiting_order

LIMIT, ERROR_RATE = 0.01, 0.01
RIGHT = 0.78
BINS = (-0.02, 0.0, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.2001)
STUDY = """
study: sequential-accuracy
model: {{path: {data}/mobilenet_v2_1.0_224.onnx}}
data:
  validation: {{images: {data}/images, labels: {data}/labels.csv, split: val}}
  calibration: {{images: {data}/images, labels: {data}/labels.csv, split: calib}}
  preprocess: {{scale: 0.00784313725, mean: [1, 1, 1], std: [1, 1, 1]}}
  metric: top1
engines: [onnxruntime]
space: {{extends: cpu-runtime, precision: [fp32, int8, int8-tensor]}}
accuracy: {{early_stop: off}}
cache: {cache}
"""
Scores = NDArray[np.float64]


def main() -> None:
    """Runs both parts and writes one JSON file."""
    arguments = _arguments()
    document: dict[str, Any] = {
        "what": "simulated variants with a stated truth, and real paired scores in random orders; no timings",
        "limit": LIMIT,
        "error_rate": ERROR_RATE,
        "seed": arguments.seed,
        "simulated": simulated(arguments.variants, arguments.samples, arguments.seed),
    }
    if arguments.data:
        document["real"] = replayed(Path(arguments.data).resolve(), arguments.orders, arguments.seed, arguments.work)
    text = json.dumps(document, indent=1) + "\n"
    if arguments.out:
        Path(arguments.out).parent.mkdir(parents=True, exist_ok=True)
        Path(arguments.out).write_text(text)
    print(text)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder of MobileNetV2 and its images; without it only the simulation runs")
    parser.add_argument("--out")
    parser.add_argument("--work", help="folder for variants and engines; default: a temporary one")
    parser.add_argument("--variants", type=int, default=10_000)
    parser.add_argument("--samples", type=int, default=5_000, help="validation samples of the simulated model")
    parser.add_argument("--orders", type=int, default=1_000, help="random orders of the real scores")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def looks(n: int, step: int = 16) -> Iterator[int]:
    """The product's looks when 16 samples run at once, the last sample's left out."""
    done = 0
    while (done := next_look(done, n, step)) < n:
        yield done


def sequential(reference: Scores, variant: Scores) -> int | None:
    """After how many samples, fewer than all, the product's test rejects; None where it does not. In the order of the visit.

    It never takes a rejection back, so the first look that rejects is found by bisection.
    """
    test = DropTest(reference=reference, score_range=(0.0, 1.0), limit=LIMIT, error_rate=ERROR_RATE)
    at = list(looks(len(reference)))
    first = bisect_left(at, True, key=lambda t: test.rejects(variant[:t]))
    return at[first] if first < len(at) else None


def naive_mcnemar(reference: Scores, variant: Scores) -> int | None:
    """The first look at which McNemar's exact one-sided test of "no drop" rejects, as if it were the only look."""
    lost, won = np.cumsum(reference > variant), np.cumsum(variant > reference)
    return next((t for t in looks(len(reference)) if p_of_losses(int(lost[t - 1]), int(won[t - 1])) < ERROR_RATE), None)


def naive_limit(reference: Scores, variant: Scores) -> int | None:
    """The first look at which a one-sided z test of "the drop is at most the limit" rejects, as if it were the only look."""
    d, quantile = reference - variant, NormalDist().inv_cdf(1 - ERROR_RATE)
    sums, squares = np.cumsum(d), np.cumsum(d * d)
    for t in looks(len(d)):
        mean = float(sums[t - 1]) / t
        variance = (float(squares[t - 1]) - t * mean * mean) / (t - 1)
        if mean - LIMIT > quantile * math.sqrt(variance / t):
            return t
    return None


TESTS = {"sequential": sequential, "naive_mcnemar": naive_mcnemar, "naive_limit": naive_limit}


def simulated(n_variants: int, n: int, seed: int) -> dict[str, Any]:
    """Error rates and samples used over variants with known drops."""
    rng = np.random.default_rng(seed)
    drops = np.empty(n_variants)
    stops = {name: np.full(n_variants, n) for name in TESTS}
    rejected = {name: np.zeros(n_variants, dtype=bool) for name in TESTS}
    for i in range(n_variants):
        reference, variant = _variant(i, n, rng)
        drops[i] = np.sum(reference - variant) / n
        for name, test in TESTS.items():
            found = test(reference, variant)
            if found is not None:
                stops[name][i], rejected[name][i] = found, True
    within = drops <= LIMIT
    result: dict[str, Any] = {"n_variants": n_variants, "n_samples": n, "n_within": int(within.sum())}
    result["tests"] = {
        name: {
            "wrongly_rejected": _share(rejected[name][within]),
            "wrongly_rejected_at_the_limit": _share(rejected[name][drops == LIMIT]),
            "rejected_early_of_hopeless": _share(rejected[name][~within]),
            "mean_samples": {"within": float(stops[name][within].mean()), "hopeless": float(stops[name][~within].mean())},
            "by_drop": _by_drop(drops, stops[name], rejected[name]),
        }
        for name in stops
    }
    result["tests"]["full_set"] = {"wrongly_rejected": _share(np.zeros(int(within.sum()), dtype=bool)), "mean_samples": n}
    return result


def _variant(i: int, n: int, rng: np.random.Generator) -> tuple[Scores, Scores]:
    """Scores of the model and of a variant in a random order; the variant's drop is a whole number of samples."""
    n_right = round(RIGHT * n)
    kind = i % 5
    drop = LIMIT if kind == 0 else rng.uniform(-0.02, LIMIT) if kind == 1 else rng.uniform(LIMIT, 0.2)
    n_drop = math.floor(drop * n) if kind < 2 else max(math.ceil(drop * n), math.floor(LIMIT * n) + 1)
    won = max(round(rng.uniform(0.002, 0.04) * n), -n_drop)
    reference, variant = np.zeros(n), np.zeros(n)
    reference[:n_right] = 1
    variant[won + n_drop : n_right] = 1
    variant[n_right : n_right + won] = 1
    order = rng.permutation(n)
    return reference[order], variant[order]


def _by_drop(drops: NDArray[np.float64], stops: NDArray[np.int64], rejected: NDArray[np.bool_]) -> list[dict[str, Any]]:
    rows = []
    for low, high in itertools.pairwise(BINS):
        inside = (drops > low) & (drops <= high) if low >= LIMIT else (drops >= low) & (drops <= high)
        if inside.any():
            q = np.quantile(stops[inside], [0.5, 0.9])
            rows.append(
                {
                    "drop": [low, min(high, 0.2)],
                    "n": int(inside.sum()),
                    "rejected_early": float(rejected[inside].mean()),
                    "samples_median": float(q[0]),
                    "samples_p90": float(q[1]),
                }
            )
    return rows


def _share(hits: NDArray[np.bool_]) -> dict[str, float | int]:
    found = share_estimate(int(hits.sum()), len(hits))
    return {"value": found.value, "low": found.low, "high": found.high, "n": found.n}


def replayed(data: Path, orders: int, seed: int, work: str | None) -> dict[str, Any]:
    """Real paired scores of MobileNetV2 on ONNX Runtime, visited in the product's order and in random ones."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(work or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        scores, digest = _measured(data, folder)
    reference = scores.pop("fp32")
    n, rng = len(reference), np.random.default_rng(seed)
    own = visiting_order(digest, n)
    permutations = [rng.permutation(n) for _ in range(orders)]
    document: dict[str, Any] = {"model": "mobilenet_v2_1.0_224", "engine": "onnxruntime", "n_samples": n, "variants": {}}
    document["reference_top1"] = float(reference.mean())
    for name, variant in scores.items():
        found = [sequential(reference[p], variant[p]) for p in permutations]
        stops = [t for t in found if t is not None]
        document["variants"][name] = {
            "top1": float(variant.mean()),
            "lost": int(np.sum(reference > variant)),
            "won": int(np.sum(variant > reference)),
            "drop": float(np.sum(reference - variant) / n),
            "hopeless": bool(np.sum(reference - variant) / n > LIMIT),
            "samples_in_the_products_order": sequential(reference[own], variant[own]),
            "orders": orders,
            "rejected_early": len(stops) / orders,
            "samples": None
            if not stops
            else {k: float(np.quantile(stops, q)) for k, q in (("median", 0.5), ("p95", 0.95), ("max", 1))},
        }
    return document


def _measured(data: Path, folder: Path) -> tuple[dict[str, Scores], str]:
    """The top-1 score of every validation sample by precision, and the digest of the samples."""
    from autotune.cli.running import checked_plan
    from autotune.study.apart import run_apart
    from autotune.study.lock import device_lock
    from autotune.trial.isolation import TrialProcess
    from autotune.trial.known_accuracy import known_answers, per_sample
    from autotune.trial.stages import bound_split

    study = folder / "study.yaml"
    study.write_text(STUDY.format(data=data, cache=folder / "cache"))
    plan = checked_plan(str(study))
    found: dict[str, Scores] = {}
    with TrialProcess(plan.preload) as process, device_lock(plan.lock_name):
        for precision in ("fp32", "int8", "int8-tensor"):
            candidate = replace(plan.reference, precision=precision, batch_size=8)
            record = run_apart(plan, process, candidate, with_load=False)
            if record.scores_key is None:
                raise SystemExit(f"{precision} could not be measured: {record.reject}")
            found[precision] = per_sample(known_answers(plan.cache, record.scores_key).scores)
    return found, bound_split(plan.spec, plan.spec.data.validation, plan.cache).digest


if __name__ == "__main__":
    main()
