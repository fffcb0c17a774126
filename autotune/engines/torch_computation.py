"""A variant as a function of torch tensors: imported from ONNX, checked against it, in the precision's types."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotune.engines.protocol import Inputs
from autotune.errors import BuildFailed, CandidateRejected, OutOfMemory, Unstable
from autotune.variants.make import InputSpec
from autotune.variants.variant import ModelVariant

MODEL = "model.onnx"
_FAITHFUL = 1e-3
"""Largest difference between the imported module and the graph, as a share of the largest output. fp32 kernels of other
libraries differ by 1e-6 to 1e-5 on image networks; a wrongly imported operation by 0.1 and more."""

Computation = Callable[..., tuple[Any, ...]]
REFUSALS = {
    **dict.fromkeys(
        ("int8", "int8-tensor", "fp8", "int4"), "torch has no form of ONNX's Q/DQ graphs; its own int8 would be another model"
    ),
    "fp16-sparse": "torch's convolutions have no sparse kernels",
    **dict.fromkeys(("weak-fp16", "weak-fp16-int8"), "a choice of TensorRT's builder; torch has amp-fp16"),
}


def write_checked_model(variant: ModelVariant, folder: Path) -> None:
    """`folder` has the variant as an fp32 graph that torch computes rightly. Raises Unsupported or BuildFailed."""
    import onnx

    from autotune.variants.convert_torch import module_from_onnx
    from autotune.variants.graph import inputs_of
    from autotune.variants.widen import fp32_from_half

    model = fp32_from_half(onnx.load(str(variant.path)))
    onnx.save_model(model, str(folder / MODEL))
    sample = _sample(inputs_of(model))
    module = module_from_onnx(model, "torch", stage="engine")
    found = called(as_function(module, "fp32", "cpu"), sample)
    wanted = _by_onnx(folder / MODEL, sample)
    for name, got, right in zip(output_names(folder / MODEL), found, wanted, strict=True):
        scale = float(np.abs(right).max()) or 1.0
        error = float(np.abs(got - right).max()) / scale if got.shape == right.shape else np.inf
        if not error <= _FAITHFUL:  # NaN is no agreement
            raise BuildFailed(
                f"the torch form of this graph computes something else: output {name} is off by {error:.2g} of its largest "
                f"value; allowed: {_FAITHFUL:g}",
                stage="engine",
            )


def loaded_function(folder: Path, precision: str, device: str) -> Computation:
    """The model of `folder` on `device`, computing in `precision`: tensors in, tensors of the graph's own types out."""
    return as_function(loaded_module(folder), precision, device)


def loaded_module(folder: Path) -> Any:
    """The model of `folder` as a torch module, whose children node0, node1, … are its nodes."""
    import onnx

    from autotune.variants.convert_torch import module_from_onnx

    return module_from_onnx(onnx.load(str(folder / MODEL)), "torch", stage="open")


def as_function(module: Any, precision: str, device: str) -> Computation:
    """`module` moved and converted in place, behind the casts that its precision needs.

    Weights and images lie channels last: convolutions of oneDNN and of tensor cores read them so, and what is not a
    convolution does not care.
    """
    import torch

    half = {"fp16": torch.float16, "bf16": torch.bfloat16}
    dtype = half.get(precision, torch.float32)
    autocast = half.get(precision.removeprefix("amp-")) if precision.startswith("amp-") else None
    module = module.to(device=device, dtype=dtype, memory_format=torch.channels_last).requires_grad_(False)

    def compute(*tensors: Any) -> tuple[Any, ...]:
        with nullcontext() if autocast is None else torch.autocast(device.partition(":")[0], dtype=autocast):
            found = module(*(_prepared(t, dtype) for t in tensors))
        several = found if isinstance(found, list | tuple) else (found,)
        return tuple(t.float().contiguous() if t.is_floating_point() else t.contiguous() for t in several)

    return compute


def _prepared(tensor: Any, dtype: Any) -> Any:
    import torch

    if not tensor.is_floating_point():
        return tensor
    layout = torch.channels_last if tensor.dim() == 4 else torch.preserve_format
    return tensor.to(dtype=dtype, memory_format=layout)


def compiled_function(compute: Computation) -> Computation:
    """`compute` by Inductor, for the shapes of its first call; in this process, for a pool of compilers would outlive it."""
    import torch
    import torch._inductor.config as inductor

    inductor.compile_threads = 1
    found: Computation = torch.compile(compute, dynamic=False)
    return found


def called(compute: Computation, inputs: Inputs) -> list[NDArray[Any]]:
    """The outputs for numpy inputs, on the CPU and on the calling thread."""
    import torch

    with torch.inference_mode(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # nothing writes into it
        return [t.numpy() for t in compute(*(torch.from_numpy(np.ascontiguousarray(a)) for a in inputs.values()))]


def output_names(path: Path) -> list[str]:
    """The graph's outputs in their order."""
    import onnx

    return [v.name for v in onnx.load(str(path), load_external_data=False).graph.output]


def ordered_inputs(inputs: Inputs, wanted: tuple[InputSpec, ...]) -> dict[str, NDArray[Any]]:
    """The inputs in the graph's order. Raises Unstable where one is missing or has a wrong shape.

    Checked here because torch would compute on: a network that ends in a pooling takes images of any size.
    """
    if set(inputs) != {w.name for w in wanted}:
        raise Unstable(
            f"torch got the inputs {', '.join(inputs) or 'none'}; wanted: {'; '.join(map(str, wanted))}", stage="load"
        )
    for spec in wanted:
        shape = inputs[spec.name].shape
        if len(shape) != len(spec.shape) or any(n not in (None, m) for n, m in zip(spec.sample_shape, shape[1:], strict=True)):
            raise Unstable(f"torch got {spec.name} of shape {shape}; wanted: {spec}", stage="load")
    return {w.name: inputs[w.name] for w in wanted}


def rejection(exc: Exception, stage: str) -> CandidateRejected:
    """What torch's exception means for the candidate."""
    import torch

    line = (str(exc).strip().splitlines() or [type(exc).__name__])[0]
    if isinstance(exc, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in line:
        return OutOfMemory(f"torch ran out of memory: {line}", stage=stage)
    kind = Unstable if stage == "load" else BuildFailed
    return kind(f"torch: {type(exc).__name__}: {line}", stage=stage)


def _sample(wanted: tuple[InputSpec, ...]) -> dict[str, NDArray[Any]]:
    """Two seeded samples: a batch dimension that was lost shows."""
    rng = np.random.default_rng(0)
    found = {}
    for spec in wanted:
        shape = (2, *(n or 1 for n in spec.sample_shape))
        values = rng.standard_normal(shape) if spec.dtype.startswith("float") else np.ones(shape)
        found[spec.name] = values.astype(spec.dtype)
    return found


def _by_onnx(path: Path, sample: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
    """What the graph gives by ONNX Runtime, or by ONNX's slow reference implementation where that is not installed."""
    try:
        import onnxruntime as ort
    except ImportError:
        from onnx.reference import ReferenceEvaluator

        return list(ReferenceEvaluator(str(path)).run(None, dict(sample)))
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(sample)))
