"""GPUs are found through NVML, selected by UUID, and what is missing is said with the command that helps."""

from __future__ import annotations

import os

import pytest

pynvml = pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed: pip install 'autotune[nvml]'")

from assets.fake_nvml import FakeGpu, install  # noqa: E402

from autotune.devices import gpu as devices  # noqa: E402
from autotune.devices.precision import (  # noqa: E402
    channel_block,
    doubtful_precisions,
    refused_by_tensorrt,
    refused_precisions,
)
from autotune.errors import EnvironmentProblem  # noqa: E402

V100 = FakeGpu()
T4 = FakeGpu(uuid="GPU-bbbb", name="Tesla T4", capability=(7, 5), memory=15360 << 20, limit_mw=70_000)


def test_a_gpu_is_described_by_what_a_measurement_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Name, compute capability, memory and power limit; driver and CUDA stand among the versions."""
    install(monkeypatch, V100)
    (found,) = devices.all_gpus()
    assert str(found) == "Tesla V100-SXM2-16GB (sm_70, 16384 MiB, 300 W)"
    devices.select_gpu("cuda:0")
    taken = devices.device_fingerprint("cuda", ("numpy",))
    assert taken.kind == "cuda" and taken.memory_mib == 16384
    assert taken.versions["nvidia-driver"] == "550.54.15" and taken.versions["cuda-driver"] == "12.4"
    assert devices.device_fingerprint("cpu").kind == "cpu"


def test_selecting_leaves_one_visible_gpu_and_can_be_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA libraries see the chosen GPU as number 0; a second selection counts GPUs as the user does."""
    install(monkeypatch, V100, T4)
    assert not devices.is_gpu_selected()
    for _ in range(2):
        assert devices.select_gpu("cuda:1").name == "Tesla T4"
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-bbbb" and devices.is_gpu_selected()
    assert devices.selected_gpu().uuid == "GPU-bbbb"
    assert devices.select_gpu("cuda").uuid == "GPU-aaaa"


@pytest.mark.parametrize(
    ("visible", "seen"),
    [
        ("1", ["GPU-bbbb"]),
        ("1,0", ["GPU-bbbb", "GPU-aaaa"]),
        ("GPU-a", ["GPU-aaaa"]),
        ("0,7,1", ["GPU-aaaa"]),
        ("0,0", ["GPU-aaaa"]),
        ("", []),
        ("-1", []),
        ("GPU-", []),
    ],
)
def test_cuda_visible_devices_is_read_as_cuda_reads_it(monkeypatch: pytest.MonkeyPatch, visible: str, seen: list[str]) -> None:
    """Numbers or UUIDs, which may be shortened while they mean one device; the list ends at the first that does not exist."""
    install(monkeypatch, V100, T4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [g.uuid for g in devices.visible_gpus()] == seen
    if not seen:
        with pytest.raises(EnvironmentProblem, match="names none that exists"):
            devices.selected_gpu()


def test_a_gpu_that_is_not_there_is_named_with_those_that_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 3; the message lists what could be asked for instead."""
    install(monkeypatch, V100)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(EnvironmentProblem, match=r"cuda:3.*CUDA_VISIBLE_DEVICES=0.*cuda:0 Tesla V100.*nvidia-smi") as caught:
        devices.select_gpu("cuda:3")
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "not loaded.*modprobe"),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "updated.*reboot"),
        (pynvml.NVML_ERROR_NO_PERMISSION, "does not start.*nvidia-smi"),
    ],
)
def test_a_driver_that_does_not_start_is_told_with_its_remedy(monkeypatch: pytest.MonkeyPatch, code: int, says: str) -> None:
    """Each way in which NVML refuses to start has its own command that helps."""
    install(monkeypatch, init=code)
    with pytest.raises(EnvironmentProblem, match=says):
        devices.all_gpus()


def test_mig_instances_stand_for_their_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU in MIG mode cannot be used whole: its instances are the devices."""
    install(monkeypatch, FakeGpu(name="NVIDIA A100", capability=(8, 0), mig_uuids=["MIG-1", "MIG-2"]), T4)
    assert [(g.uuid, g.mig) for g in devices.all_gpus()] == [("MIG-1", True), ("MIG-2", True), ("GPU-bbbb", False)]
    assert devices.select_gpu("cuda:1").uuid == "MIG-2" and "MIG instance, sm_80" in str(devices.selected_gpu())


ALL = ("fp32", "tf32", "fp16", "bf16", "int8", "int8-tensor", "fp8", "int4", "fp16-sparse", "amp-bf16", "weak-fp16-int8", "fp4")
BEFORE_AMPERE = {"tf32", "bf16", "fp8", "int4", "fp16-sparse", "amp-bf16", "fp4"}


@pytest.mark.parametrize(
    ("capability", "refused"),
    [
        ((7, 0), BEFORE_AMPERE),
        ((7, 5), BEFORE_AMPERE),
        ((8, 0), {"fp8", "fp4"}),
        ((8, 9), {"fp4"}),
        ((9, 0), {"fp4"}),
        ((10, 0), set()),
    ],
)
def test_precisions_follow_the_compute_capability(capability: tuple[int, int], refused: set[str]) -> None:
    """What the hardware lacks is infeasible, not slow, and the reason names this GPU."""
    found = refused_precisions(ALL, capability)
    assert set(found) == refused
    assert all(f"sm_{capability[0]}{capability[1]}" in why for why in found.values())


def test_int8_on_volta_is_kept_with_a_doubt() -> None:
    """It runs there by DP4A without tensor cores; on Turing it has them."""
    assert set(doubtful_precisions(ALL, (7, 0))) == {"int8", "int8-tensor", "weak-fp16-int8"}
    assert doubtful_precisions(ALL, (7, 5)) == {}


@pytest.mark.parametrize(
    ("version", "rtx", "refused"),
    [
        ("8.6.1", False, {"bf16", "amp-bf16", "int8", "int8-tensor", "fp8", "int4", "weak-fp16-int8"}),
        ("10.4.0", False, set()),
        ("10.16.1.11", False, set()),
        ("11.4.0", False, {"weak-fp16-int8"}),
        ("1.7.1.116", True, {"weak-fp16-int8"}),
    ],
)
def test_precisions_follow_the_release_of_tensorrt(version: str, rtx: bool, refused: set[str]) -> None:
    """What a release cannot build is refused before a trial, and the reason names the release."""
    found = refused_by_tensorrt(ALL, version, rtx=rtx)
    assert set(found) == refused
    title = "TensorRT for RTX 1.7.1" if rtx else f"TensorRT {'.'.join(version.split('.')[:3])}"
    assert all(why.endswith(f"here is {title}") for why in found.values())


def test_pruned_widths_serve_every_precision_of_a_gpu() -> None:
    """8 channels for fp16 tensor cores, 4 for DP4A, 16 for int8, fp8 and 2:4, 32 for TensorRT's int8 layouts: 32 serves all."""
    assert all(channel_block("cuda") % block == 0 for block in (4, 8, 16, 32))
    assert (channel_block("cuda"), channel_block("cpu")) == (32, 8)
