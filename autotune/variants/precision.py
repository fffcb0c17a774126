"""The number formats a study may ask for: one entry each. A new one needs nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from autotune.data.dataset import Dataset
from autotune.errors import Unsupported
from autotune.variants.half import bf16_from_fp32, fp16_from_fp32
from autotune.variants.int4 import int4_from_fp32
from autotune.variants.qdq import FP8, INT8, qdq_from_fp32
from autotune.variants.quantize import int8_from_fp32
from autotune.variants.variant import QuantScheme

Convert = Callable[[Path, Path, QuantScheme, Dataset | None], tuple[str, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a precision is made: `convert(source, target, scheme, calibration)` writes `target` and returns notes.

    `calibrated`: the result depends on the calibration split. `schemed`: it depends on the engine's quantization scheme.
    `sparse`: `source` is made 2:4 sparse first. `distributions`: whose versions the result depends on.
    """

    convert: Convert
    doc: str
    calibrated: bool = False
    schemed: bool = False
    sparse: bool = False
    distributions: tuple[str, ...] = ("onnx",)

    @property
    def only_casts(self) -> bool:
        """True where each number is rounded by itself: made in no time, and nearly as accurate as the model."""
        return not (self.calibrated or self.schemed or self.sparse)


def _fp32(source: Path, target: Path, scheme: QuantScheme, calibration: Dataset | None) -> tuple[str, ...]:
    shutil.copyfile(source, target)
    return ()


def _fp16(source: Path, target: Path, scheme: QuantScheme, calibration: Dataset | None) -> tuple[str, ...]:
    return fp16_from_fp32(source, target)


def _bf16(source: Path, target: Path, scheme: QuantScheme, calibration: Dataset | None) -> tuple[str, ...]:
    return bf16_from_fp32(source, target)


def _int8(
    source: Path, target: Path, scheme: QuantScheme, calibration: Dataset | None, *, per_channel: bool
) -> tuple[str, ...]:
    if scheme.placement == "everywhere":
        return int8_from_fp32(source, target, scheme=scheme, calibration=calibration, per_channel=per_channel)
    return qdq_from_fp32(source, target, form=INT8, scheme=scheme, calibration=calibration, per_channel=per_channel)


def _weak_int8(source: Path, target: Path, scheme: QuantScheme, calibration: Dataset | None) -> tuple[str, ...]:
    """On an fp32 graph whatever the scheme says: the builder lowers what is not quantized where that is faster."""
    wide = QuantScheme(activations="int8", quantize_bias=False, placement="products")
    return qdq_from_fp32(source, target, form=INT8, scheme=wide, calibration=calibration)


def _fp8(source: Path, target: Path, scheme: QuantScheme, calibration: Dataset | None) -> tuple[str, ...]:
    return qdq_from_fp32(source, target, form=FP8, scheme=scheme, calibration=calibration)


def _int4(source: Path, target: Path, scheme: QuantScheme, calibration: Dataset | None) -> tuple[str, ...]:
    return int4_from_fp32(source, target, scheme=scheme)


_ORT = ("onnx", "onnxruntime", "onnxruntime-gpu")

PRECISIONS: dict[str, Recipe] = {
    "fp32": Recipe(convert=_fp32, doc="32-bit floating point, the model as it is"),
    "tf32": Recipe(convert=_fp32, doc="the fp32 graph; an NVIDIA GPU's tensor cores round the factors of products to 19 bits"),
    "fp16": Recipe(convert=_fp16, doc="16-bit floating point; inputs and outputs stay fp32", distributions=_ORT),
    "bf16": Recipe(convert=_bf16, doc="bfloat16; inputs and outputs stay fp32", distributions=("onnx", "ml_dtypes")),
    "amp-fp16": Recipe(convert=_fp32, doc="the fp32 graph; the engine computes products in fp16, the rest in fp32 (autocast)"),
    "amp-bf16": Recipe(convert=_fp32, doc="the fp32 graph; the engine computes products in bf16, the rest in fp32 (autocast)"),
    "int8": Recipe(
        convert=partial(_int8, per_channel=True),
        doc="8-bit weights with a scale per channel, 8-bit activations",
        calibrated=True,
        schemed=True,
        distributions=_ORT,
    ),
    "int8-tensor": Recipe(
        convert=partial(_int8, per_channel=False),
        doc="8-bit weights with one scale per tensor, 8-bit activations",
        calibrated=True,
        schemed=True,
        distributions=_ORT,
    ),
    "fp8": Recipe(
        convert=_fp8,
        doc="E4M3 weights with a scale per channel and E4M3 activations, where fp8 kernels take the layer's shape",
        calibrated=True,
        schemed=True,
        distributions=(*_ORT, "ml_dtypes"),
    ),
    "int4": Recipe(
        convert=_int4,
        doc="4-bit weights in blocks for matrix products; activations, convolutions and products in floating point",
        schemed=True,
        distributions=_ORT,
    ),
    "fp16-sparse": Recipe(
        convert=_fp16,
        doc="fp16 with 2:4 structured sparsity: two of every four weights along the input channels are zero",
        sparse=True,
        distributions=_ORT,
    ),
    "weak-fp16": Recipe(convert=_fp32, doc="the fp32 graph; TensorRT's builder takes fp16 where that is faster"),
    "weak-fp16-int8": Recipe(
        convert=_weak_int8,
        doc="the int8 Q/DQ graph on fp32; TensorRT's builder takes fp16 or fp32 where no Q/DQ stand",
        calibrated=True,
        schemed=True,
        distributions=_ORT,
    ),
}


def recipe_for(precision: str) -> Recipe:
    """The recipe of a precision. Raises Unsupported naming those that exist."""
    try:
        return PRECISIONS[precision]
    except KeyError as exc:
        raise Unsupported(f"no recipe for precision {precision!r}; known: {', '.join(PRECISIONS)}", stage="variant") from exc
