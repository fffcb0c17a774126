"""Which channels of a torch module can be removed together, found out by removing them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autotune.variants.importance import contributions, keep_means, readings

_MAX_SHIFT = 1 / 16
"""A width is rounded to a block of channels (else half of it, and so on to 2) where that moves it by no more than this share of
the layer's width: kernels work on whole blocks, and a ragged width costs as much as the next full one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prunable:
    """A set of coupled layers, known by the torch layer at its root, with the width it had before pruning."""

    root: Any
    width: int


def kept_width(width: int, ratio: float, block: int = 8) -> int:
    """Channels that stay when a share `ratio` of `width` is to go: at least 1, a multiple of `block` where that is fair.

    `block`: a power of two, `devices.precision.channel_block`.
    """
    exact = width * (1 - ratio)
    for unit in (block >> i for i in range(block.bit_length() - 1)):
        rounded = round(exact / unit) * unit
        if 0 < rounded < width and abs(rounded - exact) <= _MAX_SHIFT * width:
            return rounded
    return max(1, min(width, round(exact)))


def dependency_graph(module: Any, inputs: Sequence[Any]) -> Any:
    """torch-pruning's dependency graph of the module, traced on `inputs`."""
    import torch
    import torch_pruning as tp

    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")
        return tp.DependencyGraph().build_dependency(module, example_inputs=tuple(inputs))


def prunable_groups(module: Any, layers: Mapping[Any, str], inputs: Sequence[Any]) -> tuple[list[Prunable], list[str]]:
    """The groups whose channels can be removed, and the obstacle of each other group.

    Each group is tried: half of its channels are removed, and the result must equal, on `inputs`, that of the whole
    module whose consumers read zeros in their place. This finds shapes that are written into the graph (a Reshape, a Pad of
    channels), mixing across channels (normalization over them), and the model's own outputs, without a list of operations.
    `layers`: those whose weights can be written back, with their names. The module is unchanged afterwards.
    """
    import torch

    graph = dependency_graph(module, inputs)
    found, obstacles = [], []
    with torch.no_grad():
        before = _outputs(module, inputs)
        for group in _all_groups(graph):
            root = group[0].dep.target.module
            obstacle = _static_obstacle(graph, group, layers) or _trial_obstacle(module, graph, group, inputs, before)
            if obstacle is None:
                found.append(Prunable(root=root, width=graph.get_out_channels(root)))
            else:
                obstacles.append(f"{layers.get(root, type(root).__name__)}: {obstacle}")
    return found, obstacles


def remove_channels(
    module: Any,
    inputs: Sequence[Any],
    groups: Sequence[Prunable],
    ratio: float,
    samples: Iterable[Sequence[Any]] = (),
    block: int = 8,
) -> None:
    """Every group keeps `kept_width` of its channels: those that contribute most on `samples`, batches of model inputs.

    The mean of what the others contributed is kept in the biases of the layers that read them.
    """
    graph = dependency_graph(module, inputs)
    read = readings(module, samples)
    for prunable in groups:
        width = graph.get_out_channels(prunable.root)
        n_removed = width - kept_width(prunable.width, ratio, block)
        if n_removed <= 0:
            continue
        scores = contributions(graph, _group(graph, prunable.root, range(width)), read, width)
        # Ties are broken by index, so that equal requests remove equal channels.
        order = sorted(range(width), key=lambda i: (float(scores[i]), i))
        part = _group(graph, prunable.root, order[:n_removed])
        keep_means(graph, part, read)
        part.prune()
        read = {layer: found for layer, found in read.items() if layer.weight.shape[1] == len(found.mean)}


def _all_groups(graph: Any) -> list[Any]:
    from torch import nn

    return list(graph.get_all_groups(root_module_types=[nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear]))


def _group(graph: Any, root: Any, channels: Sequence[int]) -> Any:
    pruner = graph.get_pruner_of_module(root)
    return graph.get_pruning_group(root, pruner.prune_out_channels, list(channels))


def _static_obstacle(graph: Any, group: Any, known: Mapping[Any, str]) -> str | None:
    from torch import nn

    root = group[0].dep.target.module
    if graph.get_out_channels(root) < 2:
        return "one channel only"
    for dep, _ in group:
        layer = dep.target.module
        if isinstance(layer, nn.Parameter):
            return "a constant tensor is tied to its channels"
        if any(True for _ in layer.parameters(recurse=False)) and layer not in known:
            return f"{type(layer).__name__} cannot be written back"
        if 1 < getattr(layer, "groups", 1) < getattr(layer, "out_channels", 0):
            return "a grouped convolution reads its channels"
    return "a residual stream" if _is_residual_stream(graph, group) else None


def _is_residual_stream(graph: Any, group: Any) -> bool:
    """True when several layers add into the same channels.

    Streams keep their width: they carry every block's result, and recovery compares them with the original's. MobileNetV2 at
    ratio 0.1, by weight norm: 53 % top-1 after 2 epochs on 200 images with its streams whole (264 M MACs), 0.5 % after 2×3
    epochs with them pruned (246 M MACs). The runs differ in batch size and size too, so only the gap's order is meant.
    """
    from torch import nn

    writers = {
        id(dep.target.module)
        for dep, _ in group
        if isinstance(dep.target.module, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.Linear)
        and graph.is_out_channel_pruning_fn(dep.handler)
        and getattr(dep.target.module, "groups", 1) == 1
    }
    return len(writers) > 1 and any("AddBackward" in str(dep.target.name) for dep, _ in group)


def _trial_obstacle(module: Any, graph: Any, group: Any, inputs: Sequence[Any], before: list[Any]) -> str | None:
    """None when removing every second channel equals silencing it; else what happened. The module is restored."""
    root = group[0].dep.target.module
    saved = [(m, dict(m.__dict__), dict(m._parameters), dict(m._buffers)) for m in module.modules()]
    try:
        part = _group(graph, root, range(0, graph.get_out_channels(root), 2))
        _silence_consumers(graph, part)
        expected = _outputs(module, inputs)
        part.prune()
        found = _outputs(module, inputs)
    except Exception as exc:  # any failure of the smaller module is the answer
        return f"without some channels the graph does not run ({(str(exc).splitlines() or [type(exc).__name__])[0]})"
    finally:
        for layer, attributes, parameters, buffers in saved:
            layer.__dict__.update(attributes)
            layer.__dict__["_parameters"] = parameters
            layer.__dict__["_buffers"] = buffers
    if [o.shape for o in found] != [o.shape for o in before]:
        return "its channels are the model's output"
    scale = max(float(o.abs().max()) for o in before) or 1.0
    if any(float((f - e).abs().max()) > 1e-4 * scale for f, e in zip(found, expected, strict=True)):
        return "its channels do not act independently of each other"
    return None


def _silence_consumers(graph: Any, group: Any) -> None:
    """The layers that read the group's channels read zeros there: a copy of their weights has zeros."""
    from torch import nn

    for dep, channels in group:
        layer = dep.target.module
        if not graph.is_in_channel_pruning_fn(dep.handler) or not hasattr(layer, "weight"):
            continue
        if getattr(layer, "groups", 1) > 1 or isinstance(layer, nn.modules.batchnorm._BatchNorm):
            continue
        weight = layer.weight.detach().clone()
        axis = 0 if getattr(layer, "transposed", False) else 1
        weight.index_fill_(axis, _index(channels), 0.0)
        layer.weight = nn.Parameter(weight)


def _index(channels: Sequence[int]) -> Any:
    import torch

    return torch.as_tensor(list(channels), dtype=torch.long)


def _outputs(module: Any, inputs: Sequence[Any]) -> list[Any]:
    found = module(*inputs)
    return [o.clone() for o in (found if isinstance(found, list | tuple) else [found])]
