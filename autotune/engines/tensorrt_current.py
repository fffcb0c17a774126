"""Whether TensorRT for RTX serves the GPU that is here, though its ComputeCapability has no name for it: asked of itself.

No document says it of Hopper; the libraries have code for it. The steps stand in the order in which they are cheap: whether an
engine for the GPUs with names is valid here, a build for CURRENT, and whether that one is valid, loads and gets a context, for
which its kernels are compiled. Run in a process of its own (`tensorrt_probe`), for it makes a CUDA context, and may crash.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import cast

import numpy as np

from autotune.engines.tensorrt_api import RtxICudaEngine, RtxRuntime, RtxTrt
from autotune.engines.tensorrt_build import Blueprint, built_plan
from autotune.engines.tensorrt_lane import rtx_context
from autotune.engines.tensorrt_library import CURRENT
from autotune.engines.tensorrt_log import make_log, words
from autotune.engines.tensorrt_session import loaded
from autotune.errors import CandidateRejected


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """`answer`: what TensorRT said, in its own words where it refused."""

    name: str
    works: bool
    answer: str


def steps(trt: RtxTrt, folder: Path) -> Iterator[Step]:
    """Each step's answer as soon as it is there; those that need an engine are left out where none was built."""
    onnx = _small_model(folder / "probe.onnx")
    for prefix, targets in (("", ()), ("current_", (CURRENT,))):
        log = make_log(trt)
        try:
            plan = built_plan(trt, _blueprint(onnx, targets), log, None)
        except CandidateRejected as exc:
            yield Step(name=f"{prefix}build", works=False, answer=str(exc))
            continue
        yield Step(name=f"{prefix}build", works=True, answer=f"{len(plan)} bytes")
        yield _validity(trt, plan, f"{prefix}validity")
        if targets:
            yield from _opened(trt, plan)


def _blueprint(onnx: Path, targets: tuple[str, ...]) -> Blueprint:
    return Blueprint(onnx=onnx, precision="fp32", batch_size=1, workspace_mib=None, level=None, targets=targets)


def _validity(trt: RtxTrt, plan: bytes, name: str) -> Step:
    log = make_log(trt)
    validity, faults = cast(RtxRuntime, trt.Runtime(log)).get_engine_validity(plan)
    kinds = trt.EngineInvalidityDiagnostics
    known = (
        kinds.VERSION_MISMATCH, kinds.UNSUPPORTED_CC, kinds.OLD_CUDA_DRIVER, kinds.OLD_CUDA_RUNTIME,
        kinds.INSUFFICIENT_GPU_MEMORY, kinds.MALFORMED_ENGINE, kinds.CUDA_ERROR,
    )  # fmt: skip
    found = [kind.name for kind in known if int(faults) & int(kind)]
    works = validity.name != "INVALID"
    return Step(name=name, works=works, answer=" ".join([validity.name, *found, *([] if works else [f"({words(log)})"])]))


def _opened(trt: RtxTrt, plan: bytes) -> Iterator[Step]:
    """The engine is loaded and has a context."""
    log, name = make_log(trt), "current_load"
    try:
        loader, engine = loaded(trt, plan, log)
        yield Step(name=name, works=True, answer="loaded")
        name = "current_context"
        context = rtx_context(trt, cast(RtxICudaEngine, engine), "none", log)
    except CandidateRejected as exc:
        yield Step(name=name, works=False, answer=str(exc))
        return
    made = context is not None
    yield Step(name=name, works=made, answer="made" if made else words(log))
    del context, engine, loader  # in this order, as each uses what follows it


def tell(module: str) -> None:
    """A JSON line for each step. Exits with the first answer of the CURRENT steps that is a refusal, if there is one."""
    refusal = ""
    with tempfile.TemporaryDirectory() as folder:
        for step in steps(cast(RtxTrt, import_module(module)), Path(folder)):
            print(json.dumps(asdict(step)), flush=True)
            if step.name.startswith("current_") and not step.works:
                refusal = refusal or " ".join(step.answer.split())
    if refusal:
        sys.exit(refusal)


def _small_model(path: Path) -> Path:
    """A convolution with ReLU on 8×8 images, batch dynamic."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = numpy_helper.from_array(np.random.default_rng(0).standard_normal((8, 4, 3, 3)).astype(np.float32), "w")
    nodes = [
        helper.make_node("Conv", ["input", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["output"]),
    ]
    ends = [("input", ["batch", 4, 8, 8]), ("output", ["batch", 8, 8, 8])]
    given, result = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in ends)
    graph = helper.make_graph(nodes, "probe", [given], [result], [weights])
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path
