"""Which number formats a GPU computes in, by compute capability, with the reason where it does not."""

from __future__ import annotations

import re
from collections.abc import Iterable

Capability = tuple[int, int]

_SINCE: dict[str, tuple[Capability, str]] = {
    "fp16": ((5, 3), "half-precision arithmetic begins with compute capability 5.3"),
    "int8": ((6, 1), "8-bit dot products (DP4A) begin with compute capability 6.1"),
    "bf16": ((8, 0), "bfloat16 tensor cores begin with Ampere (sm_80)"),
    "tf32": ((8, 0), "TF32 tensor cores begin with Ampere (sm_80)"),
    "int4": ((8, 0), "NVIDIA's builders take int4 weights from Ampere (sm_80) on"),
    "2:4": ((8, 0), "sparse tensor cores begin with Ampere (sm_80)"),
    "fp8": ((8, 9), "8-bit floating point begins with Ada (sm_89) and Hopper (sm_90)"),
    "fp4": ((10, 0), "4-bit floating point begins with Blackwell (sm_100)"),
}
"""Format → first compute capability, and why (CUDA C++ programming guide, "Arithmetic Instructions", "Warp matrix functions").
int4 is refused by TensorRT for RTX 1.7 when it builds for sm_75 ("HW-specific datatypes: int4")."""

_DOUBTS: dict[str, tuple[Capability, str]] = {
    "int8": ((7, 2), "8-bit tensor cores begin with sm_72; here int8 is DP4A, which may lose to fp16 from batch 32 on"),
    "fp16": ((7, 0), "fp16 tensor cores begin with sm_70; here fp16 saves memory traffic only"),
}
"""Formats that run below these capabilities, but without tensor cores: searched, but seldom first."""


def refused_precisions(precisions: Iterable[str], capability: Capability) -> dict[str, str]:
    """The precisions that a device of this capability cannot compute in, each with the reason.

    A precision's name is made of the formats it uses ("weak-fp16+int8"): it needs all of them.
    """
    return {p: why for p in precisions if (why := _lack(p, capability))}


def doubtful_precisions(precisions: Iterable[str], capability: Capability) -> dict[str, str]:
    """The precisions that run on a device of this capability, though without the hardware that makes them fast."""
    found = {}
    for precision in precisions:
        for name in _formats(precision):
            since, why = _DOUBTS.get(name, ((0, 0), ""))
            if capability < since and not _lack(precision, capability):
                found[precision] = why
    return found


def channel_block(device: str) -> int:
    """Channel counts that kernels on a kind of device like are multiples of this, where pruning may choose.

    8 on CPUs, whose vectors hold 8 or 16 channels. 32 on NVIDIA GPUs: fp16 tensor cores want multiples of 8, int8 dot products
    (DP4A) of 4, int8 tensor cores of 16, and TensorRT's int8 layouts lie in blocks of 32; one count serves all precisions, for
    a pruned model is recovered once and converted to each.
    """
    return 32 if device == "cuda" else 8


def _lack(precision: str, capability: Capability) -> str:
    for name in _formats(precision):
        since, why = _SINCE.get(name, ((0, 0), ""))
        if capability < since:
            return f"{why}; this GPU is sm_{capability[0]}{capability[1]}"
    return ""


def _formats(precision: str) -> list[str]:
    return re.split(r"[-+_]", precision)
