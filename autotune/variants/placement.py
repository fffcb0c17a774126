"""Which tensors carry Q/DQ so that TensorRT fuses them, and which layers stay in floating point.

The rules are NVIDIA's ("Q/DQ Layer-Placement Recommendations" in TensorRT's documentation, page "Explicit Quantization"):

* quantize all inputs of weighted operations: convolutions, transposed convolutions and matrix products with constant weights,
  the first, the last and depthwise ones among them;
* do not quantize their outputs: the Q of the next product stands behind the activation function, so that bias, batch
  normalization, ReLU and clipping stay one kernel with the product;
* quantize the residual input of an addition that follows a product: TensorRT computes the addition in the product's kernel,
  and writes 8 bits only where that input has them;
* one Q for all readers of a tensor: equal scales let the builder move and merge them;
* be conservative with everything else. Pooling stays as it is (a maximum commutes with Q, which the builder moves by itself).

Products of two activations, as in attention, are left alone: TensorRT has kernels for whole attentions in fp16.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

Dims = tuple[int, ...]
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """A layer that multiplies by constant weights. `axis`: that of the weights' output channels; `dims`: their shape."""

    node: str
    kind: str
    weight: str
    dims: Dims
    axis: int
    groups: int

    @property
    def n_in(self) -> int:
        """Input channels of one group."""
        return self.dims[1 - self.axis] // (self.groups if self.kind == "ConvTranspose" else 1)

    @property
    def n_out(self) -> int:
        """Output channels of all groups."""
        return self.dims[self.axis] * (self.groups if self.kind == "ConvTranspose" else 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """`products`: those whose factors are quantized. `residuals`: (node, index) of further inputs. `kept`: node → why not."""

    products: tuple[Product, ...]
    residuals: tuple[tuple[str, int], ...]
    kept: Mapping[str, str]


Obstacle = Callable[[Product], str]
"""Why a format cannot or should not hold a product; empty where it can."""


def placement_of(model: ModelProto, obstacle: Obstacle) -> Placement:
    """Where Q/DQ go in a graph whose nodes are all named."""
    stored = {t.name: tuple(t.dims) for t in model.graph.initializer}
    products, kept = [], {}
    for node in model.graph.node:
        if node.op_type not in _WEIGHTED:
            continue
        found = _product(node, stored)
        if isinstance(found, str):
            kept[node.name] = found
        elif why := obstacle(found):
            kept[node.name] = why
        else:
            products.append(found)
    return Placement(products=tuple(products), residuals=_residuals(model, {p.node for p in products}, set(stored)), kept=kept)


def products_of(model: ModelProto) -> list[Product]:
    """Every layer that multiplies by constant weights."""
    return list(placement_of(model, lambda product: "").products)


def _product(node: NodeProto, stored: Mapping[str, Dims]) -> Product | str:
    """The layer, or why it is none with constant weights that have channels."""
    flags = {a.name: a.i for a in node.attribute if a.name in ("group", "transA", "transB")}
    if node.input[1] not in stored or node.input[0] in stored:
        return "its right factor is no constant"
    dims = stored[node.input[1]]
    if len(dims) < 2 or (node.op_type in ("Gemm", "MatMul") and len(dims) != 2):
        return f"its weights have the shape {list(dims)}"
    if flags.get("transA"):
        return "its left factor is transposed"
    by_rows = node.op_type == "Conv" or (node.op_type == "Gemm" and flags.get("transB", 0) == 1)
    return Product(
        node=node.name,
        kind=node.op_type,
        weight=node.input[1],
        dims=dims,
        axis=0 if by_rows else 1,
        groups=flags.get("group", 1),
    )


def _residuals(model: ModelProto, products: set[str], stored: set[str]) -> tuple[tuple[str, int], ...]:
    """The inputs of additions that are not the product into whose kernel the addition goes."""
    readers: dict[str, int] = {v.name: 1 for v in model.graph.output}
    for node in model.graph.node:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1
    writer = {name: node for node in model.graph.node for name in node.output}
    depth = _depths(model)
    found = []
    for node in model.graph.node:
        if node.op_type != "Add" or any(name in stored for name in node.input):
            continue
        hosts = [i for i, n in enumerate(node.input) if readers[n] == 1 and n in writer and _is_product(writer, n, products)]
        if hosts:
            # Of two products, a block's last layer and the projection of its shortcut, the deeper one is the block's.
            host = max(hosts, key=lambda i: (depth[node.input[i]], -i))
            found.append((node.name, 1 - host))
    return tuple(found)


def _is_product(writer: Mapping[str, NodeProto], name: str, products: set[str]) -> bool:
    """True when a quantized product writes the tensor, through nothing but a batch normalization of its own."""
    node = writer[name]
    if node.op_type == "BatchNormalization" and node.input[0] in writer:
        node = writer[node.input[0]]
    return node.name in products


def _depths(model: ModelProto) -> dict[str, int]:
    """Tensor → nodes on the longest way to it. Nodes stand in topological order."""
    depth: dict[str, int] = {}
    for node in model.graph.node:
        level = 1 + max((depth.get(name, 0) for name in node.input), default=0)
        depth.update(dict.fromkeys(node.output, level))
    return depth
