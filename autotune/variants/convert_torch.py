"""An ONNX graph as a torch module, and the module's changed weights written back into that same graph.

What is pruned and tuned is the graph that will be deployed, not a second export of it: torch's exporters turn an ONNX import
into another graph (slices with computed bounds, pads with computed sizes), which engines run slower or not at all.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from autotune.errors import EnvironmentProblem, Unsupported
from autotune.fingerprint import library_version
from autotune.variants.graph import with_inferred_shapes

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_STAGE = "prune"
_SITES = ("Conv", "ConvTranspose", "Gemm", "BatchNormalization")


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A torch module with the graph it came from. `sites`: torch layer → index of its ONNX node.

    `added`: for a MatMul whose bias is a separate Add node, MatMul's index → Add's index.
    """

    module: Any
    model: ModelProto
    sites: dict[Any, int]
    added: dict[int, int]

    def layer_names(self) -> dict[Any, str]:
        """Torch layer → the name of its node in the graph."""
        return {layer: self.model.graph.node[index].name for layer, index in self.sites.items()}


def torch_from_onnx(model: ModelProto) -> Network:
    """The graph as a torch module in evaluation mode. Raises Unsupported naming the operation that has no counterpart."""
    module = module_from_onnx(model, "pruning", stage=_STAGE, needs=("torch", "onnx2torch", "torch-pruning"))
    added = _linear_from_matmul(module, model)
    sites = {}
    for index, node in enumerate(model.graph.node):
        if node.op_type in _SITES or (node.op_type == "MatMul" and index in added):
            layer = _layer(module, index)
            if layer is not None:
                sites[layer] = index
    for parameter in module.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    return Network(module=module, model=model, sites=sites, added={k: v for k, v in added.items() if v >= 0})


def module_from_onnx(model: ModelProto, purpose: str, *, stage: str, needs: tuple[str, ...] = ("torch", "onnx2torch")) -> Any:
    """The graph as a torch module in evaluation mode; its layers are called node0, node1, … after the graph's nodes.

    Raises Unsupported naming the operation that has no counterpart, EnvironmentProblem where a distribution of `needs` is
    missing; both speak of `purpose`.
    """
    import onnx

    convert = _importer(purpose, needs)
    named = onnx.ModelProto()
    named.CopyFrom(model)
    for index, node in enumerate(named.graph.node):
        node.name = _module_name(index)
    try:
        return convert(named).eval()
    except Exception as exc:
        raise Unsupported(f"{purpose}: the graph has no torch form: {_first_line(exc)}", stage=stage) from exc


def onnx_from_torch(network: Network) -> ModelProto:
    """The graph with the module's present weights, shapes inferred afresh."""
    import onnx
    from onnx import numpy_helper

    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    uses = Counter(name for node in model.graph.node for name in node.input)
    tensors = {t.name: t for t in model.graph.initializer}
    for layer, index in network.sites.items():
        for attribute in model.graph.node[index].attribute:
            if attribute.name == "group":  # a depthwise convolution has as many groups as channels
                attribute.i = layer.groups
        for node, position, values in _stored(network, model, layer, index):
            name = node.input[position]
            if uses[name] > 1:  # layers that shared a tensor may have become different
                node.input[position] = f"{name}__{node.name}"
                model.graph.initializer.append(numpy_helper.from_array(values, node.input[position]))
            else:
                tensors[name].CopyFrom(numpy_helper.from_array(values, name))
    return with_inferred_shapes(model)


def _stored(network: Network, model: ModelProto, layer: Any, index: int) -> Iterator[tuple[NodeProto, int, NDArray[Any]]]:
    """(node, input position, values) of each tensor that a layer stands for, in the layout of its ONNX node."""
    node = model.graph.node[index]
    weight = layer.weight.detach().numpy()
    bias = None if layer.bias is None else layer.bias.detach().numpy()
    if node.op_type == "Gemm":
        attributes = {a.name: a for a in node.attribute}
        weight = weight if "transB" in attributes and attributes["transB"].i else weight.T
        weight = weight / (attributes["alpha"].f if "alpha" in attributes else 1.0)
        bias = None if bias is None else bias / (attributes["beta"].f if "beta" in attributes else 1.0)
    elif node.op_type == "MatMul":
        weight = weight.T
        if bias is not None:
            adder = model.graph.node[network.added[index]]
            yield adder, _constant_position(adder, model), np.ascontiguousarray(bias)
            bias = None
    yield node, 1, np.ascontiguousarray(weight, dtype=np.float32)
    if bias is not None:
        yield node, 2, np.ascontiguousarray(bias, dtype=np.float32)
    if node.op_type == "BatchNormalization":
        yield node, 3, layer.running_mean.detach().numpy()
        yield node, 4, layer.running_var.detach().numpy()


def _layer(module: Any, index: int) -> Any:
    """The torch layer of a node, if it is one that torch-pruning knows."""
    from torch import nn

    found = getattr(module, _module_name(index), None)
    if isinstance(found, nn.Sequential):  # asymmetric padding stands before the convolution
        found = found[-1]
    known = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    return found if isinstance(found, known) else None


def _linear_from_matmul(module: Any, model: ModelProto) -> dict[int, int]:
    """Products with a constant matrix are now Linear layers, a following Add of a vector their bias.

    Index of the MatMul → index of the Add, or −1 without one.
    """
    from torch import nn

    found: dict[int, int] = {}
    for node in list(module.graph.nodes):
        index = _index_of(node)
        if index is None or model.graph.node[index].op_type != "MatMul":
            continue
        weight = _constant(module, node.args[1])
        if weight is None or weight.dim() != 2:
            continue
        add, bias = _following_bias(module, model, node, weight.shape[1])
        linear = nn.Linear(weight.shape[0], weight.shape[1], bias=bias is not None)
        linear.weight.data = weight.T.contiguous()
        if add is not None:
            linear.bias.data = bias.clone()
            add.replace_all_uses_with(node)
            module.graph.erase_node(add)
        found[index] = -1 if add is None else int(_index_of(add) or 0)
        module.add_module(_module_name(index), linear)
        node.args = (node.args[0],)
    module.graph.lint()
    module.recompile()
    return found


def _following_bias(module: Any, model: ModelProto, node: Any, width: int) -> tuple[Any, Any]:
    users = list(node.users)
    index = _index_of(users[0]) if len(users) == 1 else None
    if index is None or model.graph.node[index].op_type != "Add":
        return None, None
    for argument in users[0].args:
        value = _constant(module, argument)
        if value is not None and tuple(value.shape) == (width,):
            return users[0], value
    return None, None


def _constant(module: Any, argument: Any) -> Any:
    if getattr(argument, "op", "") != "get_attr":
        return None
    value = module
    for part in argument.target.split("."):
        value = getattr(value, part)
    return value


def _constant_position(node: NodeProto, model: ModelProto) -> int:
    stored = {t.name for t in model.graph.initializer}
    return next(i for i, name in enumerate(node.input) if name in stored)


def _module_name(index: int) -> str:
    return f"node{index}"


def _index_of(node: Any) -> int | None:
    if node.op != "call_module" or not str(node.target).startswith("node"):
        return None
    return int(str(node.target)[4:])


def _importer(purpose: str, needs: tuple[str, ...]) -> Any:
    """onnx2torch's `convert`. It imports torchvision for two operations; where torchvision cannot be imported (its PyPI
    wheel fails beside a torch for CPUs only, with RuntimeError "operator torchvision::nms does not exist"), a stand-in takes
    its place for the length of that import, and graphs with those two operations are unsupported.
    """
    for distribution in needs:
        if library_version(distribution) is None:
            raise EnvironmentProblem(f"{purpose} needs {distribution}.", remedy="pip install 'autotune[prune]'")
    with _torchvision_or_stand_in():
        from onnx2torch import convert
    return convert


@contextlib.contextmanager
def _torchvision_or_stand_in() -> Iterator[None]:
    if "onnx2torch" in sys.modules or _imports_torchvision():
        yield
        return

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise Unsupported("pruning: NonMaxSuppression and RoiAlign need a working torchvision", stage=_STAGE)

    package, operations = ModuleType("torchvision"), ModuleType("torchvision.ops")
    operations.nms = operations.roi_align = operations.box_convert = refuse  # type: ignore[attr-defined]
    package.ops = operations  # type: ignore[attr-defined]
    stand_ins = {"torchvision": package, "torchvision.ops": operations}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name in stand_ins:
            sys.modules.pop(name, None)


def _imports_torchvision() -> bool:
    try:
        import torchvision  # noqa: F401 - the import is the question
    except Exception:  # a mismatched build fails with RuntimeError, a missing one with ImportError
        for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        return False
    return True


def _first_line(exc: BaseException) -> str:
    return f"{type(exc).__name__}: {(str(exc).splitlines() or [''])[0]}"
