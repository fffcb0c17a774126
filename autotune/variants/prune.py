"""Structured channel pruning of an ONNX model: a dense, smaller model with the same inputs and outputs."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autotune.data.dataset import Dataset
from autotune.errors import BuildFailed, Unsupported
from autotune.spec.model import RecoverySpec
from autotune.variants.agreement import probe, require_agreement, tensors_of
from autotune.variants.channels import Prunable, prunable_groups, remove_channels
from autotune.variants.convert_torch import Network, onnx_from_torch, torch_from_onnx
from autotune.variants.graph import inputs_of, n_macs, n_params
from autotune.variants.recover import Lesson, Recovered, recover, same_width

if TYPE_CHECKING:
    from onnx import ModelProto

_STAGE = "prune"
_N_SCORED = 128
_SCORING_BATCH = 16
"""Means and variances per channel settle within some tens of images, each with many positions."""


def prune_model(
    source: Path,
    target: Path,
    *,
    ratio: float,
    recovery: RecoverySpec,
    data: Dataset | None,
    seed: int,
    report: Callable[[str], None],
    block: int = 8,
) -> tuple[str, ...]:
    """`target` is `source` without a share `ratio` of the channels of every group that can lose them, and recovered.

    Pruning is done in `recovery.steps` equal steps with `recovery.epochs` epochs on `data` after each; `recovery.max_s` is
    split over the steps. Widths are multiples of `block` where that is fair. Names, order and dynamic batch of inputs and
    outputs stay. Returns notes for people. Raises Unsupported with the obstacle where nothing, or less than half of what was
    asked, can be removed; Unstable where recovery diverges; BuildFailed where the written graph does not compute what the
    pruned module does.
    """
    import onnx

    if data is None and recovery.epochs > 0:
        raise Unsupported(
            "recovery after pruning needs data.train or data.calibration; without either set recovery.epochs: 0", stage=_STAGE
        )
    model = onnx.load(str(source))
    network = torch_from_onnx(model)
    inputs = probe(model, data)
    require_agreement(
        model, network, inputs, Unsupported("pruning: the graph's torch form computes something else", stage=_STAGE)
    )
    groups, obstacles = prunable_groups(network.module, network.layer_names(), inputs)
    if not groups:
        raise Unsupported(f"pruning: no layer can lose channels; {_listing(obstacles)}", stage=_STAGE)
    outcomes = _prune_in_steps(network, groups, inputs, ratio, recovery, data, seed, report, block)
    pruned = onnx_from_torch(network)
    _require_effect(model, pruned, ratio, obstacles)
    require_agreement(
        pruned, network, inputs, BuildFailed("pruning: the written graph differs from the pruned module", stage=_STAGE)
    )
    onnx.save_model(pruned, str(target))
    return _notes(groups, obstacles, outcomes, recovery, data)


def _prune_in_steps(
    network: Network,
    groups: Sequence[Prunable],
    inputs: Sequence[Any],
    ratio: float,
    recovery: RecoverySpec,
    data: Dataset | None,
    seed: int,
    report: Callable[[str], None],
    block: int,
) -> list[Recovered]:
    teacher = copy.deepcopy(network.module).requires_grad_(False)
    deadline = time.monotonic() + recovery.max_s
    outcomes = []
    for step in range(1, recovery.steps + 1):
        samples = _scoring_batches(network.model, data)
        remove_channels(network.module, inputs, groups, ratio * step / recovery.steps, samples, block)
        report(f"pruned to {ratio * step / recovery.steps:.0%}, step {step} of {recovery.steps}")
        if recovery.epochs == 0 or data is None:
            continue
        lesson = Lesson(data=data, inputs=inputs_of(network.model), layers=same_width(network.module, teacher))
        share_s = (deadline - time.monotonic()) / (recovery.steps - step + 1)
        outcome = recover(network.module, teacher, lesson, recovery, seed=seed + step, max_s=max(share_s, 1e-3))
        report(f"trained for {outcome.epochs:.3g} epochs, loss {outcome.loss_before:.3g} → {outcome.loss:.3g}")
        outcomes.append(outcome)
    return outcomes


def _scoring_batches(model: ModelProto, data: Dataset | None) -> Iterator[tuple[Any, ...]]:
    """Batches of evenly spread samples on which channels are compared; none without data."""
    if data is not None:
        chosen = np.linspace(0, len(data) - 1, min(len(data), _N_SCORED)).round().astype(np.intp)
        for start in range(0, len(chosen), _SCORING_BATCH):
            yield tensors_of(model, data.take(chosen[start : start + _SCORING_BATCH]))


def _require_effect(model: ModelProto, pruned: ModelProto, ratio: float, obstacles: Sequence[str]) -> None:
    """Raises Unsupported when neither parameters nor multiply-accumulates went down by at least half of `ratio`."""
    params = 1 - n_params(pruned) / n_params(model)
    before, after = n_macs(model), n_macs(pruned)
    macs = 1 - after / before if before and after is not None else 0.0
    if max(params, macs) < ratio / 2:
        raise Unsupported(
            f"pruning: a ratio of {ratio:g} removes only {params:.1%} of the parameters and {macs:.1%} of the "
            f"multiply-accumulates; {_listing(obstacles)}",
            stage=_STAGE,
        )


def _notes(
    groups: Sequence[Prunable],
    obstacles: Sequence[str],
    outcomes: Sequence[Recovered],
    recovery: RecoverySpec,
    data: Dataset | None,
) -> tuple[str, ...]:
    notes = [f"{len(groups)} groups of layers pruned, {len(obstacles)} left alone"]
    done = sum(o.epochs for o in outcomes)
    if data is not None and outcomes:
        asked = recovery.epochs * recovery.steps
        early = "" if done >= asked else f" of {asked}: stopped by recovery.max_s={recovery.max_s:g}"
        undone = sum(not o.helped for o in outcomes)
        if undone:
            notes.append(f"{undone} of {len(outcomes)} recovery steps did not come nearer to the original and were undone")
        notes.append(f"recovered for {done:.3g} epochs{early} on {len(data)} samples, the original model as teacher")
    else:
        notes.append("not recovered")
    return tuple(notes)


def _listing(obstacles: Sequence[str]) -> str:
    shown = "; ".join(obstacles[:5])
    return (
        f"left alone: {shown}{f'; and {len(obstacles) - 5} more' if len(obstacles) > 5 else ''}"
        if obstacles
        else "no more is left"
    )
