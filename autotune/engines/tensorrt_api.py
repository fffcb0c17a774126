"""The part of TensorRT's Python API that this package touches: TensorRT 10.0 to 11 and TensorRT for RTX, typed.

TensorRT's own modules come without types, so these protocols are what mypy holds our code to, and a test holds the protocols to
the API of each release: everything named here is in every one of them, but for what the classes whose names begin with `Rtx`
hold, which only TensorRT for RTX has, and for what is asked for by `member` or `method`, which some releases lack.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

Shape = Sequence[int]


class Member(Protocol):
    """One member of an enumeration; its number differs between releases, its name does not."""

    name: str

    def __int__(self) -> int: ...


def member(enumeration: object, name: str) -> Member | None:
    """The member of that name, None in a release that has none."""
    found: Member | None = getattr(enumeration, name, None)
    return found


def method(owner: object, name: str) -> Callable[..., Any] | None:
    """The bound method of that name, None in a release that has none."""
    found: Callable[..., Any] | None = getattr(owner, name, None)
    return found


class ITensor(Protocol):
    """An input or output of a network."""

    name: str
    shape: Shape


class INetworkDefinition(Protocol):
    """What the parser fills."""

    num_inputs: int

    def get_input(self, index: int) -> ITensor: ...


class ParserError(Protocol):
    """One complaint of the ONNX parser."""

    def desc(self) -> str: ...

    def node_name(self) -> str: ...

    def node_operator(self) -> str: ...


class OnnxParser(Protocol):
    """NVIDIA's ONNX parser. It answers False and keeps its complaints."""

    num_errors: int

    def parse_from_file(self, model: str) -> bool: ...

    def get_error(self, index: int) -> ParserError: ...


class IOptimizationProfile(Protocol):
    """The sizes that an engine takes."""

    def set_shape(self, input: str, min: Shape, opt: Shape, max: Shape) -> None: ...


class ITimingCache(Protocol):
    """What the builder learnt about its kernels."""

    def combine(self, input_cache: ITimingCache, ignore_mismatch: bool) -> bool: ...

    def serialize(self) -> bytes: ...


class IBuilderConfig(Protocol):
    """How an engine is to be built."""

    builder_optimization_level: int
    profiling_verbosity: Member

    def set_flag(self, flag: Member) -> None: ...

    def clear_flag(self, flag: Member) -> None: ...

    def set_memory_pool_limit(self, pool: Member, pool_size: int) -> None: ...

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int: ...

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache | None: ...

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool: ...

    def get_timing_cache(self) -> ITimingCache | None: ...


class RtxIBuilderConfig(IBuilderConfig, Protocol):
    """TensorRT for RTX builds for GPUs that are not there."""

    num_compute_capabilities: int

    def set_compute_capability(self, compute_capability: Member, index: int) -> bool: ...


class Builder(Protocol):
    """Makes everything that a build needs, and builds."""

    def create_network(self, flags: int) -> INetworkDefinition | None: ...

    def create_builder_config(self) -> IBuilderConfig | None: ...

    def create_optimization_profile(self) -> IOptimizationProfile | None: ...

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> bytes | None: ...


class IExecutionContext(Protocol):
    """One execution at a time of an engine. It belongs to one thread at a time."""

    device_memory: int
    profiler: Any
    enqueue_emits_profile: bool

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool: ...

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool: ...

    def infer_shapes(self) -> list[str]: ...

    def get_tensor_shape(self, name: str) -> Shape: ...

    def update_device_memory_size_for_shapes(self) -> int: ...

    def set_tensor_address(self, name: str, memory: int) -> bool: ...

    def execute_async_v3(self, stream_handle: int) -> bool: ...

    def report_to_profiler(self) -> bool: ...


class EngineInspector(Protocol):
    """Tells an engine's layers."""

    execution_context: IExecutionContext

    def get_engine_information(self, format: Member) -> str: ...


class ICudaEngine(Protocol):
    """A loaded engine with its weights on the GPU."""

    num_io_tensors: int

    def get_tensor_name(self, index: int) -> str: ...

    def get_tensor_mode(self, name: str) -> Member: ...

    def get_tensor_dtype(self, name: str) -> Member: ...

    def create_execution_context(self, strategy: Member) -> IExecutionContext | None: ...

    def create_engine_inspector(self) -> EngineInspector | None: ...


class RtxIRuntimeConfig(Protocol):
    """TensorRT for RTX compiles its kernels when a context is made, and captures graphs itself."""

    cuda_graph_strategy: Member
    dynamic_shapes_kernel_specialization_strategy: Member

    def set_execution_context_allocation_strategy(self, strategy: Member) -> None: ...


class RtxICudaEngine(Protocol):
    """An engine of TensorRT for RTX."""

    def create_runtime_config(self) -> RtxIRuntimeConfig | None: ...

    def create_execution_context(self, runtime_config: RtxIRuntimeConfig) -> IExecutionContext | None: ...


class Runtime(Protocol):
    """Loads engines."""

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None: ...


class RtxRuntime(Runtime, Protocol):
    """TensorRT for RTX tells whether an engine is for this GPU without loading it."""

    def get_engine_validity(self, buffer: bytes) -> tuple[Member, int]: ...


class BuilderFlag(Protocol):
    """Switches of a build."""

    TF32: Member
    SPARSE_WEIGHTS: Member


class NetworkDefinitionCreationFlag(Protocol):
    """Switches of a network."""

    STRONGLY_TYPED: Member


class MemoryPoolType(Protocol):
    """What the builder's memory limits are about."""

    WORKSPACE: Member


class ProfilingVerbosity(Protocol):
    """How much an engine tells of itself."""

    DETAILED: Member


class LayerInformationFormat(Protocol):
    """The forms in which an inspector answers."""

    JSON: Member


class TensorIOMode(Protocol):
    """Whether a tensor goes in or out."""

    INPUT: Member


class ExecutionContextAllocationStrategy(Protocol):
    """Who allocates a context's activations."""

    USER_MANAGED: Member


class RtxCudaGraphStrategy(Protocol):
    """Whether a context captures what it enqueues."""

    DISABLED: Member
    WHOLE_GRAPH_CAPTURE: Member


class RtxDynamicShapesKernelSpecializationStrategy(Protocol):
    """When kernels are compiled for the shapes that come."""

    EAGER: Member


class RtxEngineInvalidityDiagnostics(Protocol):
    """Bits that say why an engine is not valid."""

    VERSION_MISMATCH: Member
    UNSUPPORTED_CC: Member
    OLD_CUDA_DRIVER: Member
    OLD_CUDA_RUNTIME: Member
    INSUFFICIENT_GPU_MEMORY: Member
    MALFORMED_ENGINE: Member
    CUDA_ERROR: Member


class Trt(Protocol):
    """The module `tensorrt`, or the one of TensorRT for RTX."""

    ILogger: Any
    IProfiler: Any
    BuilderFlag: BuilderFlag
    NetworkDefinitionCreationFlag: NetworkDefinitionCreationFlag
    MemoryPoolType: MemoryPoolType
    ProfilingVerbosity: ProfilingVerbosity
    LayerInformationFormat: LayerInformationFormat
    TensorIOMode: TensorIOMode
    ExecutionContextAllocationStrategy: ExecutionContextAllocationStrategy

    def Builder(self, logger: Any) -> Builder: ...

    def OnnxParser(self, network: INetworkDefinition, logger: Any) -> OnnxParser: ...

    def Runtime(self, logger: Any) -> Runtime: ...


class RtxTrt(Trt, Protocol):
    """What only the module of TensorRT for RTX has."""

    ComputeCapability: object
    CudaGraphStrategy: RtxCudaGraphStrategy
    DynamicShapesKernelSpecializationStrategy: RtxDynamicShapesKernelSpecializationStrategy
    EngineInvalidityDiagnostics: RtxEngineInvalidityDiagnostics
