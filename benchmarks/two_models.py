"""MobileNetV2 and ResNet-20 as studies without a search: what the benchmarks of the harness itself measure with.

The folder given as --data holds imagenet/ (mobilenet_v2_1.0_224.onnx, images/, labels.csv with the splits calib and val) and
cifar10/ (resnet20_cifar10.onnx, calib.npz, val.npz).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from mobilenet import machine_of

from autotune.candidate import Candidate
from autotune.cli.running import checked_plan
from autotune.records import TrialRecord
from autotune.spec.model import ConstraintsSpec, LoadSpec
from autotune.study.lock import device_lock
from autotune.study.plan import StudyPlan
from autotune.trial.isolation import TrialProcess
from autotune.trial.request import TrialRequest

STUDIES = {
    "mobilenet_v2": """
study: mobilenet-v2
model: {{path: {data}/imagenet/mobilenet_v2_1.0_224.onnx}}
data:
  validation: {{images: {data}/imagenet/images, labels: {data}/imagenet/labels.csv, split: val, limit: {limit}}}
  calibration: {{images: {data}/imagenet/images, labels: {data}/imagenet/labels.csv, split: calib}}
  preprocess: {{scale: 0.00784313725, mean: [1, 1, 1], std: [1, 1, 1]}}
""",
    "resnet20": """
study: resnet20
model: {{path: {data}/cifar10/resnet20_cifar10.onnx}}
data:
  validation: {{npz: {data}/cifar10/val.npz, inputs: x, labels: y, limit: {limit}}}
  calibration: {{npz: {data}/cifar10/calib.npz, inputs: x, labels: y}}
  preprocess: {{scale: 0.00392156863, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}}
""",
}
COMMON = """
engines: [onnxruntime, openvino]
device: cpu
space: {{extends: cpu-runtime}}
storage: sqlite:///study.db
cache: cache
"""


@dataclass(slots=True, kw_only=True)
class Bench:
    """One model on this machine; `measured` runs one candidate in a fresh process. The accuracy limits of a study are off."""

    name: str
    plan: StudyPlan
    process: TrialProcess
    _scores: str | None = None
    _number: int = field(default=0)

    def measured(self, candidate: Candidate, load: LoadSpec, build_group: int | None = None) -> TrialRecord:
        """The record of the candidate under this load, with arrivals of its own. Exits where it could not run.

        `build_group`: processes that take turns with being stopped meanwhile.
        """
        if self._scores is None:
            found = self._run(self.plan.reference, load, with_load=False)
            self._scores = found.scores_key
        record = self._run(candidate, load, build_group=build_group)
        if record.state != "complete":
            sys.exit(f"{self.name} {candidate}: {record.reject.message if record.reject else record.state}")
        return record

    def _run(
        self, candidate: Candidate, load: LoadSpec, *, with_load: bool = True, build_group: int | None = None
    ) -> TrialRecord:
        self._number += 1
        spec = self.plan.spec.model_copy(update={"load": load, "constraints": ConstraintsSpec()})
        request = TrialRequest(
            spec=spec,
            number=self._number,
            role="bench",
            candidate=candidate,
            cache_root=self.plan.cache_root,
            log_path=self.plan.cache_root / "logs" / "benchmark" / f"{self._number:05d}.log",
            reference_scores=self._scores,
            with_load=with_load,
            build_group=build_group,
        )
        return self.process.run(request)

    def candidate(self, engine: str, precision: str = "fp32", **knobs: Any) -> Candidate:
        """The engine's defaults with these knobs, those apart that it does not have."""
        has = self.plan.space.knobs_of[engine]
        return replace(self.plan.space.default_candidate(engine, precision), **{k: v for k, v in knobs.items() if k in has})


@contextmanager
def benches(data: Path, work: str | None, names: Sequence[str], limit: int = 200) -> Iterator[list[Bench]]:
    """The models by name, in a work folder that keeps their engines; nothing else of autotune measures meanwhile."""
    root = Path(work or tempfile.mkdtemp(prefix="autotune-benchmark-"))
    found = []
    for name in names:
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "study.yaml"
        file.write_text((STUDIES[name] + COMMON).format(data=data.resolve(), limit=limit))
        plan = checked_plan(str(file))
        found.append(Bench(name=name, plan=plan, process=TrialProcess(plan.preload)))
    try:
        with device_lock("cpu"):
            yield found
    finally:
        for bench in found:
            bench.process.close()


def arguments_of(doc: str, **more: Mapping[str, Any]) -> argparse.Namespace:
    """--data, --out, --work, --models and --quick, and what else a script wants as name → options of add_argument."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--work", help="folder for engines and logs; default: a new temporary one")
    parser.add_argument("--models", nargs="+", default=list(STUDIES), choices=list(STUDIES))
    parser.add_argument("--quick", action="store_true", help="tiny settings, to try the script out; its figures mean nothing")
    for name, options in more.items():
        parser.add_argument(f"--{name}", **options)
    return parser.parse_args()


def machine(bench: Bench) -> dict[str, Any]:
    """What the figures hold for."""
    return machine_of(bench.plan)


def write(document: Mapping[str, Any], out: Path | None) -> None:
    """The document as JSON in the file, if one was asked for."""
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(document, indent=1, default=asdict) + "\n")
