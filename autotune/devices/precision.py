"""Which number formats a GPU and a release of TensorRT compute in, with the reason where they do not."""

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
    "sparse": ((8, 0), "sparse tensor cores (2:4) begin with Ampere (sm_80)"),
    "fp8": ((8, 9), "8-bit floating point begins with Ada (sm_89) and Hopper (sm_90)"),
    "fp4": ((10, 0), "4-bit floating point begins with Blackwell (sm_100)"),
}
"""Format → first compute capability, and why (CUDA C++ programming guide, "Arithmetic Instructions", "Warp matrix functions").
int4 is refused by TensorRT for RTX 1.7 when it builds for sm_75 ("HW-specific datatypes: int4")."""

Version = tuple[int, ...]

_TENSORRT_SINCE: dict[str, tuple[Version, str]] = {
    "int8": ((10, 0), "TensorRT 8 takes the weights of Q/DQ graphs in floating point only, and these are stored in 8 bits"),
    "bf16": ((10, 0), "TensorRT 8 has no bfloat16"),
    "fp8": ((10, 0), "Q/DQ graphs in fp8 (opset 19) begin with TensorRT 10"),
    "int4": ((10, 0), "4-bit weights begin with TensorRT 10"),
}
"""Format → first release (TensorRT's release notes and API; for int8 its developer guide 8.6, "Quantized Weights")."""

_TENSORRT_UNTIL: dict[str, tuple[Version, str]] = {
    "weak": ((11,), "networks are strongly typed since TensorRT 11 and in TensorRT for RTX: no builder chooses precisions"),
}
"""Format → the release that removed it."""

_DOUBTS: dict[str, tuple[Capability, str]] = {
    "int8": ((7, 2), "8-bit tensor cores begin with sm_72; here int8 is DP4A, which may lose to fp16 from batch 32 on"),
    "fp16": ((7, 0), "fp16 tensor cores begin with sm_70; here fp16 saves memory traffic only"),
}
"""Formats that run below these capabilities, but without tensor cores: searched, but seldom first."""


def refused_precisions(precisions: Iterable[str], capability: Capability) -> dict[str, str]:
    """The precisions that a device of this capability cannot compute in, each with the reason.

    A precision's name is made of the formats it uses ("weak-fp16-int8"): it needs all of them.
    """
    return {p: why for p in precisions if (why := _lack(p, capability))}


def refused_by_tensorrt(precisions: Iterable[str], version: str, *, rtx: bool = False) -> dict[str, str]:
    """The precisions that a release of TensorRT builds for no GPU, each with the reason.

    `version`: such as "10.4.0". `rtx`: it is one of TensorRT for RTX, which count from 1 and have what TensorRT 11 has.
    """
    release = tuple(int(part) for part in re.findall(r"\d+", version)[:3])
    here = f"here is {'TensorRT for RTX' if rtx else 'TensorRT'} {'.'.join(map(str, release))}"
    return {p: f"{why}; {here}" for p in precisions if (why := _missing_in(p, release, rtx))}


def _missing_in(precision: str, release: Version, rtx: bool) -> str:
    """Why the release lacks a format of the precision; empty where it has all."""
    for name in _formats(precision):
        if name in _TENSORRT_UNTIL and (rtx or release >= _TENSORRT_UNTIL[name][0]):
            return _TENSORRT_UNTIL[name][1]
        if name in _TENSORRT_SINCE and not rtx and release < _TENSORRT_SINCE[name][0]:
            return _TENSORRT_SINCE[name][1]
    return ""


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

    8 on CPUs, whose vectors hold 8 or 16 channels. On NVIDIA GPUs the least block that serves every precision, for a pruned
    model is recovered once and converted to each: 32.
    """
    return max(_BLOCKS.values()) if device == "cuda" else 8


_BLOCKS = {
    "fp16 on tensor cores": 8,
    "int8 by DP4A": 4,
    "int8 on tensor cores": 16,
    "int8 layouts of TensorRT": 32,
    "fp8 on tensor cores": 16,
    "2:4 sparse": 16,
}
"""Channels that NVIDIA's kernels work on at once; every one divides 32. Tensor cores: 16 bytes of a row, that is 8 channels in
fp16 and 16 in 8 bits ("Matrix Multiplication Background User's Guide", "Requirements to use Tensor Cores"). DP4A multiplies
four 8-bit values. TensorRT's formats kCHW4 and kCHW32 hold 4 and 32 channels of int8 ("I/O Formats"). fp8 and 2:4: the rules of
NVIDIA's own tools, in `variants/qdq.py` and `variants/sparse.py`."""


def _lack(precision: str, capability: Capability) -> str:
    for name in _formats(precision):
        since, why = _SINCE.get(name, ((0, 0), ""))
        if capability < since:
            return f"{why}; this GPU is sm_{capability[0]}{capability[1]}"
    return ""


def _formats(precision: str) -> list[str]:
    return re.split(r"[-+_]", precision)
