"""From an ONNX file to a serialized engine: parse, configure, build. Every None and False becomes a rejection."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

from autotune.engines.tensorrt_api import (
    Builder,
    IBuilderConfig,
    INetworkDefinition,
    OnnxParser,
    RtxIBuilderConfig,
    Trt,
    member,
)
from autotune.engines.tensorrt_log import Log, rejection
from autotune.engines.tensorrt_timings import Timings
from autotune.errors import Unsupported

_STAGE = "engine"
_Made = TypeVar("_Made")

WEAK_FLAGS: dict[str, tuple[str, ...]] = {"weak-fp16": ("FP16",), "weak-fp16-int8": ("FP16", "INT8")}
"""Precisions whose networks are not strongly typed, with what the builder may choose from for each layer, fp32 beside it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blueprint:
    """What is built, and how. `targets`: names of compute capabilities ("SM89") for a build ahead of time.

    `workspace_mib` None leaves TensorRT's own limit; `level` None its own optimization level.
    """

    onnx: Path
    precision: str
    batch_size: int
    workspace_mib: int | None
    level: int | None
    targets: tuple[str, ...] = ()


def built_plan(trt: Trt, blueprint: Blueprint, log: Log, timings: Timings | None) -> bytes:
    """The serialized engine. Raises Unsupported, BuildFailed or OutOfMemory with TensorRT's words, which are in `log` too."""
    try:
        builder = trt.Builder(log)
        network = _parsed(trt, builder, blueprint, log)
        config = _configured(trt, builder, blueprint, log)
        _add_profile(builder, network, config, blueprint, log)
        if timings is not None:
            timings.load(config)
        plan = _made(builder.build_serialized_network(network, config), "TensorRT built no engine", blueprint, log)
        if timings is not None:
            timings.save(config)
        return bytes(plan)
    except (TypeError, ValueError, RuntimeError, MemoryError) as exc:  # what the bindings raise: pybind's names for C++ errors
        raise rejection(log, "TensorRT's bindings failed", _STAGE, pool_mib=blueprint.workspace_mib, exc=exc) from exc


def _made(value: _Made | None, what: str, blueprint: Blueprint, log: Log) -> _Made:
    if value is None:
        raise rejection(log, what, _STAGE, pool_mib=blueprint.workspace_mib)
    return value


def _parsed(trt: Trt, builder: Builder, blueprint: Blueprint, log: Log) -> INetworkDefinition:
    """The network that NVIDIA's parser made of the graph. Strongly typed where the graph carries the types."""
    weak = blueprint.precision in WEAK_FLAGS
    flags = 0 if weak else 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = _made(builder.create_network(flags), "TensorRT made no network", blueprint, log)
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(blueprint.onnx)):
        raise Unsupported(f"NVIDIA's parser refuses the graph: {' | '.join(_complaints(parser, log))}", stage=_STAGE)
    return network


def _complaints(parser: OnnxParser, log: Log) -> list[str]:
    """What the parser says of each node that it refuses, the node's name first."""
    told = []
    for i in range(min(parser.num_errors, 5)):
        problem = parser.get_error(i)
        where = " ".join(word for word in (problem.node_operator(), problem.node_name()) if word)
        told.append(f"{where}: {problem.desc()}" if where else problem.desc())
    return told or [str(rejection(log, "no node is named", _STAGE))]


def _configured(trt: Trt, builder: Builder, blueprint: Blueprint, log: Log) -> IBuilderConfig:
    """TF32 exactly where it was asked for: TensorRT lets fp32 networks use it unless told otherwise."""
    config = _made(builder.create_builder_config(), "TensorRT made no builder configuration", blueprint, log)
    if blueprint.precision == "tf32":
        config.set_flag(trt.BuilderFlag.TF32)
    else:
        config.clear_flag(trt.BuilderFlag.TF32)
    for name in WEAK_FLAGS.get(blueprint.precision, ()):
        flag = member(trt.BuilderFlag, name)
        if flag is None:
            raise Unsupported(f"{blueprint.precision} needs the builder flag {name}, which this release lacks", stage=_STAGE)
        config.set_flag(flag)
    if blueprint.precision.endswith("-sparse"):
        config.set_flag(trt.BuilderFlag.SPARSE_WEIGHTS)  # kernels that skip the zeros may be chosen, and need not be
    if blueprint.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, blueprint.workspace_mib << 20)
    if blueprint.level is not None:
        config.builder_optimization_level = blueprint.level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # so that the engine can be looked into; it runs as fast
    if blueprint.targets:
        _aim(trt, cast(RtxIBuilderConfig, config), blueprint, log)
    return config


def _aim(trt: Trt, config: RtxIBuilderConfig, blueprint: Blueprint, log: Log) -> None:
    """The engine is for these compute capabilities instead of the GPU that is there."""
    config.num_compute_capabilities = len(blueprint.targets)
    for i, name in enumerate(blueprint.targets):
        target = member(member(trt, "ComputeCapability"), name)
        if target is None or not config.set_compute_capability(target, i):
            raise rejection(log, f"TensorRT does not build for {name}", _STAGE, extra=[f"{name} is not supported as a target"])


def _add_profile(builder: Builder, network: INetworkDefinition, config: IBuilderConfig, blueprint: Blueprint, log: Log) -> None:
    """One profile whose only batch is the candidate's: one size lets the builder choose kernels for just that."""
    profile = _made(builder.create_optimization_profile(), "TensorRT made no optimization profile", blueprint, log)
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        sample = tuple(tensor.shape)[1:]
        if not tuple(tensor.shape) or any(size < 0 for size in sample):
            raise Unsupported(
                f"the input {tensor.name} has the shape {tuple(tensor.shape)}: a size beside the batch is not known, and an "
                "engine is built for one size",
                stage=_STAGE,
            )
        shape = (blueprint.batch_size, *sample)
        profile.set_shape(tensor.name, shape, shape, shape)
    if config.add_optimization_profile(profile) < 0:
        raise rejection(log, f"TensorRT refuses a profile for a batch of {blueprint.batch_size}", _STAGE)
