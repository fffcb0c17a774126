"""ModelVariant: one compressed version of the model, and the scheme in which an engine wants it quantized."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from autotune.records import VariantInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantScheme:
    """How an engine wants its Q/DQ graphs.

    `activations`: uint8 is asymmetric with a zero point; int8 is symmetric around 0, the only form NVIDIA's parser takes.
    `quantize_bias`: biases as int32 Q/DQ (ONNX Runtime fuses them) or left in floating point (NVIDIA's parser).
    `placement`: Q/DQ around every tensor that ONNX Runtime's quantizer knows, or at the factors of products and at residual
    inputs only, as `placement.py` explains; the latter is for symmetric activations without quantized biases.
    `high_precision`: the floating point of what is not quantized; fp16 needs placement at the products.
    """

    activations: Literal["uint8", "int8"] = "uint8"
    quantize_bias: bool = True
    placement: Literal["everywhere", "products"] = "everywhere"
    high_precision: Literal["fp32", "fp16"] = "fp32"

    def __post_init__(self) -> None:
        if self.placement == "products" and (self.activations != "int8" or self.quantize_bias):
            raise ValueError(f"{self.name}: placement at products is made for int8 activations without quantized biases")
        if self.placement != "products" and self.high_precision != "fp32":
            raise ValueError(f"{self.name}: high_precision {self.high_precision} needs placement='products'")

    @property
    def name(self) -> str:
        """Short form for keys and for people, such as "u8-asym+bias" or "s8-sym@products/fp16"."""
        form = ("u8-asym" if self.activations == "uint8" else "s8-sym") + ("+bias" if self.quantize_bias else "")
        placed = "" if self.placement == "everywhere" else "@products"
        return form + placed + ("" if self.high_precision == "fp32" else f"/{self.high_precision}")


def tensorrt_scheme(precision: str) -> QuantScheme:
    """What TensorRT is given: symmetric Q/DQ at products, fp16 elsewhere; fp32 elsewhere where its builder decides ("weak-…").

    fp16, because strongly typed engines compute what is not quantized as the graph says: in fp32 without tensor cores,
    and not at all on sm_75 ("FP32 GEMM is not supported", TensorRT for RTX 1.7).
    """
    rest: Literal["fp32", "fp16"] = "fp32" if precision.startswith("weak-") else "fp16"
    return QuantScheme(activations="int8", quantize_bias=False, placement="products", high_precision=rest)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVariant:
    """An ONNX file that carries its precision in its types and Q/DQ nodes. The file is immutable and content-addressed.

    The first dimension of every input and output is the batch and is dynamic.
    """

    key: str
    path: Path
    info: VariantInfo
