"""2:4 sparsity: of every four consecutive input channels, an output's weights keep the two largest. For sparse tensor cores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from autotune.data.dataset import Dataset
from autotune.errors import BuildFailed, EnvironmentProblem, Unsupported
from autotune.spec.model import RecoverySpec
from autotune.variants.agreement import probe, require_agreement
from autotune.variants.convert_torch import Network, onnx_from_torch, torch_from_onnx
from autotune.variants.graph import inputs_of, macs_by_node
from autotune.variants.placement import Product, placement_of
from autotune.variants.recover import Lesson, recover, same_width

if TYPE_CHECKING:
    from onnx import ModelProto

_STAGE = "sparse"
_IN_BLOCK, _OUT_BLOCK = 16, 8
"""Layers that NVIDIA's Automatic SParsity (apex.contrib.sparsity) sparsifies: input channels in 16s, output channels in 8s."""


def sparse_obstacle(product: Product) -> str:
    """Why a layer stays dense; empty where sparse tensor cores have the shapes for it."""
    if product.kind == "ConvTranspose" or product.groups != 1:
        return "sparse kernels are for convolutions without groups and for matrix products"
    if product.n_in % _IN_BLOCK or product.n_out % _OUT_BLOCK:
        return f"{product.n_in} input and {product.n_out} output channels are no multiples of {_IN_BLOCK} and {_OUT_BLOCK}"
    return ""


def sparsify_model(
    source: Path,
    target: Path,
    *,
    recovery: RecoverySpec,
    data: Dataset | None,
    seed: int,
    report: Callable[[str], None],
) -> tuple[str, ...]:
    """`target` is `source` with 2:4 weights in the layers that allow it, and recovered on `data` where there is any.

    The fp32 graph keeps its shape: only zeros are new. An engine gains where it is told to look for them (TensorRT's
    SPARSE_WEIGHTS). Recovery trains the other weights for `recovery.epochs` × `recovery.steps` with the dense model as
    teacher; the zeros stay. Returns notes, with the share of multiply-accumulates in sparse layers. Raises Unsupported where
    no layer qualifies, Unstable where recovery diverges.
    """
    import onnx

    model = onnx.load(str(source))
    placement = placement_of(model, sparse_obstacle)
    if not placement.products:
        shown = "; ".join(f"{node}: {why}" for node, why in list(placement.kept.items())[:3]) or "no layer has weights"
        raise Unsupported(f"2:4 sparsity: no layer qualifies; {shown}", stage=_STAGE)
    sparse = _masked(model, placement.products)
    sparse, note = _recovered(model, sparse, placement.products, recovery, data, seed, report)
    onnx.save_model(sparse, str(target))
    counts: Mapping[str, int | None] = dict(macs_by_node(sparse))
    total = sum(c or 0 for c in counts.values())
    share = sum(counts[p.node] or 0 for p in placement.products) / total if total else 0.0
    n_layers = len(placement.products) + len(placement.kept)
    return (f"2:4 zeros in {len(placement.products)} of {n_layers} layers with {share:.1%} of the multiply-accumulates", note)


def keep_two_of_four(weights: NDArray[np.floating], axis: int) -> NDArray[np.bool_]:
    """True for the two largest magnitudes of every four consecutive entries along `axis`; the first ones among equals."""
    moved = np.moveaxis(weights, axis, -1)
    fours = np.abs(moved).reshape(*moved.shape[:-1], -1, 4)
    chosen = np.argsort(-fours, axis=-1, kind="stable")[..., :2]
    kept = np.zeros(fours.shape, np.bool_)
    np.put_along_axis(kept, chosen, True, axis=-1)
    return np.moveaxis(kept.reshape(moved.shape), -1, axis)


def _masked(model: ModelProto, products: tuple[Product, ...]) -> ModelProto:
    import onnx
    from onnx import numpy_helper

    masked = onnx.ModelProto()
    masked.CopyFrom(model)
    tensors = {t.name: t for t in masked.graph.initializer}
    for product in products:
        weights = numpy_helper.to_array(tensors[product.weight])
        zeroed = weights * keep_two_of_four(weights, 1 - product.axis)
        tensors[product.weight].CopyFrom(numpy_helper.from_array(zeroed.astype(weights.dtype), product.weight))
    return masked


def _recovered(
    dense: ModelProto,
    sparse: ModelProto,
    products: tuple[Product, ...],
    spec: RecoverySpec,
    data: Dataset | None,
    seed: int,
    report: Callable[[str], None],
) -> tuple[ModelProto, str]:
    """The sparse graph after training, with a note; as it is where training is off, or cannot be."""
    if spec.epochs == 0 or data is None:
        return sparse, "not recovered: " + ("recovery.epochs is 0" if data is not None else "no data.train or data.calibration")
    try:
        teacher, student = torch_from_onnx(dense), torch_from_onnx(sparse)
    except (Unsupported, EnvironmentProblem) as exc:
        return sparse, f"not recovered: {exc}"
    inputs = probe(sparse, data)
    failure = BuildFailed("2:4 sparsity: the graph's torch form computes something else", stage=_STAGE)
    require_agreement(sparse, student, inputs, failure)
    _freeze_zeros(student, {p.node for p in products})
    teacher.module.requires_grad_(False)
    lesson = Lesson(data=data, inputs=inputs_of(sparse), layers=same_width(student.module, teacher.module))
    longer = spec.model_copy(update={"epochs": spec.epochs * spec.steps})
    outcome = recover(student.module, teacher.module, lesson, longer, seed=seed, max_s=spec.max_s)
    report(f"trained for {outcome.epochs:.3g} epochs, loss {outcome.loss_before:.3g} → {outcome.loss:.3g}")
    if not outcome.helped:
        return sparse, "not recovered: training did not come nearer to the dense model and was undone"
    written = onnx_from_torch(student)
    require_agreement(written, student, inputs, BuildFailed("2:4 sparsity: the written graph differs", stage=_STAGE))
    return written, f"recovered for {outcome.epochs:.3g} epochs on {len(data)} samples, the dense model as teacher"


def _freeze_zeros(network: Network, names: set[str]) -> None:
    """Weights of the named layers that are zero now have no gradient, so that Adam leaves them."""
    nodes = network.model.graph.node
    for layer, index in network.sites.items():
        if nodes[index].name in names:
            layer.weight.register_hook(_times((layer.weight.detach() != 0).to(layer.weight.dtype)))


def _times(mask: Any) -> Callable[[Any], Any]:
    return lambda gradient: gradient * mask
