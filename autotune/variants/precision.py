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
from autotune.variants.quantize import int8_from_fp32
from autotune.variants.variant import QuantScheme

Convert = Callable[[Path, Path, QuantScheme, Dataset | None], tuple[str, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a precision is made: `convert(source, target, scheme, calibration)` writes `target` and returns notes.

    `calibrated`: the result depends on the calibration split and on the engine's quantization scheme.
    `distributions`: whose versions the result depends on.
    """

    convert: Convert
    doc: str
    calibrated: bool = False
    distributions: tuple[str, ...] = ("onnx",)


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
    return int8_from_fp32(source, target, scheme=scheme, calibration=calibration, per_channel=per_channel)


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
        distributions=_ORT,
    ),
    "int8-tensor": Recipe(
        convert=partial(_int8, per_channel=False),
        doc="8-bit weights with one scale per tensor, 8-bit activations",
        calibrated=True,
        distributions=_ORT,
    ),
}


def recipe_for(precision: str) -> Recipe:
    """The recipe of a precision. Raises Unsupported naming those that exist."""
    try:
        return PRECISIONS[precision]
    except KeyError as exc:
        raise Unsupported(f"no recipe for precision {precision!r}; known: {', '.join(PRECISIONS)}", stage="variant") from exc
