"""The stages of a trial as the cost-aware search sees them: what shares a result, and what does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution
from study_samples import study

from autotune.candidate import Choices
from autotune.search.costs import Costs
from autotune.search.encoding import Encoding
from autotune.search.history import History, Seen, Stage
from autotune.space.capability import SearchSpace
from autotune.space.sampling import PAIR
from autotune.study.cost_aware import factors_of, stages_of
from autotune.study.plan import make_plan

PAIRS = (("onnxruntime", "fp32"), ("openvino", "fp32"), ("onnxruntime", "int8"), ("openvino", "int8"), ("tensorrt", "int8"))
SCHEMES = {("tensorrt", "int8"): "int8 s8-sym@products/fp16"}


def stage(name: str, graphs: dict[tuple[str, str], str]) -> Stage:
    """That stage of a study of five pairs whose engines are built for a batch."""
    engines = dict.fromkeys(("onnxruntime", "openvino", "tensorrt"))
    space = SearchSpace(
        pairs=PAIRS,
        domains={"pruning_ratio": Choices(values=(0.0, 0.5)), "batch_size": Choices(values=(1, 4))},
        knobs_of=dict.fromkeys(engines, frozenset({"batch_size"})),
        defaults_of={name: {} for name in engines},
        removed=(),
        build_knobs_of=dict.fromkeys(engines, frozenset({"batch_size"})),
        graphs=graphs,
    )
    return next(s for s in stages_of(replace(make_plan(study()), space=space)) if s.name == name)


def params(pair: str, **changes: Any) -> dict[str, Any]:
    return {PAIR: pair, "pruning_ratio": 0.0, "batch_size": 1} | changes


def test_a_variant_is_made_once_for_all_engines_of_its_scheme() -> None:
    """int8 for ONNX Runtime is int8 for OpenVINO, whatever the batch; TensorRT wants another graph, and a ratio has its own."""
    variant = stage("variant", {pair: SCHEMES.get(pair, pair[1]) for pair in PAIRS})
    made = variant.key_of(params("onnxruntime/int8"))
    assert variant.key_of(params("openvino/int8", batch_size=4)) == made
    others = [params("tensorrt/int8"), params("openvino/fp32"), params("openvino/int8", pruning_ratio=0.5)]
    assert all(variant.key_of(other) != made for other in others)


@pytest.mark.parametrize("name", ["engine", "accuracy"])
def test_engines_and_their_accuracy_are_shared_by_no_other_engine(name: str) -> None:
    """Though both are made from one variant."""
    found = stage(name, {pair: pair[1] for pair in PAIRS})
    assert found.key_of(params("onnxruntime/int8")) != found.key_of(params("openvino/int8"))


def test_where_nobody_says_what_a_pair_is_built_from_it_shares_nothing() -> None:
    """A table of which no point of a pair came to its variant does not say."""
    variant = stage("variant", {})
    assert variant.key_of(params("onnxruntime/int8")) != variant.key_of(params("openvino/int8"))


def test_a_cast_is_expected_to_cost_as_casts_do_and_a_calibration_as_calibrations() -> None:
    """Where fp32 was there in 0.1 s and int8 in 8 s for one engine, of the other engine's bf16 and int8-tensor.

    By hand, with the ridge 0.3: the logarithms lie 2.19 from their mean −0.11; what only the calibration tells of them is
    2.19 / 2.3 = 0.95, so 0.34 s and 2.3 s are expected. By engine and precision alone both would be 0.89.
    """
    pairs = ["onnxruntime/fp32", "onnxruntime/int8", "openvino/bf16", "openvino/int8-tensor"]
    encoding = Encoding({PAIR: CategoricalDistribution(pairs)}, factors={PAIR: factors_of})
    seen = [Seen(params={PAIR: p}, values={}, seconds={"variant": s}) for p, s in zip(pairs, (0.1, 8.0), strict=False)]
    known = Costs([Stage(name="variant", parameters=(PAIR,))], encoding, History(seen=seen), 0.0)
    found = known.of([{PAIR: p} for p in pairs[2:]], np.zeros(2))
    assert found.tolist() == pytest.approx([0.34, 2.3], rel=0.03)


@pytest.mark.parametrize(
    ("precision", "only_casts"),
    [
        ("fp32", True),
        ("amp-bf16", True),
        ("int8", False),
        ("fp8", False),
        ("int4", False),
        ("fp16-sparse", False),
        ("mx9", None),
    ],
)
def test_quantized_and_sparse_precisions_are_no_casts(precision: str, only_casts: bool | None) -> None:
    """An engine of another distribution, or of a table, may have a format that nobody here knows, which is of its own kind."""
    assert factors_of(f"box/{precision}") == ("box", precision, only_casts)
