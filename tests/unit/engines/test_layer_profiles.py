"""Parsers of profiles on what the engines really wrote (assets/record_profiles.py), and on small ones written by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from autotune.engines import onnxruntime_profile, openvino_profile, torch_profile
from autotune.engines.layers import N_WARM_UPS, Layer, LayerReport
from autotune.engines.onnxruntime_placement import Placement
from autotune.engines.openvino_profile import Counter
from autotune.engines.torch_profile import Operation
from autotune.errors import Unstable
from autotune.variants.outline import GraphNode, Outline

PROFILES = Path(__file__).parents[2] / "assets" / "profiles"


def outline_from(values: Any) -> Outline:
    return tuple(GraphNode(**{k: tuple(v) if isinstance(v, list) else v for k, v in n.items()}) for n in values)


def counters_from(values: Any) -> tuple[Counter, ...]:
    return tuple(Counter(**{**c, "names": tuple(c["names"])}) for c in values)


def operation_from(values: Any) -> Operation:
    return Operation(**{**values, "children": [operation_from(c) for c in values["children"]]})


def recorded(name: str) -> LayerReport:
    """The report from a recorded profile."""
    stored = json.loads((PROFILES / f"{name}.json").read_text())
    first, second, *rest = stored["arguments"]
    if name.startswith("onnxruntime"):
        return onnxruntime_profile.report_from_events(first, outline_from(second), outline_from(rest[0]))
    if name.startswith("openvino"):
        before, after = counters_from(first), counters_from(second)
        return openvino_profile.report_from_counters(before, after, outline_from(rest[0]), rest[1])
    operations = [operation_from(o) for o in first]
    return torch_profile.report_from_operations(operations, outline_from(second), *rest, **stored["named"])


def holding(report: LayerReport, node: str) -> Layer:
    """The one layer of a node."""
    (found,) = [layer for layer in report.layers if node in layer.nodes]
    return found


def shape(report: LayerReport) -> list[tuple[str, str, str]]:
    """(kind, role, precision) of the layers."""
    return [(layer.kind, layer.role, layer.precision) for layer in report.layers]


def test_onnxruntime_fp32_is_blocked_convolutions_with_everything_fused() -> None:
    """Seven layers for nine nodes: ReLU, Clip and Add are inside convolutions, and one reorder leaves the blocked layout."""
    report = recorded("onnxruntime_fp32")
    assert shape(report) == [
        ("Conv", "compute", "fp32"), ("Conv", "compute", "fp32"), ("Conv", "compute", "fp32"),
        ("GlobalAveragePool", "compute", "fp32"), ("ReorderOutput", "reformat", "fp32"), ("Flatten", "copy", "fp32"),
        ("Gemm", "compute", "fp32"),
    ]  # fmt: skip
    assert holding(report, "stem").nodes == ("stem", "stem/relu")
    assert holding(report, "depthwise").nodes == ("depthwise", "depthwise/relu6")
    assert holding(report, "sum") is holding(report, "project")
    assert holding(report, "stem").kernel == "CPU com.microsoft.nchwc.Conv"
    assert report.n_runs == 2 and report.vanished == ()


def test_onnxruntime_times_are_means_over_the_runs_after_the_warm_ups() -> None:
    """By hand from the recorded events: the sum of a node's durations in the last two of five executions, halved."""
    stored = json.loads((PROFILES / "onnxruntime_fp32.json").read_text())
    durations = [e["dur"] for e in stored["arguments"][0] if e["name"] == "a_nchwc_kernel_time"]
    wholes = [e["dur"] for e in stored["arguments"][0] if e["name"] == "model_run"]
    assert len(durations) == len(wholes) == N_WARM_UPS + 2
    report = recorded("onnxruntime_fp32")
    assert holding(report, "stem").time_us == sum(durations[-2:]) / 2
    assert report.total_us == sum(wholes[-2:]) / 2 and report.runs_us == tuple(map(float, wholes[-2:]))


def test_onnxruntime_int8_leaves_the_sum_and_the_ends_on_their_own() -> None:
    """QLinearAdd is a layer here, Q and DQ at the ends are "quantize", and both added transpositions are "reformat"."""
    report = recorded("onnxruntime_int8")
    assert holding(report, "sum").nodes == ("c_DequantizeLinear", "sum", "d_QuantizeLinear")
    assert {layer.precision for layer in report.layers if layer.role == "compute"} == {"int8"}
    assert [layer.kind for layer in report.layers if layer.role == "quantize"] == ["QuantizeLinear", "DequantizeLinear"]
    assert [layer.kind for layer in report.layers if layer.role == "reformat"] == ["Transpose", "Transpose"]
    assert "a_QuantizeLinear" in holding(report, "stem").nodes and "a_DequantizeLinear" in holding(report, "depthwise").nodes


def test_onnxruntime_fp16_computes_in_fp32_on_a_cpu() -> None:
    """The nodes' names are found behind those that its detour through fp32 gave them."""
    report = recorded("onnxruntime_fp16")
    assert {layer.precision for layer in report.layers if layer.role == "compute"} == {"fp32"}
    assert holding(report, "stem").nodes == ("graph_input_cast0", "stem", "stem/relu")
    assert holding(report, "graph_output_cast0").role == "quantize"


def test_openvino_int8_fuses_the_sum_and_names_its_kernels() -> None:
    """originalLayersNames tell the fused nodes; constants and layers that were not run are left out."""
    report = recorded("openvino_int8")
    project = holding(report, "project")
    assert {"project", "sum", "c_QuantizeLinear", "d_QuantizeLinear"} <= set(project.nodes)
    assert project.precision == "int8" and "amx" in project.kernel
    assert [layer.role for layer in report.layers][:2] == ["quantize", "reformat"]
    assert "flatten" in report.vanished


def test_openvino_counters_of_the_warm_ups_are_taken_off() -> None:
    """A counter of 100 µs after 3 runs and of 80 µs after 5: (80·5 − 100·3)/2 = 50 µs each for the last two."""
    first, second = (
        [Counter(name="c", kind="Convolution", kernel="jit", format="u8", names=("c",), average_us=us)] for us in (100, 80)
    )
    outline = (GraphNode(name="c", op="Conv", label="Conv", inputs=("x",), outputs=("y",)),)
    report = openvino_profile.report_from_counters(first, second, outline, (60.0, 70.0))
    assert N_WARM_UPS == 3
    assert [(layer.time_us, layer.precision) for layer in report.layers] == [(50.0, "int8")]
    assert report.total_us == 65.0


def test_torch_fp32_is_a_layer_per_node() -> None:
    """Eager torch fuses nothing; what it does around the nodes has layers without nodes."""
    report = recorded("torch_fp32")
    assert [layer.nodes[0] for layer in report.layers if layer.nodes] == [
        "stem", "stem/relu", "depthwise", "depthwise/relu6", "project", "sum", "pool", "flatten", "fc",
    ]  # fmt: skip
    assert holding(report, "stem").kernel == "aten::conv2d" and report.vanished == ()
    assert sum(layer.time_us or 0 for layer in report.layers) < (report.total_us or 0)


def test_torch_autocast_casts_weights_in_every_execution() -> None:
    """The casts inside a convolution are layers of their own, and not the convolution's time."""
    report = recorded("torch_amp-bf16")
    casts = {layer.name: layer for layer in report.layers if layer.role == "quantize"}
    assert {"aten::to for stem", "aten::to for depthwise", "aten::to for project", "aten::to for fc"} <= set(casts)
    assert {holding(report, n).precision for n in ("stem", "depthwise", "project", "fc")} == {"bf16"}


def gpu_event(cat: str, name: str, ts: int, dur: int, **args: Any) -> dict[str, Any]:
    return {"cat": cat, "name": name, "ts": ts, "dur": dur, "args": args}


def gpu_events(*, kernels: bool) -> list[dict[str, Any]]:
    """Four executions of one convolution by the CUDA provider, in the form of ONNX Runtime's gpu_profiler_common.h."""
    found = []
    for run in range(N_WARM_UPS + 1):
        at = run * 1000
        types = {"input_type_shape": [{"float": [1, 3]}], "output_type_shape": [{"float": [1, 3]}]}
        found.append(gpu_event("Session", "model_run", at, 900))
        found.append(
            gpu_event(
                "Node", "c_kernel_time", at + 1, 9, op_name="Conv", node_index="0", provider="CUDAExecutionProvider", **types
            )
        )
        if kernels:
            found.append(gpu_event("Kernel", "sm80_tf32_gemm", at + 2, 300, parent_name="c_kernel_time"))
            found.append(gpu_event("Kernel", "sm80_tf32_gemm", at + 3, 200, parent_name="c_kernel_time"))
            found.append(gpu_event("Kernel", "Memcpy HtoD", at + 4, 40))
    return found


CONV = (GraphNode(name="c", op="Conv", label="Conv", inputs=("x",), outputs=("y",)),)


def test_on_a_gpu_a_layers_time_is_that_of_its_kernels() -> None:
    """300 + 200 µs of kernels and not the 9 µs of launching; a copy that belongs to no node is told as such."""
    report = onnxruntime_profile.report_from_events(gpu_events(kernels=True), CONV, CONV)
    layer, lost = report.layers
    assert (layer.time_us, layer.kernel, layer.precision, layer.nodes) == (500.0, "sm80_tf32_gemm", "tf32", ("c",))
    assert (lost.time_us, lost.role, lost.nodes) == (40.0, "other", ())


def test_on_a_gpu_without_kernels_a_layer_has_no_time() -> None:
    """The host's time is that of launching, and would be a wrong answer."""
    report = onnxruntime_profile.report_from_events(gpu_events(kernels=False), CONV, CONV)
    assert [layer.time_us for layer in report.layers] == [None]
    assert any("CUPTI" in note for note in report.notes)


def tensorrt_events(*, kernels: bool) -> list[dict[str, Any]]:
    """Four executions: subgraph 0, a node of CUDA's, one of the CPU's with its copy, subgraph 1.

    The events have the fields that the recorded ones of the CPU have; a fused node is called after its provider, then
    "TRTKernel_graph", the graph, a hash and its number twice (tensorrt_execution_provider.cc, GetSubGraph).
    """
    types = {"input_type_shape": [{"float": [1, 3]}], "output_type_shape": [{"float": [1, 3]}]}
    fused = "TensorrtExecutionProvider_TRTKernel_graph_main_graph_9"
    executed = (
        (f"{fused}_0_0", "TRTKernel_graph_main_graph_9_0", "TensorrtExecutionProvider", 400),
        ("loop", "NonZero", "CUDAExecutionProvider", 8),
        ("shape", "Shape", "CPUExecutionProvider", 5),
        ("Memcpy_token_1", "MemcpyFromHost", "CUDAExecutionProvider", 6),
        (f"{fused}_1_1", "TRTKernel_graph_main_graph_9_1", "TensorrtExecutionProvider", 100),
    )
    found = []
    for run in range(N_WARM_UPS + 1):
        at = run * 1000
        found.append(gpu_event("Session", "model_run", at, 600))
        for index, (name, op, provider, us) in enumerate(executed):
            at += 100
            args = {"op_name": op, "provider": provider, "node_index": str(index), **types}
            found.append(gpu_event("Node", f"{name}_kernel_time", at, us, **args))
            if kernels and us >= 100:
                found.append(gpu_event("Kernel", "sm80_xmma", at + 1, us - 30, parent_name=f"{name}_kernel_time"))
    return found


PARTS = tuple(
    GraphNode(name=name, op=op, label=op, inputs=(before,), outputs=(after,))
    for name, op, before, after in (
        ("first", "Conv", "x", "a"), ("relu", "Relu", "a", "b"), ("loop", "NonZero", "b", "c"), ("shape", "Shape", "c", "d"),
        ("last", "Conv", "d", "y"),
    )
)  # fmt: skip
PLACED = (
    Placement(provider="TensorrtExecutionProvider", nodes=(("first", "Conv"), ("relu", "Relu"))),
    Placement(provider="CUDAExecutionProvider", nodes=(("loop", "NonZero"),)),
    Placement(provider="CPUExecutionProvider", nodes=(("shape", "Shape"),)),
    Placement(provider="TensorrtExecutionProvider", nodes=(("last", "Conv"),)),
)


def test_tensorrts_subgraphs_are_layers_with_the_nodes_that_the_session_placed_there() -> None:
    """Without CUPTI a subgraph has the host's time, as the CPU's node has: it ends with a synchronization. CUDA's has none."""
    report = onnxruntime_profile.report_from_events(tensorrt_events(kernels=False), (), PARTS, PLACED)
    told = [(x.provider, x.kind, x.nodes, x.time_us, x.precision) for x in report.layers]
    assert told == [
        ("TensorRT", "TensorRT subgraph", ("first", "relu"), 400.0, ""),
        ("CUDA", "NonZero", ("loop",), None, "fp32"),
        ("CPU", "Shape", ("shape",), 5.0, "fp32"),
        ("CUDA", "MemcpyFromHost", (), None, "fp32"),
        ("TensorRT", "TensorRT subgraph", ("last",), 100.0, ""),
    ]
    assert [x.role for x in report.layers] == ["compute", "compute", "other", "copy", "compute"]
    assert any("engines: [tensorrt]" in n for n in report.notes) and any("timed on the host" in n for n in report.notes)
    assert report.vanished == () and report.total_us == 600.0


def test_with_cupti_a_subgraphs_time_is_that_of_its_kernels() -> None:
    """370 of 400 µs, and the name of the longest kernel."""
    report = onnxruntime_profile.report_from_events(tensorrt_events(kernels=True), (), PARTS, PLACED)
    assert [(x.time_us, x.kernel) for x in report.layers if x.provider == "TensorRT"] == [
        (370.0, "sm80_xmma"),
        (70.0, "sm80_xmma"),
    ]
    assert not any("on the host" in n or "CUPTI)" in n for n in report.notes)


def test_subgraphs_whose_nodes_are_not_told_have_none_and_say_so() -> None:
    """Before ONNX Runtime 1.24: times are there, and the nodes are listed as vanished."""
    report = onnxruntime_profile.report_from_events(tensorrt_events(kernels=False), (), PARTS)
    assert [x.nodes for x in report.layers if x.provider == "TensorRT"] == [(), ()]
    assert [x.nodes for x in report.layers if x.provider == "CUDA"] == [("loop",), ()]
    assert report.vanished == ("first", "relu", "last") and any("from 1.24 on" in n for n in report.notes)


def test_torch_on_a_gpu_counts_kernels_at_any_depth() -> None:
    """The convolution's 30 µs of kernels, without the 5 µs of the cast inside it."""
    cast = Operation(
        name="aten::to", host_us=50, device_us=5, children=[Operation(name="aten::_to_copy", host_us=40, device_us=5)]
    )
    inner = Operation(name="aten::cudnn_convolution", host_us=80, device_us=30, kernels={"sm80_xmma": 30.0})
    conv = Operation(name="aten::conv2d", host_us=200, device_us=35, children=[cast, inner])
    root = Operation(name="autotune node c", host_us=300, device_us=35, children=[conv])
    report = torch_profile.report_from_operations([root], CONV, {"c": "fp16"}, (400.0,), on_gpu=True)
    assert [(layer.nodes, layer.time_us, layer.role) for layer in report.layers] == [
        (("c",), 30.0, "compute"),
        ((), 5.0, "quantize"),
    ]
    assert report.layers[0].kernel == "sm80_xmma" and report.layers[0].precision == "fp16"


def test_a_profile_without_executions_is_no_report() -> None:
    """An engine that was never run has no times, and says so."""
    with pytest.raises(Unstable, match="warm-ups"):
        onnxruntime_profile.report_from_events([], CONV, CONV)
