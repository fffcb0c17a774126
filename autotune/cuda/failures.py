"""What the libraries raise, as the errors of this project."""

from __future__ import annotations

from types import TracebackType

from autotune.errors import (
    AutotuneError,
    CandidateRejected,
    DeviceFault,
    EnvironmentProblem,
    OutOfMemory,
    Unstable,
    Unsupported,
)

_OWN = (CandidateRejected, AutotuneError, ValueError, TypeError)

# Names of CUresult and cudaError_t, and the sentences that CUDA's own cuGetErrorString and the libraries put in their place.
_MEMORY = ("out_of_memory", "memoryallocation", "out of memory", "outofmemoryerror", "failed to allocate")
_ENVIRONMENT = (
    "error_no_device",
    "no cuda-capable device",
    "no cuda gpus are available",
    "driver library",
    "no nvidia driver",
    "libcuda.so",
    "insufficient_driver",
    "driver version is insufficient",
    "system_driver_mismatch",
    "stub_library",
    "not compiled with cuda",
    "requires cuda support",
)
_STICKY = (
    "error_illegal_address",
    "illegal memory access",
    "error_launch_failed",
    "unspecified launch failure",
    "error_launch_timeout",
    "launch timed out and was terminated",
    "error_assert",
    "device-side assert triggered",
    "hardware_stack_error",
    "hardware stack error",
    "error_illegal_instruction",
    "illegal instruction was encountered",
    "error_misaligned_address",
    "misaligned address",
    "error_invalid_address_space",
    "global/shared address space",
    "error_invalid_pc",
    "invalid program counter",
    "ecc_uncorrectable",
    "uncorrectable ecc error",
    "nvlink_uncorrectable",
    "uncorrectable nvlink error",
)
"""Those of which CUDA's manual says that the process must be ended and started again before CUDA can be used."""
_UNSUPPORTED = ("error_not_supported", "operation not supported")


def failure(exc: BaseException | str, doing: str, stage: str) -> Exception:
    """OutOfMemory, EnvironmentProblem, DeviceFault, Unsupported or, for all else, Unstable; `doing`: what was asked of CUDA."""
    found = exc if isinstance(exc, str) else f"{type(exc).__name__}: {exc}"
    text = found.lower()
    if any(word in text for word in _MEMORY) or isinstance(exc, MemoryError):
        return OutOfMemory(f"{doing}: {found}", stage=stage)
    if any(word in text for word in _ENVIRONMENT):
        return EnvironmentProblem(f"{doing}: {found}.", remedy="nvidia-smi, which the driver brings; then autotune doctor")
    if is_sticky(text):
        return DeviceFault(f"{doing}: {found}", stage=stage)
    if any(word in text for word in _UNSUPPORTED):
        return Unsupported(f"{doing}: {found}", stage=stage)
    return Unstable(f"{doing}: {found}", stage=stage)


def is_sticky(text: str) -> bool:
    """True where a library's message names an error after which its process can do nothing more with the device."""
    return any(word in text.lower() for word in _STICKY)


class translating:
    """What the block raises leaves it as an error of this project; errors of this project and misuse pass as they are.

    A class, named as a verb for how it reads: it stands around every launch, where a generator would cost three times as much.
    """

    __slots__ = ("_doing", "_stage")

    def __init__(self, doing: str, stage: str = "open") -> None:
        self._doing, self._stage = doing, stage

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(exc, Exception) and not isinstance(exc, _OWN):
            raise failure(exc, self._doing, self._stage) from exc
