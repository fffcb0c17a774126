"""The real parser and builder of TensorRT for RTX, which need no GPU: what NVIDIA says to a graph, for a given GPU."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

MISSING = "TensorRT for RTX is not installed: pip install tensorrt-rtx-cu13-bindings tensorrt-rtx-cu13-libs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """`size`: bytes of the serialized engine, 0 where it was refused. `log`: the parser's and the builder's errors."""

    size: int
    log: str


def builder_module() -> Any:
    """The bindings; the test is skipped with the reason where they are not installed."""
    return pytest.importorskip("tensorrt_rtx_bindings.tensorrt_rtx", reason=MISSING)


def build(path: Path, sm: int, *, sparse: bool = False, batch: int = 4) -> Built:
    """A strongly typed engine for compute capability `sm` (75, 80, 86, 89, 120), batches of 1 to `batch`."""
    trt = builder_module()
    lines: list[str] = []

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                lines.append(message)

    log = Log()
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(path.read_bytes()):
        errors = [parser.get_error(i).desc() for i in range(parser.num_errors)]
        return Built(size=0, log="\n".join([*errors, *lines]))
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{sm}"), 0)
    if sparse:
        config.set_flag(trt.BuilderFlag.SPARSE_WEIGHTS)
    profile = builder.create_optimization_profile()
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        shape = tuple(tensor.shape)
        profile.set_shape(tensor.name, (1, *shape[1:]), (batch, *shape[1:]), (batch, *shape[1:]))
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    return Built(size=0 if engine is None else engine.nbytes, log="\n".join(lines))
