"""What engines and answers are known by beside graph and knobs: the device that they were made for or on."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from assets.recorded_sweep import candidate

from autotune.engines import build
from autotune.engines.build import engine_key, load_backend
from autotune.fingerprint import DeviceFingerprint, digest_of
from autotune.trial import known_accuracy
from autotune.trial.known_accuracy import scores_key


def key_on(device: DeviceFingerprint, monkeypatch: pytest.MonkeyPatch) -> str:
    class Variant:
        key = "v"

    variant: Any = Variant()
    monkeypatch.setattr(build, "device_fingerprint", lambda kind, distributions: device)
    return engine_key(load_backend("onnxruntime"), variant, candidate())


def test_an_engine_belongs_to_the_cpus_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime lays weights out for the registers there are, and two CPUs of one name need not have the same."""
    plain = DeviceFingerprint(device="Xeon × 2", kind="cpu", cores=2, memory_mib=9, system="Linux", instructions=("avx2",))
    assert key_on(plain, monkeypatch) == key_on(replace(plain, memory_mib=8, system="another"), monkeypatch)
    assert key_on(plain, monkeypatch) != key_on(replace(plain, instructions=("avx2", "avx512f")), monkeypatch)


def test_a_device_without_instructions_keeps_its_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU's key is what it was before CPUs told theirs, so that no engine of an older cache is built anew."""
    gpu = DeviceFingerprint(device="V100", kind="cuda", cores=2, memory_mib=9, system="Linux", versions={"tensorrt": "10"})
    backend = load_backend("onnxruntime")
    knobs = {k: v for k, v in candidate().as_json().items() if k in backend.build_knobs}
    before = {"variant": "v", "backend": "onnxruntime", "device": "V100", "versions": {"tensorrt": "10"}, "knobs": knobs}
    assert key_on(gpu, monkeypatch) == digest_of(before)


def test_answers_belong_to_the_cpus_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other kernels may round otherwise, and a cache may be shared by hosts whose CPUs have one name."""
    engine: Any = SimpleNamespace(variant=SimpleNamespace(key="v"))
    dataset: Any = SimpleNamespace(digest="d")

    def key(*instructions: str) -> str:
        cpu = DeviceFingerprint(device="X", kind="cpu", cores=2, memory_mib=9, system="", instructions=instructions)
        monkeypatch.setattr(known_accuracy, "device_fingerprint", lambda kind, distributions: cpu)
        return scores_key(engine, load_backend("onnxruntime"), dataset, "top1")

    assert key("avx2") == key("avx2") != key("amx_bf16", "avx2") and key() != key("avx2")
