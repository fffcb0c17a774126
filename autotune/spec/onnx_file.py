"""A look into an ONNX file that a user names: whole, confined to its own folder, and with what inputs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from autotune.spec.inputs import InputSpec

_LONGEST_NAME, _LONGEST_PATH = 255, 2048
"""Of the paths of external weights: bytes of a name (NAME_MAX), and characters of a path, well below PATH_MAX."""


class ModelFault(Exception):
    """The model file is not usable; `found` and `allowed` are the words for the user."""

    def __init__(self, found: str, allowed: str) -> None:
        self.found, self.allowed = found, allowed
        super().__init__(f"found {found}; allowed: {allowed}")


def parsed_onnx(path: Path) -> Any:
    """The ModelProto in a file, weights in external files left there. Raises ModelFault when it cannot be read safely.

    External data must lie inside the model's own folder: a model from elsewhere could otherwise have any file of this
    machine read as weights.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # its stubs are a package of their own

    try:
        model = onnx.load(str(path), load_external_data=False)
    except (DecodeError, OSError, ValueError) as exc:
        raise ModelFault(f"{path.name}, which cannot be parsed ({exc})", "an ONNX file") from exc
    if not model.HasField("graph") or not model.graph.node:
        raise ModelFault(f"{path.name} without a graph", "an ONNX file with at least one operator")
    for tensor in _external_tensors(model):
        _require_confined(tensor, path.parent)
    return model


def checked_onnx(path: Path) -> Any:
    """What `parsed_onnx` gives, once onnx.checker has found it valid too. Raises ModelFault when it is not a usable model."""
    import onnx

    model = parsed_onnx(path)
    try:
        onnx.checker.check_model(str(path))
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as exc:
        first = next(iter(str(exc).strip().splitlines()), type(exc).__name__)
        raise ModelFault(f"{path.name}, which onnx.checker refuses: {first}", "a valid ONNX model; export it again") from exc
    return model


def files_of(path: Path) -> list[Path]:
    """The model file, then the files beside it that hold its weights, by name. Raises ModelFault as `parsed_onnx` does."""
    entries = (e for t in _external_tensors(parsed_onnx(path)) for e in t.external_data)
    return [path, *(path.parent / place for place in sorted({e.value for e in entries if e.key == "location"}))]


def inputs_from_onnx(model: Any) -> tuple[InputSpec, ...]:
    """The model's inputs without its initializers. Raises ModelFault on none, no output, or a batch dimension not free or 1."""
    from onnx import helper

    weights = {tensor.name for tensor in model.graph.initializer}
    values = [value for value in model.graph.input if value.name not in weights]
    if not values or not model.graph.output:
        found = f"{len(values)} inputs and {len(model.graph.output)} outputs"
        raise ModelFault(found, "a model with at least one input and one output")
    inputs = []
    for value in values:
        tensor = value.type.tensor_type
        if not value.type.HasField("tensor_type") or not tensor.HasField("shape") or not tensor.shape.dim:
            raise ModelFault(f"the input {value.name} without a shape", "tensors whose first dimension is the batch")
        shape = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim)
        if shape[0] not in (None, 1):
            raise ModelFault(
                f"the input {value.name} with the first dimension {shape[0]}",
                "a first dimension that is dynamic (or 1): the batch; export the model with a dynamic batch axis",
            )
        try:
            dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
        except KeyError as exc:
            raise ModelFault(f"the input {value.name} of the unknown type {tensor.elem_type}", "a type of ONNX's list") from exc
        inputs.append(InputSpec(name=value.name, shape=(None, *shape[1:]), dtype=dtype))
    return tuple(inputs)


def _external_tensors(model: Any) -> Iterator[Any]:
    from onnx import TensorProto

    tensors = [t for graph in _graphs(model) for t in (*graph.initializer, *_sparse(graph.sparse_initializer))]
    nodes = [node for graph in _graphs(model) for node in graph.node]
    nodes += [node for function in model.functions for node in function.node]
    for node in nodes:
        for attribute in node.attribute:
            tensors += [attribute.t, *attribute.tensors, *_sparse([attribute.sparse_tensor, *attribute.sparse_tensors])]
    return (tensor for tensor in tensors if tensor.data_location == TensorProto.EXTERNAL)


def _is_too_long(location: str) -> bool:
    return len(location) > _LONGEST_PATH or any(len(part.encode()) > _LONGEST_NAME for part in Path(location).parts)


def _sparse(tensors: Any) -> list[Any]:
    return [part for tensor in tensors for part in (tensor.values, tensor.indices)]


def _graphs(model: Any) -> Iterator[Any]:
    """Every graph of the model, those inside If, Loop, Scan and functions included."""
    waiting = [model.graph]
    for function in model.functions:
        waiting += [a.g for node in function.node for a in node.attribute if a.HasField("g")]
    while waiting:
        graph = waiting.pop()
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                waiting += [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]


def _require_confined(tensor: Any, folder: Path) -> None:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    allowed = "weights in files beside the model, named relative to it, without '..' and links out of the folder"
    # A name that is no UTF-8 is bytes here.
    if not isinstance(location, str) or not location or "\0" in location or _is_too_long(location):
        raise ModelFault(f"external weights at {location[:80]!r} (tensor {tensor.name})", allowed)
    target = (folder / location).resolve()
    if Path(location).is_absolute() or not target.is_relative_to(folder.resolve()):
        raise ModelFault(f"external weights at {location!r} (tensor {tensor.name})", allowed)
    if not target.is_file():
        raise ModelFault(f"external weights at {location!r}, and no such file (tensor {tensor.name})", allowed)
    try:
        end = int(entries.get("offset", 0)) + int(entries.get("length", 0))
    except ValueError as exc:
        raise ModelFault(f"external weights without a usable offset (tensor {tensor.name})", allowed) from exc
    if end > target.stat().st_size:
        found = f"external weights at {location!r} that end at byte {end} of {target.stat().st_size} (tensor {tensor.name})"
        raise ModelFault(found, "the whole file; copy it again")
