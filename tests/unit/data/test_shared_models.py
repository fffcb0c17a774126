"""Real models on real labelled data give the accuracy that was measured when they were stored."""

from __future__ import annotations

from pathlib import Path

import pytest

from autotune.cache import Cache
from autotune.data.study_data import load_study_data
from autotune.spec.check import check_model
from autotune.spec.load import load_spec

SHARED = Path(__file__).parents[4] / "shared" / "data"

KWS = """\
study: kws
model: {{path: {shared}/kws/ds_cnn_kws.onnx}}
data:
  validation: {{npz: {shared}/kws/val.npz}}
  calibration: {{npz: {shared}/kws/calib.npz}}
  preprocess: {{mean: [83], std: [1.7102686]}}   # (x - 83) * 0.5847029
"""


def test_keyword_spotting_accuracy(tmp_path: Path) -> None:
    """DS-CNN on 800 samples: 90.38 % top-1, that is 723 hits, with the whole chain from YAML to batches."""
    if not SHARED.is_dir():
        pytest.skip(f"no shared data at {SHARED}")
    runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    (tmp_path / "study.yaml").write_text(KWS.format(shared=SHARED))
    spec = load_spec(tmp_path / "study.yaml")
    data = load_study_data(spec, check_model(spec), Cache(tmp_path / "cache")).validation
    session = runtime.InferenceSession(str(spec.model.path), providers=["CPUExecutionProvider"])
    logits = session.run(None, data.batch(0, len(data)))[0]
    assert data.labels is not None
    assert int((logits.argmax(axis=1) == data.labels).sum()) == 723
