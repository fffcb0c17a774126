"""ModelVariant: one compressed version of the model, and the scheme in which an engine wants its integers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from autotune.records import VariantInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantScheme:
    """How an engine wants 8-bit Q/DQ graphs.

    `activations`: uint8 is asymmetric with a zero point; int8 is symmetric around 0, the only form NVIDIA's parser takes.
    `quantize_bias`: biases as int32 Q/DQ (ONNX Runtime fuses them) or left in floating point (NVIDIA's parser).
    """

    activations: Literal["uint8", "int8"] = "uint8"
    quantize_bias: bool = True

    @property
    def name(self) -> str:
        """Short form for keys and for people, such as "u8-asym+bias"."""
        return ("u8-asym" if self.activations == "uint8" else "s8-sym") + ("+bias" if self.quantize_bias else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVariant:
    """An ONNX file that carries its precision in its types and Q/DQ nodes. The file is immutable and content-addressed.

    The first dimension of every input and output is the batch and is dynamic.
    """

    key: str
    path: Path
    info: VariantInfo
