"""A double of onnxruntime-gpu on the installed onnxruntime: its two GPU providers, IO binding and CUDA graphs, on the CPU.

The real library does the arithmetic and reads the models; every call of a method of the real classes is bound to its real
signature, so one that the library would refuse is refused here. What the GPU adds follows ONNX Runtime's documents and source:

* names and values of the options: onnxruntime/core/providers/cuda/cuda_execution_provider_info.cc, …/tensorrt/
  tensorrt_execution_provider_info.cc and the pages CUDA- and TensorRT-ExecutionProvider.md (trt_bf16_enable, which the former
  lack: from the strings of the wheel onnxruntime-gpu 1.31.1). An option that is not known is a RuntimeError there, and here;
* a session that may not use the CPU, or is to be captured with nodes on another provider, is refused by inference_session.cc;
* what is captured is bound to addresses and to the thread that captured it (cuda_execution_provider.h, PerThreadContext), and
  no other session may run meanwhile (cudaStreamCaptureModeGlobal);
* a subgraph of TensorRT's is called TensorrtExecutionProvider_TRTKernel_graph_NAME_HASH_i_i, and so is its engine's file.
"""

from __future__ import annotations

import inspect
import json
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

CUDA, TENSORRT, CPU = "CUDAExecutionProvider", "TensorrtExecutionProvider", "CPUExecutionProvider"
_BOOL_01, _BOOL, _NUMBER, _TEXT = ("0", "1"), ("True", "False", "true", "false"), int, str

OPTIONS: dict[str, dict[str, Any]] = {
    CUDA: {
        "device_id": _NUMBER, "has_user_compute_stream": _BOOL_01, "user_compute_stream": _NUMBER, "gpu_mem_limit": _NUMBER,
        "arena_extend_strategy": ("kNextPowerOfTwo", "kSameAsRequested"),
        "cudnn_conv_algo_search": ("EXHAUSTIVE", "HEURISTIC", "DEFAULT"),
        "do_copy_in_default_stream": _BOOL_01, "gpu_external_alloc": _NUMBER, "gpu_external_free": _NUMBER,
        "gpu_external_empty_cache": _NUMBER, "cudnn_conv_use_max_workspace": _BOOL_01, "enable_cuda_graph": _BOOL_01,
        "cudnn_conv1d_pad_to_nc1d": _BOOL_01, "tunable_op_enable": _BOOL_01, "tunable_op_tuning_enable": _BOOL_01,
        "tunable_op_max_tuning_duration_ms": _NUMBER, "enable_skip_layer_norm_strict_mode": _BOOL_01, "prefer_nhwc": _BOOL_01,
        "use_ep_level_unified_stream": _BOOL_01, "use_tf32": _BOOL_01,
    },
    TENSORRT: {
        "device_id": _NUMBER, "has_user_compute_stream": _BOOL, "user_compute_stream": _NUMBER,
        "trt_max_partition_iterations": _NUMBER, "trt_min_subgraph_size": _NUMBER, "trt_max_workspace_size": _NUMBER,
        "trt_fp16_enable": _BOOL, "trt_bf16_enable": _BOOL, "trt_int8_enable": _BOOL, "trt_int8_calibration_table_name": _TEXT,
        "trt_int8_use_native_calibration_table": _BOOL, "trt_dla_enable": _BOOL, "trt_dla_core": _NUMBER,
        "trt_dump_subgraphs": _BOOL, "trt_engine_cache_enable": _BOOL, "trt_engine_cache_path": _TEXT,
        "trt_weight_stripped_engine_enable": _BOOL, "trt_onnx_model_folder_path": _TEXT, "trt_engine_cache_prefix": _TEXT,
        "trt_engine_decryption_enable": _BOOL, "trt_engine_decryption_lib_path": _TEXT,
        "trt_force_sequential_engine_build": _BOOL, "trt_context_memory_sharing_enable": _BOOL,
        "trt_layer_norm_fp32_fallback": _BOOL, "trt_timing_cache_enable": _BOOL, "trt_timing_cache_path": _TEXT,
        "trt_force_timing_cache": _BOOL, "trt_detailed_build_log": _BOOL, "trt_build_heuristics_enable": _BOOL,
        "trt_sparsity_enable": _BOOL, "trt_builder_optimization_level": _NUMBER, "trt_auxiliary_streams": _NUMBER,
        "trt_tactic_sources": _TEXT, "trt_extra_plugin_lib_paths": _TEXT, "trt_profile_min_shapes": _TEXT,
        "trt_profile_max_shapes": _TEXT, "trt_profile_opt_shapes": _TEXT, "trt_cuda_graph_enable": _BOOL,
        "trt_ep_context_embed_mode": _NUMBER, "trt_ep_context_file_path": _TEXT, "trt_dump_ep_context_model": _BOOL,
        "trt_engine_hw_compatible": _BOOL, "trt_onnx_bytestream": _NUMBER, "trt_onnx_bytestream_size": _NUMBER,
        "trt_external_data_bytestream": _NUMBER, "trt_external_data_bytestream_size": _NUMBER, "trt_op_types_to_exclude": _TEXT,
    },
}  # fmt: skip
"""Provider → option → what its value may be."""


@dataclass
class World:
    """What the double's GPU is like, and what happened on it. `lacks`: operations by provider that it does not take."""

    lacks: dict[str, set[str]] = field(default_factory=dict)
    tells_placement: bool = True
    run_error: Exception | None = None
    sessions: list[GpuSession] = field(default_factory=list)
    capturing: bool = False
    n_running: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


_world = World()
_real = SimpleNamespace()


def install(monkeypatch: Any) -> World:
    """onnxruntime has the GPU providers' doubles, as long as the test runs."""
    import onnxruntime as ort

    if not vars(_real):
        _real.session, _real.value, _real.options = ort.InferenceSession, ort.OrtValue, ort.SessionOptions
    _world.__init__()  # type: ignore[misc]  # a new world for each test, which sessions of the module refer to
    monkeypatch.setattr(ort, "InferenceSession", _session)
    monkeypatch.setattr(ort, "OrtValue", GpuValue)
    monkeypatch.setattr(ort, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
    monkeypatch.setattr(ort, "preload_dlls", lambda *_, **__: None, raising=False)
    return _world


def _session(*args: Any, **named: Any) -> Any:
    """The double where a GPU's provider is asked for, else the real thing: preparing a variant computes with it, too."""
    given = inspect.signature(_real.session.__init__).bind(None, *args, **named).arguments
    asked = {p[0] if isinstance(p, tuple) else p for p in given.get("providers") or ()}
    return GpuSession(*args, **named) if asked & set(OPTIONS) else _real.session(*args, **named)


def take_over(name: str, site: str) -> None:
    """The import of `name` under way, of the package that stands in `site`, gives the real library with the doubles in it."""
    import pytest

    mine = sys.modules.pop(name)
    sys.path.remove(site)
    try:
        import onnxruntime as ort
    finally:
        sys.path.insert(0, site)
    assert isinstance(ort, ModuleType) and ort is not mine
    install(pytest.MonkeyPatch())


def _failure(text: str) -> Exception:
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail

    return Fail(f"[ONNXRuntimeError] : 1 : FAIL : {text}")


def checked(provider: str, options: Mapping[str, Any]) -> dict[str, str]:
    """The options as text. Raises RuntimeError as the parser of a provider's options does."""
    if provider not in OPTIONS:
        raise ValueError(f"Specified provider {provider} is not known")
    for key, value in options.items():
        if key not in OPTIONS[provider]:
            raise RuntimeError(f"Invalid {provider.removesuffix('ExecutionProvider')} EP option: {key}")
        kind = OPTIONS[provider][key]
        right = str(value) in kind if isinstance(kind, tuple) else kind is _TEXT or str(value).lstrip("-").isdigit()
        if not right:
            raise RuntimeError(f"the value {value!r} of {key} is not one of {kind}")
    return {key: str(value) for key, value in options.items()}


def _computing(model: Any) -> Any:
    """The model on the CPU, which has no bfloat16, and whose optimizations compute Q/DQ in 16 bits wrongly."""
    import onnx
    import onnxruntime as ort

    from autotune.variants.widen import fp32_from_half

    options = _real.options()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    loaded = onnx.ModelProto()
    loaded.CopyFrom(model)
    types = {t.data_type for t in loaded.graph.initializer}
    widened = fp32_from_half(loaded) if onnx.TensorProto.BFLOAT16 in types else loaded
    return _real.session(widened.SerializeToString(), options, providers=[CPU])


class GpuValue:
    """An OrtValue on the GPU: an array of its own, at an address that stays."""

    def __init__(self, array: Any) -> None:
        self._array = array

    @staticmethod
    def ortvalue_from_numpy(*args: Any, **named: Any) -> GpuValue:
        given = inspect.signature(_real.value.ortvalue_from_numpy).bind(*args, **named).arguments
        assert given["device_type"] == "cuda", "a captured graph needs values on the GPU"
        return GpuValue(np.array(given["numpy_obj"]))

    @staticmethod
    def ortvalue_from_shape_and_type(*args: Any, **named: Any) -> GpuValue:
        given = inspect.signature(_real.value.ortvalue_from_shape_and_type).bind(*args, **named).arguments
        assert given["device_type"] == "cuda", "a captured graph needs values on the GPU"
        size = int(np.prod(given["shape"])) * np.dtype(given["element_type"]).itemsize
        return GpuValue(np.full(size, 0xA5, np.uint8).view(given["element_type"]).reshape(given["shape"]))

    def update_inplace(self, *args: Any) -> None:
        (data,) = inspect.signature(_real.value.update_inplace).bind(self, *args).args[1:]
        if data.shape != self._array.shape or data.dtype != self._array.dtype or not data.flags.c_contiguous:
            raise RuntimeError("the data is of another size or type than the value")
        self._array[...] = data

    def numpy(self) -> Any:
        assert hasattr(_real.value, "numpy")
        return self._array.copy()

    def shape(self) -> list[int]:
        assert hasattr(_real.value, "shape")
        return list(self._array.shape)


class GpuBinding:
    """An IOBinding of one session."""

    def __init__(self, session: GpuSession) -> None:
        self.session, self.inputs, self.outputs = session, dict[str, GpuValue](), dict[str, GpuValue]()

    def bind_ortvalue_input(self, name: str, ortvalue: GpuValue) -> None:
        assert name in {n.name for n in self.session.get_inputs()}
        self.inputs[name] = ortvalue

    def bind_ortvalue_output(self, name: str, ortvalue: GpuValue) -> None:
        assert name in {n.name for n in self.session.get_outputs()}
        self.outputs[name] = ortvalue


class GpuSession:
    """An InferenceSession. The nodes go to the first provider asked for that takes their operation, else to the CPU."""

    def __init__(self, *args: Any, **named: Any) -> None:
        given = inspect.signature(_real.session.__init__).bind(self, *args, **named)
        path, options, asked = (given.arguments.get(n) for n in ("path_or_bytes", "sess_options", "providers"))
        self.fallback = int(given.arguments.get("kwargs", {}).get("enable_fallback", 1)) == 1
        pairs = [p if isinstance(p, tuple) else (p, {}) for p in asked or [CPU]]
        self._config = options or _real.options()
        self.thread, self.captured_at, self.lock = threading.get_ident(), None, threading.Lock()
        try:
            self.options = {name: checked(name, values) for name, values in pairs if name != CPU}
        except (RuntimeError, ValueError):
            if not self.fallback:
                raise
            pairs, self.options = [(CPU, {})], {}  # what the real library does, and why nobody may ask it to
        self._make(path, [name for name, _ in pairs])

    def _make(self, path: Any, asked: list[str]) -> None:
        import onnx

        self.model = onnx.load_from_string(path) if isinstance(path, bytes) else onnx.load(str(path))
        self._real = _computing(self.model)
        self.providers = [*asked, CPU] if CPU not in asked else asked
        self.parts = self._partition(asked)
        cpu = [n for p, nodes in self.parts if p == CPU for n in nodes]
        if cpu and CPU not in asked and self._entry("session.disable_cpu_ep_fallback") == "1":
            raise _failure(
                "This session contains graph nodes that are assigned to the default CPU EP, but fallback to CPU EP has been "
                "explicitly disabled by the user."
            )
        if self.captures and {p for p, _ in self.parts} != {asked[0]}:
            raise _failure(
                "This session cannot use the graph capture feature as requested by the user as all compute graph nodes have "
                f"not been partitioned to the {asked[0]}"
            )
        self._build()
        if self._config.optimized_model_filepath:
            if any(p == TENSORRT for p, _ in self.parts):
                raise _failure("Unable to serialize model as it contains compiled nodes.")
            onnx.save_model(self.model, self._config.optimized_model_filepath)
        self.events: list[dict[str, Any]] = []
        _world.sessions.append(self)

    @property
    def captures(self) -> bool:
        """A CUDA graph was asked for."""
        cuda, tensorrt = self.options.get(CUDA, {}), self.options.get(TENSORRT, {})
        return cuda.get("enable_cuda_graph") == "1" or tensorrt.get("trt_cuda_graph_enable", "").lower() == "true"

    def _entry(self, key: str) -> str:
        try:
            return str(self._config.get_session_config_entry(key))
        except Exception:  # the real library raises one of its own where there is no such entry
            return ""

    def _partition(self, asked: list[str]) -> list[tuple[str, list[Any]]]:
        """(provider, nodes): a run of neighbours of TensorRT's is one part, of others each node."""
        parts: list[tuple[str, list[Any]]] = []
        for node in self.model.graph.node:
            taker = next((p for p in asked if p != CPU and node.op_type not in _world.lacks.get(p, ())), CPU)
            if parts and taker == TENSORRT == parts[-1][0]:
                parts[-1][1].append(node)
            else:
                parts.append((taker, [node]))
        return parts

    def _names(self) -> list[str]:
        """What the executed nodes are called, part by part."""
        found, n = [], 0
        for provider, nodes in self.parts:
            found.append(
                f"{TENSORRT}_TRTKernel_graph_{self.model.graph.name}_1234567890_{n}_{n}"
                if provider == TENSORRT
                else nodes[0].name
            )
            n += provider == TENSORRT
        return found

    def _build(self) -> None:
        options = self.options.get(TENSORRT, {})
        if options.get("trt_engine_cache_enable") == "True" and "trt_engine_cache_path" in options:
            for (provider, _), name in zip(self.parts, self._names(), strict=True):
                if provider == TENSORRT:
                    (Path(options["trt_engine_cache_path"]) / f"{name}_sm90.engine").write_text(name)
        if options.get("trt_timing_cache_enable") == "True":
            (Path(options["trt_timing_cache_path"]) / f"{TENSORRT}_cache_sm90.timing").write_text("timings")

    def get_providers(self) -> list[str]:
        return self.providers

    def get_inputs(self) -> Sequence[Any]:
        return list(self._real.get_inputs())

    def get_outputs(self) -> Sequence[Any]:
        return list(self._real.get_outputs())

    def disable_fallback(self) -> None:
        assert hasattr(_real.session, "disable_fallback")
        self.fallback = False

    def __getattr__(self, name: str) -> Any:
        if name == "get_provider_graph_assignment_info" and _world.tells_placement:
            assert hasattr(_real.session, name)
            return self._assignment
        raise AttributeError(name)

    def _assignment(self) -> list[Any]:
        assert self._entry("session.record_ep_graph_assignment_info") == "1", "asked for what was not recorded"

        def told(nodes: list[Any]) -> Any:
            return lambda: [SimpleNamespace(name=n.name, op_type=n.op_type, domain=n.domain) for n in nodes]

        return [SimpleNamespace(ep_name=provider, get_nodes=told(nodes)) for provider, nodes in self.parts]

    def run(self, output_names: Any, input_feed: Mapping[str, Any], run_options: Any = None) -> Any:
        assert not self.captures, "a captured graph runs on what is bound"
        if _world.run_error is not None and self.options:
            if self.fallback:
                raise AssertionError("the real library would go on, on the CPU")
            raise _world.run_error
        assert not _world.capturing, "while a graph is captured, nothing else may run"
        found = self._real.run(output_names, input_feed)
        self._record()
        return found

    def io_binding(self) -> GpuBinding:
        return GpuBinding(self)

    def run_with_iobinding(self, *args: Any, **named: Any) -> None:
        (binding,) = inspect.signature(_real.session.run_with_iobinding).bind(self, *args, **named).args[1:]
        assert binding.session is self, "an IOBinding belongs to one session"
        assert threading.get_ident() == self.thread, "a session with a captured graph belongs to the thread that made it"
        addresses = {n: v._array.ctypes.data for n, v in (*binding.inputs.items(), *binding.outputs.items())}
        with _world.lock:
            first = self.captures and self.captured_at is None
            assert not _world.capturing and not (first and _world.n_running), "while a graph is captured, nothing else may run"
            _world.capturing = first
            _world.n_running += 1
        try:
            if first:
                self.captured_at = addresses
            assert not self.captures or self.captured_at == addresses, "the graph reads and writes where it was captured"
            if _world.run_error is not None:
                raise _world.run_error
            names = list(binding.outputs)
            values = self._real.run(names, {n: v._array for n, v in binding.inputs.items()})
            for name, value in zip(names, values, strict=True):
                assert binding.outputs[name]._array.shape == value.shape, "a bound output has the shape that is computed"
                binding.outputs[name]._array[...] = value
        finally:
            with _world.lock:
                _world.capturing = False
                _world.n_running -= 1

    def _record(self) -> None:
        """A profile's events of one execution: 10 µs for each node, one after the other, 100 µs after the last execution."""
        start = 100 + (max(e["ts"] + e["dur"] for e in self.events) if self.events else 0)
        at = start
        for index, ((provider, nodes), name) in enumerate(zip(self.parts, self._names(), strict=True)):
            kind = name.removeprefix(f"{TENSORRT}_").rpartition("_")[0] if provider == TENSORRT else nodes[0].op_type
            shapes = {"input_type_shape": [{"float": [1]}], "output_type_shape": [{"float": [1]}]}
            args = {"op_name": kind, "provider": provider, "node_index": str(index), **shapes}
            dur = 10 * len(nodes)
            self.events.append({"cat": "Node", "name": f"{name}_kernel_time", "ts": at, "dur": dur, "args": args})
            at += dur
        self.events.append({"cat": "Session", "name": "model_run", "ts": start - 1, "dur": at - start + 1, "args": {}})

    def end_profiling(self) -> str:
        assert self._config.enable_profiling
        path = Path(f"{self._config.profile_file_prefix}_double.json")
        path.write_text(json.dumps(self.events))
        return str(path)
