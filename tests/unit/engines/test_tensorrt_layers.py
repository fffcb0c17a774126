"""What is read of an engine's layers: the two forms of the inspector's JSON, the builder's log, and the profiler's times."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from autotune.devices.build_target import BuildTarget, set_build_target
from autotune.engines.layers import Explains, Layer
from autotune.engines.tensorrt_layers import layers_from_inspector, layers_from_log, with_times
from autotune.errors import BuildFailed, Unsupported

if TYPE_CHECKING:
    from tensorrt_samples import Bench


def inspected(**layer: Any) -> Layer:
    """One layer as the inspector tells it; the formats are of TensorRT 10.4."""
    (found,) = layers_from_inspector(
        json.dumps({"Layers": [{"Name": "l", "Inputs": [], "Outputs": [], **layer}], "Bindings": []})
    )
    return found


def form(text: str, key: str = "Format/Datatype") -> list[dict[str, str]]:
    return [{"Name": "t", key: text}]


@pytest.mark.parametrize(
    ("text", "precision"),
    [
        ("Row major linear FP32", "fp32"),
        ("Channel major FP16 format where channel % 8 == 0", "fp16"),
        ("Thirty-two wide channel vectorized row major Int8 format.", "int8"),
        ("Half", "fp16"),
        ("Float", "fp32"),
        ("BF16", "bf16"),
        ("FP8", "fp8"),
        ("Int64", "int64"),
        ("UInt8", "uint8"),
        ("N/A due to dynamic shapes", ""),
    ],
)
def test_the_precision_is_the_format_of_the_first_input(text: str, precision: str) -> None:
    """The words of releases 8 to 11; a convolution that reads int8 and writes fp16 computes in int8."""
    assert inspected(LayerType="CaskConvolution", Inputs=form(text), Outputs=form("Half")).precision == (precision or "fp16")
    apart = [{"Datatype": text, "Format": "(Linear) Row major linear format"}]
    assert inspected(LayerType="CaskConvolution", Inputs=apart).precision == precision


def test_tf32_is_told_by_the_kernel() -> None:
    """Tensors of a TF32 product are fp32; the tactic's name says how it multiplies."""
    kernel = "sm80_xmma_fprop_implicit_gemm_indexed_tf32f32_tf32f32_f32_nhwckrsc_nhwc_tilesize128x64x16"
    assert inspected(LayerType="CaskConvolution", Inputs=form("Row major linear FP32"), TacticName=kernel).precision == "tf32"


@pytest.mark.parametrize(
    ("layer", "role"),
    [
        ({"LayerType": "CaskConvolution"}, "compute"),
        ({"LayerType": "Reformat", "Inputs": form("Row major FP32"), "Outputs": form("Channel major FP32")}, "reformat"),
        ({"LayerType": "Reformat", "Inputs": form("Row major FP32"), "Outputs": form("Row major Int8")}, "quantize"),
        ({"LayerType": "Reformat", "Origin": "QDQ"}, "quantize"),
        ({"LayerType": "NoOp"}, "copy"),
        ({"LayerType": "Constant"}, "other"),
        ({"LayerType": "kgen", "Name": "__myl_MoveTran_myl0_3"}, "copy"),
        ({"LayerType": "kgen", "Name": "__myl_CastConc_myl0_0"}, "quantize"),
        ({"LayerType": "kgen", "Name": "__myl_MulMinMaxRounCastConc_myl0_0"}, "quantize"),
        ({"LayerType": "kgen", "Name": "__myl_MulAddReluMulMinMaxRounCast_myl0_2"}, "compute"),
    ],
)
def test_roles(layer: dict[str, Any], role: str) -> None:
    """From the layer's type, its formats, and the operations that Myelin's names list."""
    assert inspected(**layer).role == role


def test_nodes_belong_to_the_layer_that_computes_them() -> None:
    """The metadata name a convolution also where its input is quantized; every node is counted once."""
    rows = [
        {"Name": "__myl_MulRounCast_myl0_0", "LayerType": "kgen", "Metadata": "[ONNX Layer: q]\u001f[ONNX Layer: conv]"},
        {"Name": "conv_myl0_1", "LayerType": "correlation", "Metadata": "[ONNX Layer: conv]\u001e[ONNX Layer: relu]"},
    ]
    first, second = layers_from_inspector(json.dumps({"Layers": rows, "I/O Tensors": []}))
    assert (first.nodes, second.nodes) == (("q",), ("conv", "relu"))


def test_engines_built_without_detail_give_names() -> None:
    """LAYER_NAMES_ONLY: strings instead of objects."""
    found = layers_from_inspector(
        json.dumps({"Layers": ["conv1 + relu1", "Reformatting CopyNode for Input Tensor 0 to conv1"]})
    )
    assert [(x.name, x.role) for x in found] == [
        ("conv1 + relu1", "compute"),
        ("Reformatting CopyNode for Input Tensor 0 to conv1", "reformat"),
    ]


LOG = """\
[VERBOSE] Disabling unused tactic source: JIT_CONVOLUTIONS
[VERBOSE] Layers:
Name: __myl_Move_myl0_0, LayerType: kgen, Inputs: [ { Name: input, Dimensions: [2,1,8,8], Strides: [64,64,8,1], \
StrideOrder: [3,2,1,0], Datatype: Float, Format: (Linear) Row major linear format }], Constants: [], Outputs: [ { Name: r1, \
Dimensions: [2,1,8,8], Strides: [64,1,8,1], StrideOrder: [3,0,2,1], Datatype: Float, Format: (NHWC) Channel major format }], \
TacticName: __myl_Move_0x6f49, StreamId: 0, Metadata: \n\
Name: node_of_c1_myl0_1, LayerType: correlation, Inputs: [ { Name: r1, Dimensions: [2,1,8,8], Strides: [64,1,8,1], \
StrideOrder: [3,0,2,1], Datatype: Int8, Format: (NHWC) Channel major format }], Constants: [ { Name: w, Dimensions: [8,1,3,3], \
Strides: [9,1,3,1], StrideOrder: [3,0,2,1], Datatype: Float, Format: (NHWC) Channel major format }], Outputs: [ { Name: r2, \
Dimensions: [2,8,8,8], Strides: [512,1,64,8], StrideOrder: [3,0,2,1], Datatype: Float, Format: (NHWC) Channel major format }], \
TacticName: __myelin_CASK_STUB, StreamId: 0, Metadata: [ONNX Layer: node_of_c1]\x1f[ONNX Layer: node_of_r1]

I/O Tensors:
 Name: input, IOMode: Input, DataType: Float
"""


def test_the_builders_log_holds_the_layers_too() -> None:
    """As TensorRT for RTX 1.7.1 wrote it for a small network, shortened: without a GPU it is all that there is."""
    move, conv = layers_from_log(LOG.split("\n"))
    assert (move.name, move.role, move.precision, move.kernel) == ("__myl_Move_myl0_0", "reformat", "fp32", "__myl_Move_0x6f49")
    assert (conv.kind, conv.role, conv.precision) == ("correlation", "compute", "int8")
    assert conv.nodes == ("node_of_c1", "node_of_r1")
    assert layers_from_log(["[INFO] nothing", "Layers"]) == ()


def test_times_are_joined_by_name_and_none_is_lost() -> None:
    """What the profiler names and the inspector does not stands at the end, so that the times add up."""
    known = (Layer(name="a", kind="k", role="compute"), Layer(name="b", kind="k", role="compute"))
    found = with_times(known, {"b": 2.0, "c": 3.0})
    assert [(layer.name, layer.time_us) for layer in found] == [("a", None), ("b", 2.0), ("c", 3.0)]


def test_layers_are_inspected_and_profiled(bench: Bench) -> None:
    """On one context without a graph; warm-up executions do not count. The double's layers take 0.25 ms each."""
    from tensorrt_samples import inputs

    assert isinstance(bench.backend, Explains)
    engine = bench.built()
    report = bench.backend.layers(engine, bench.candidate(streams=4, cuda_graph="on"), [inputs(0), inputs(1)], n_runs=5)
    names = [layer.name for layer in report.layers]
    assert len(names) == 8 and names[0].startswith("Reformatting CopyNode")
    assert {layer.time_us for layer in report.layers} == {250.0}
    assert report.total_us == pytest.approx(8 * 250) and report.n_runs == 5
    assert [layer.role for layer in report.layers] == ["reformat", *["compute"] * 7]
    assert {layer.precision for layer in report.layers} == {"fp32"} and report.layers[1].nodes == (names[1],)
    (context,) = bench.world.contexts
    assert context.enqueue_emits_profile is False and context._n_enqueued == 2 + 3 + 5


@pytest.mark.parametrize("fault", ["create_engine_inspector", "report_to_profiler"])
def test_an_inspector_or_profiler_that_refuses_is_a_rejection(bench: Bench, fault: str) -> None:
    """None and False again."""
    from tensorrt_samples import inputs

    engine = bench.built()
    bench.world.faults[fault] = "planted"
    with pytest.raises(BuildFailed, match="planted"):
        bench.backend.layers(engine, bench.candidate(), [inputs()])


def test_without_a_gpu_the_layers_come_from_the_log_and_have_no_times(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine built ahead of time can be looked into where it was built."""
    if not bench.world.surface.is_rtx:
        pytest.skip("only TensorRT for RTX builds ahead of time")
    monkeypatch.setenv("AUTOTUNE_BUILD_TARGET", "")
    set_build_target(BuildTarget())
    engine = bench.built()
    with pytest.raises(Unsupported, match="no table of layers"):
        bench.backend.layers(engine, bench.candidate(), [])
    (engine.folder / "build.log").write_text(LOG)
    report = bench.backend.layers(engine, bench.candidate(), [])
    assert (report.total_us, report.n_runs, len(report.layers)) == (None, 0, 2)
    assert "no times" in report.notes[0] and all(layer.time_us is None for layer in report.layers)
