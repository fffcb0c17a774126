"""check_model: a deep look at the model that a study names, once `load_spec` has found the file."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from autotune.errors import EnvironmentProblem, SpecError
from autotune.registry import METRICS, load_object
from autotune.spec.arrival_file import read_arrivals
from autotune.spec.inputs import InputSpec
from autotune.spec.model import LoadSpec, ModelSpec, StudySpec
from autotune.spec.onnx_file import ModelFault, checked_onnx, inputs_from_onnx, parsed_onnx

_FEWEST_ARRIVALS = 10
"""Of fewer requests not even the median latency has an interval worth its name."""


def check_load(load: LoadSpec) -> None:
    """Returns when the load can be run as the study says it.

    Raises SpecError where a rate brings hardly any requests and at the line of a recorded trace that is wrong, and
    EnvironmentProblem where its driver is not installed.
    """
    if load.driver == "loadgen" and _is_missing("mlperf_loadgen"):
        raise EnvironmentProblem(
            "load.driver: loadgen needs MLPerf's LoadGen, which is not installed.", remedy="pip install 'autotune[loadgen]'"
        )
    if load.trace is not None:
        read_arrivals(load.trace.file)
    if load.server is not None and load.server.qps != "auto" and load.server.qps * load.max_s < _FEWEST_ARRIVALS:
        rate = load.server.qps
        found = f"{rate:g}, which brings {rate * load.max_s:.2g} requests within load.max_s = {load.max_s:g} s"
        allowed = (
            f"at least {_FEWEST_ARRIVALS} of them: a rate from {_FEWEST_ARRIVALS / load.max_s:.2g} on, or a longer load.max_s"
        )
        raise SpecError([load.server.problem("qps", found, allowed)])


def _is_missing(module: str) -> bool:
    try:
        return find_spec(module) is None
    except ValueError:  # what stands in sys.modules was not imported
        return True


TORCH_INPUT = "input"
"""The name that a torch model's only input gets when it is exported."""


def check_model(spec: StudySpec) -> tuple[InputSpec, ...]:
    """The model's inputs, after it was found usable: parsed, valid, its weights inside its folder, the batch dimension first.

    A torch model is imported and given its weights, but not run. Raises SpecError at the key of `model` that is wrong, and
    EnvironmentProblem when torch or safetensors is not installed.
    """
    model = spec.model
    if model.path is None:
        torch_model(model)
        return (InputSpec(name=TORCH_INPUT, shape=(None, *(model.input_shape or ())), dtype="float32"),)
    try:
        inputs = inputs_from_onnx(checked_onnx(model.path))
    except ModelFault as exc:
        raise SpecError([model.problem("path", exc.found, exc.allowed)]) from exc
    if model.input_shape is not None:
        _require_shape(model, inputs)
    return inputs


def model_notes(spec: StudySpec) -> tuple[str, ...]:
    """What should be known of a model that was found usable."""
    if spec.model.path is None:
        return ()
    outputs = [value.name for value in parsed_onnx(spec.model.path).graph.output]
    if len(outputs) < 2 or spec.data.metric not in METRICS.names():
        return ()
    return (
        f"the model has {len(outputs)} outputs ({', '.join(outputs)[:200]}); {spec.data.metric} looks at the first one, "
        f"{outputs[0]}. A metric of yours (module:function) gets them all by name.",
    )


def torch_model(model: ModelSpec) -> Any:
    """The nn.Module that `model.torch` makes, with its weights, in eval mode. Raises SpecError and EnvironmentProblem."""
    make, torch, name = torch_callable(model), _torch(), model.torch or ""
    try:
        made = make()
    except Exception as exc:  # the user's own code runs here and may raise anything
        allowed = "a callable that returns an nn.Module when it is called without arguments"
        raise SpecError([model.problem("torch", f"{name} ({type(exc).__name__}: {exc})", allowed)]) from exc
    if not isinstance(made, torch.nn.Module):
        raise SpecError(
            [model.problem("torch", f"{name}, which returns a {type(made).__name__}", "a callable that returns an nn.Module")]
        )
    if model.weights is not None:
        try:
            made.load_state_dict(state_from_file(model, model.weights))
        except (RuntimeError, TypeError, AttributeError) as exc:
            first = " ".join(str(exc).split())[:300]
            raise SpecError([model.problem("weights", first, f"a state dict that fits {name}")]) from exc
    return made.eval()


def torch_callable(model: ModelSpec) -> Any:
    """What `model.torch` names. Raises SpecError where it cannot be imported, EnvironmentProblem without torch."""
    _torch()
    name = model.torch or ""
    try:
        return load_object(name)
    except Exception as exc:  # a module of the user's runs while it is imported, and may raise anything
        allowed = "module:callable that Python can import from here"
        raise SpecError([model.problem("torch", f"{name} ({type(exc).__name__}: {exc})", allowed)]) from exc


def state_from_file(model: ModelSpec, path: Path) -> Mapping[str, Any]:
    """The tensors in a weights file, by name. No code in the file runs: safetensors, or torch's weights_only."""
    allowed = "a .safetensors file, or a state dict saved by torch.save that loads with weights_only=True"
    try:
        if path.suffix == ".safetensors":
            return _safetensors_state(path)
        state = _torch().load(str(path), map_location="cpu", weights_only=True)
    except EnvironmentProblem:
        raise
    except Exception as exc:  # torch and safetensors raise a dozen types on damaged files
        first = next(iter(str(exc).splitlines()), type(exc).__name__)[:200]
        raise SpecError([model.problem("weights", f"{path.name}, which cannot be loaded ({first})", allowed)]) from exc
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]  # a training checkpoint, as Lightning and many scripts write them
    if not isinstance(state, Mapping):
        raise SpecError([model.problem("weights", f"{path.name}, which holds a {type(state).__name__}", allowed)])
    return state


def _safetensors_state(path: Path) -> Mapping[str, Any]:
    try:
        from safetensors.torch import load_file
    except ImportError as exc:
        raise EnvironmentProblem(f"{path.name} needs safetensors.", remedy="pip install 'autotune[prune]'") from exc
    state: Mapping[str, Any] = load_file(str(path))
    return state


def _torch() -> Any:
    try:
        import torch
    except ImportError as exc:
        raise EnvironmentProblem("a torch model needs torch.", remedy="pip install 'autotune[prune]'") from exc
    return torch


def _require_shape(model: ModelSpec, inputs: tuple[InputSpec, ...]) -> None:
    """`model.input_shape` must agree with the file, where the file says."""
    wanted, said = tuple(model.input_shape or ()), inputs[0].sample_shape
    fits = len(wanted) == len(said) and all(size in (None, want) for size, want in zip(said, wanted, strict=True))
    if len(inputs) != 1 or not fits:
        raise SpecError([model.problem("input_shape", str(list(wanted)), "; ".join(map(str, inputs)))])
