"""What CUDA says is told apart by its own words, whichever library passes them on."""

from __future__ import annotations

import pytest

from autotune.cuda.failures import failure, translating
from autotune.errors import CandidateRejected, DeviceFault, EnvironmentProblem, OutOfMemory, Unstable, Unsupported

SAID = {
    "CUDAError: CUDA_ERROR_OUT_OF_MEMORY: The API call failed because it was unable to allocate enough memory": OutOfMemory,
    "cuMemAlloc failed: out of memory": OutOfMemory,
    "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.": OutOfMemory,
    "cudaErrorMemoryAllocation (2)": OutOfMemory,
    "RuntimeError: Failed to allocate memory from pool": OutOfMemory,  # all that cuda-core 1.0 says
    "CUDA_ERROR_NO_DEVICE (100)": EnvironmentProblem,
    "cuInit failed: no CUDA-capable device is detected": EnvironmentProblem,
    "RuntimeError: Found no NVIDIA driver on your system.": EnvironmentProblem,
    "RuntimeError: No CUDA GPUs are available": EnvironmentProblem,
    "AssertionError: Torch not compiled with CUDA enabled": EnvironmentProblem,
    "cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version": EnvironmentProblem,
    "CUDA_ERROR_NOT_SUPPORTED (801)": Unsupported,
    "CUDA_ERROR_ILLEGAL_ADDRESS (700)": DeviceFault,
    "CUDA error: device-side assert triggered": DeviceFault,
    "an illegal memory access was encountered": DeviceFault,
    "CUDA failure 719: unspecified launch failure": DeviceFault,
    "uncorrectable ECC error encountered": DeviceFault,
    "operation not supported on global/shared address space": DeviceFault,
    "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED (901)": Unstable,
}


@pytest.mark.parametrize(("said", "kind"), SAID.items())
def test_each_saying_has_its_meaning(said: str, kind: type[Exception]) -> None:
    """The wording is CUDA's, cuda-core's, torch's or PyCUDA's; what was asked stands before it."""
    found = failure(said, "copying", "load")
    assert type(found) is kind and "copying" in str(found) and said in str(found)
    if isinstance(found, CandidateRejected):
        assert found.stage == "load"


def test_errors_of_this_project_and_misuse_pass_as_they_are() -> None:
    """A ValueError is the caller's mistake, not the GPU's; an interrupt is nobody's."""
    for kind in (ValueError, TypeError, KeyboardInterrupt):
        with pytest.raises(kind, match="mine"), translating("copying"):
            raise kind("mine")
    with pytest.raises(OutOfMemory, match=r"^mine$"), translating("copying"):
        raise OutOfMemory("mine", stage="open")
    with pytest.raises(Unstable, match="copying: RuntimeError: theirs") as told, translating("copying"):
        raise RuntimeError("theirs")
    assert isinstance(told.value.__cause__, RuntimeError)
