"""Records tests/assets/profiles/: what the engines' profilers really wrote about the network of explained_models.

    PYTHONPATH=.:tests python tests/assets/record_profiles.py

Events are kept as they came, without the fields that nobody reads (thread statistics, memory).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from assets import explained_models as explained

from autotune.candidate import Candidate
from autotune.engines import onnxruntime_profile, openvino_profile, torch_profile
from autotune.engines.build import load_backend
from autotune.engines.layers import Explains
from autotune.engines.protocol import Engine

FOLDER = Path(__file__).parent / "profiles"
CASES = (
    ("onnxruntime", "fp32"), ("onnxruntime", "int8"), ("onnxruntime", "fp16"),
    ("openvino", "fp32"), ("openvino", "int8"), ("torch", "fp32"), ("torch", "amp-bf16"),
)  # fmt: skip
_PARSERS = {
    "onnxruntime": (onnxruntime_profile, "report_from_events"),
    "openvino": (openvino_profile, "report_from_counters"),
    "torch": (torch_profile, "report_from_operations"),
}
_READ = ("node_index", "op_name", "provider", "input_type_shape", "output_type_shape", "parent_name")


def main() -> None:
    """Writes one file per case: the arguments with which the engine's parser was called."""
    FOLDER.mkdir(exist_ok=True)
    for engine, precision in CASES:
        with tempfile.TemporaryDirectory() as folder:
            arguments = recorded(engine, precision, Path(folder))
        text = json.dumps(arguments, default=asdict, separators=(",", ":"))
        (FOLDER / f"{engine}_{precision}.json").write_text(text + "\n")


def recorded(engine: str, precision: str, folder: Path) -> dict[str, Any]:
    """What the parser of the engine's profile gets for two executions of a batch of 2."""
    backend = load_backend(engine)
    assert isinstance(backend, Explains)
    candidate = Candidate(
        engine=engine, precision=precision, pruning_ratio=0.0, batch_size=2, streams=1, worker_threads=1, memory_pool_mib=None
    )
    variant = explained.variant(folder, precision, backend)
    (folder / "engine").mkdir()
    backend.build(variant, candidate, folder / "engine")
    made = Engine(key="recorded", backend=engine, variant=variant, folder=folder / "engine")
    module, name = _PARSERS[engine]
    parse, found = getattr(module, name), {}

    def spy(*arguments: Any, **named: Any) -> Any:
        found.update(arguments=[_trimmed(a) for a in arguments], named=named)
        return parse(*arguments, **named)

    setattr(module, name, spy)
    try:
        backend.layers(made, candidate, [explained.inputs(2)], n_runs=2)
    finally:
        setattr(module, name, parse)
    return found


def _trimmed(argument: Any) -> Any:
    if isinstance(argument, list) and argument and isinstance(argument[0], Mapping):
        keep = ("cat", "name", "ts", "dur", "args")
        return [{k: e[k] for k in keep if k in e} | {"args": _args(e)} for e in argument]
    return argument


def _args(event: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in event.get("args", {}).items() if k in _READ}


if __name__ == "__main__":
    main()
