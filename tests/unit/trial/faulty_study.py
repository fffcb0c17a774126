"""A study of the fake engine, with candidates that fail in every way.

Feature 0 of a sample is its class, feature 1 a number in [0, 1) that decides whether the fake errs on it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from autotune.candidate import Candidate
from autotune.engines.fake import FAULTS
from autotune.spec.model import StudySpec
from autotune.trial.request import TrialRequest

N_SAMPLES = 200
POOL_OF = {fault: mib for mib, fault in FAULTS.items()}
"""The memory_pool_mib that makes the fake fail in this way."""


def fake_spec(folder: Path, **sections: Any) -> StudySpec:
    """A study in `folder`, whose sample i has class i mod 10 and the number i/200: the fake errs on the first 20 in fp32."""
    weight = numpy_helper.from_array(np.zeros((2, 10), np.float32), "w")
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])
    result = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["logits"])], "tiny", [given], [result], [weight])
    onnx.save_model(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(folder / "tiny.onnx")
    )
    i = np.arange(N_SAMPLES)
    x = np.stack([i % 10, i / N_SAMPLES], axis=1).astype(np.float32)
    np.savez(folder / "val.npz", x=x, y=i % 10)
    values: dict[str, Any] = {
        "study": "fake-study",
        "model": {"path": folder / "tiny.onnx"},
        "data": {"validation": {"npz": folder / "val.npz", "inputs": "x", "labels": "y"}},
        "engines": ("fake",),
        "load": {"window_s": 0.05, "min_windows": 3, "max_s": 0.2, "warmup_s": 0.0, "precision": 0.5},
        "limits": {"deadline_s": 60.0},
        "cache": folder / "cache",
    }
    return StudySpec.model_validate(values | sections)


def fake_candidate(fault: str = "", **knobs: Any) -> Candidate:
    """A healthy fp32 candidate, or one with a fault."""
    base = Candidate(
        engine="fake", precision="fp32", pruning_ratio=0.0, batch_size=8, streams=2, worker_threads=2, memory_pool_mib=None
    )
    return replace(base, memory_pool_mib=POOL_OF[fault] if fault else None, **knobs)


def request(spec: StudySpec, candidate: Candidate, number: int = 0, **changes: Any) -> TrialRequest:
    """A trial of the candidate, with its cache and log in the study's own folder."""
    assert spec.cache.folder is not None
    log = spec.cache.folder / "logs" / f"{number}.log"
    asked = TrialRequest(
        spec=spec, number=number, role="search", candidate=candidate, cache_root=spec.cache.folder, log_path=log
    )
    return replace(asked, **changes)
