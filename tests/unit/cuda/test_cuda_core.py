"""The adapter to cuda-core, with the real cuda-core and cuda-bindings on a double of the driver's C library."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from assets.driver_double import driver_folder, with_driver

from autotune.cuda.cuda_core import CudaCoreRuntime
from autotune.cuda.probe import why_runtime_fails
from autotune.errors import EnvironmentProblem
from autotune.fingerprint import library_version


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    """What a GPU is needed for apart, these packages can be tested everywhere."""
    if library_version("cuda-core") is None or library_version("cuda-bindings") is None:
        pytest.skip("cuda-core and cuda-bindings are not installed: pip install 'autotune[cuda-core]'")


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return driver_folder(tmp_path_factory.mktemp("driver"))


def test_the_contract_holds_on_the_real_packages(driver: Path) -> None:
    """Every call of the adapter exists in the installed packages with these arguments, and does what is meant by it."""
    ended = with_driver(
        driver, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/gpu/test_gpu_runtimes.py", "-k", "CudaCore"
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    counts = dict((word, int(n)) for n, word in re.findall(r"(\d+) (passed|skipped|failed)", ended.stdout.splitlines()[-1]))
    assert counts.get("passed", 0) >= 19 and not counts.get("skipped"), ended.stdout


def test_the_probe_tries_in_a_process_of_its_own(driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`doctor` calls a runtime usable when it moved bytes, and gives its own words when it did not."""
    monkeypatch.setenv("LD_LIBRARY_PATH", str(driver))
    assert why_runtime_fails("cuda-core") == ""
    monkeypatch.setenv("FAKE_LIBCUDA_FAULT", "no device")
    assert "CUDA_ERROR_NO_DEVICE" in why_runtime_fails("cuda-core")


def test_without_a_driver_the_environment_is_to_blame() -> None:
    """A machine without a GPU is told what to do, not shown a traceback of the bindings."""
    try:
        CudaCoreRuntime()
    except EnvironmentProblem as exc:
        assert "cuda-core" in str(exc) and "nvidia-smi" in exc.remedy
    else:
        pytest.skip("this machine has a driver")


def test_a_release_before_the_first_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """0.x has other names: it would fail in the middle of a study."""
    monkeypatch.setattr("autotune.cuda.cuda_core.library_version", lambda name: "0.4.2" if name == "cuda-core" else "13.0.1")
    gap = CudaCoreRuntime.gap()
    assert gap is not None and "cuda-core 0.4.2 is installed" in gap.missing and "autotune[cuda-core]" in gap.remedy


FAULTS = {
    "the driver's bound is refused": """
runtime = CudaCoreRuntime()
pool = runtime.pool(cap_bytes=1 << 20)  # the double refuses a bound once, as a driver before CUDA 12.2 does
stream = runtime.stream()
try:
    pool.allocate((1 << 20) + 1, stream)
except OutOfMemory:
    print("capped")
""",
    "an illegal address": """
runtime = CudaCoreRuntime()
stream, source = runtime.stream(), runtime.pinned(8)
buffer = runtime.pool().allocate(8, stream)
buffer.pointer = 4096
runtime.copy_in(buffer, source, 8, stream)
for _ in range(2):  # sticky: the context stays unusable
    try:
        stream.synchronize()
    except Unstable as exc:
        print("unstable", "ILLEGAL_ADDRESS" in str(exc))
""",
    "no device": """
try:
    CudaCoreRuntime()
except EnvironmentProblem as exc:
    print("told", exc.remedy != "")
""",
    "the device is full": """
runtime = CudaCoreRuntime()
try:
    runtime.pool().allocate(1 << 40, runtime.stream())
except OutOfMemory as exc:
    print("full", "OUT_OF_MEMORY" in str(exc))
""",
}
TOLD = {
    "the driver's bound is refused": "capped\n",
    "an illegal address": "unstable True\nunstable True\n",
    "no device": "told True\n",
    "the device is full": "full True\n",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_drivers_failures_are_told_apart(fault: str, driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of memory rejects one candidate, a broken context makes it unstable, a missing device is for the user to mend."""
    monkeypatch.setenv("FAKE_LIBCUDA_FAULT", fault)
    head = "from autotune.cuda.cuda_core import *\nfrom autotune.errors import *\n"
    ended = with_driver(driver, "-c", head + FAULTS[fault])
    assert ended.stdout == TOLD[fault], ended.stdout + ended.stderr
