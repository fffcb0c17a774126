"""`bench --build-only`: the ordinary way up to the engine, and never a number that was not measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from assets import fake_study as fake

from autotune.cli.main import main
from autotune.testing.engine_contract import tiny_cnn

MEASURED = ("accuracy", "accuracy_drop", "throughput_items_per_s", "energy_j_per_item", "power_w", "peak_memory_mib",
            "pool_peak_mib", "measure_s", "scores_key")  # fmt: skip


@pytest.fixture
def bench(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """`autotune bench STUDY --json …` in this process, on a small real network; gives exit code, document and stderr."""
    for name, value in fake.environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AUTOTUNE_BUILD_TARGET", "")
    monkeypatch.delenv("AUTOTUNE_BUILD_TARGET")
    tiny_cnn(tmp_path / "model.onnx")
    rng = np.random.default_rng(0)
    samples = rng.standard_normal((32, 1, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "val.npz", x=samples, y=rng.integers(0, 4, 32))
    study = tmp_path / "study.yaml"
    study.write_text(
        "study: small\nmodel: {path: model.onnx}\n"
        "data: {validation: {npz: val.npz, inputs: x, labels: y}, calibration: {npz: val.npz, inputs: x}}\n"
        f"cache: cache\nstorage: sqlite:///{tmp_path}/s.db\n"
    )

    def run(*words: str) -> tuple[int, dict[str, Any], str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main(["bench", str(study), "--json", *words])
        out, err = capsys.readouterr()
        return int(left.value.code or 0), json.loads(out) if out else {}, err

    return run


def settings(**knobs: object) -> list[str]:
    return [word for name, value in knobs.items() for word in ("--set", f"{name}={value}")]


def test_an_engine_that_runs_here_can_be_built_only_as_well(bench: Any) -> None:
    """The record says what was built and where; nothing was opened, so nothing is known of it."""
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    code, trial, _ = bench("--build-only", *settings(engine="onnxruntime", precision="fp16"))
    assert code == 0 and trial["state"] == "rejected"
    assert (trial["reject"]["reason"], trial["reject"]["stage"]) == ("built_only", "open")
    assert "model.onnx" in trial["reject"]["message"] and "bytes" in trial["reject"]["message"]
    assert all(trial[name] is None for name in MEASURED) and set(trial["latency_ms"].values()) == {None}
    assert trial["model_bytes"] > 0 and trial["variant"]["precision"] == "fp16" and trial["build_s"] > 0


def test_a_target_is_for_building_only(bench: Any) -> None:
    """What is measured runs on the GPU that is here; a capability that is none is the user's to mend."""
    code, _, err = bench("--compute-capability", "8.9", *settings(engine="tensorrt-rtx"))
    assert code == 2 and "together with --build-only" in err
    code, _, err = bench("--build-only", "--compute-capability", "ada", *settings(engine="tensorrt-rtx"))
    assert code == 2 and "8.9" in err


def test_tensorrt_itself_says_what_builds_without_a_gpu(bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It builds on the GPU that an engine is for."""
    pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
    from assets.trt_installed import installed

    with installed("tensorrt-11.4.0", tmp_path / "trt", monkeypatch):
        code, _, err = bench("--build-only", "--compute-capability", "9.0", *settings(engine="tensorrt"))
    assert code == 3 and "--set engine=tensorrt-rtx" in err


class TestForReal:
    """With the real TensorRT for RTX, on a machine without a GPU."""

    @pytest.fixture(autouse=True)
    def _library(self) -> None:
        pytest.importorskip(
            "tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed: pip install 'autotune[tensorrt-rtx]'"
        )
        pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

    @pytest.mark.parametrize(
        ("targets", "device"), [(["8.9"], "sm_89"), (["8.9", "8.6"], "sm_86, sm_89"), ([], "sm_80 and later")]
    )
    def test_engines_are_built_for_gpus_that_are_not_there(self, bench: Any, targets: list[str], device: str) -> None:
        """One GPU, several, or what the builder builds for by itself; the record's device is the target and no CPU."""
        words = [word for t in targets for word in ("--compute-capability", t)]
        code, trial, _ = bench("--build-only", *words, *settings(engine="tensorrt-rtx", precision="int8", batch_size=4))
        assert code == 0 and trial["reject"]["reason"] == "built_only", trial["reject"]
        assert trial["device"] == f"built ahead of time for {device}" and device in trial["reject"]["message"]
        assert "engine.plan" in trial["reject"]["message"] and "build.log" in trial["reject"]["message"]
        assert all(trial[name] is None for name in MEASURED)
        assert trial["versions"] and trial["engine_key"] and trial["candidate"]["builder_level"] is None

    @pytest.mark.parametrize(
        ("target", "knobs", "reason", "told"),
        [
            ("7.5", {"precision": "bf16"}, "unsupported", "sm_75"),
            ("7.5", {"precision": "fp32"}, "unsupported", "FP32 GEMM is not supported"),
            ("8.9", {"precision": "fp16", "memory_pool_mib": 1}, "build_failed", "memory_pool_mib=1 is too small"),
            ("8.9", {"precision": "weak-fp16"}, "unsupported", "TensorRT for RTX"),
        ],
    )
    def test_what_cannot_be_built_is_rejected_with_the_reason(
        self, bench: Any, target: str, knobs: dict[str, object], reason: str, told: str
    ) -> None:
        """By the table of formats, by the builder, by the size of its workspace."""
        code, trial, _ = bench("--build-only", "--compute-capability", target, *settings(engine="tensorrt-rtx", **knobs))
        assert code == 0 and trial["reject"]["reason"] == reason and trial["reject"]["stage"] == "engine"
        assert told in trial["reject"]["message"]

    def test_a_gpu_that_nothing_builds_for_is_told_before_anything_is_made(self, bench: Any) -> None:
        """Volta is no target of TensorRT for RTX."""
        code, _, err = bench("--build-only", "--compute-capability", "7.0", *settings(engine="tensorrt-rtx"))
        assert code == 3 and "not for sm_70" in err
