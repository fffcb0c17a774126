"""What can be known before anything runs: what this machine lacks, and whether every file, import and study stands."""

from __future__ import annotations

import importlib
import shlex
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from autotune.cuda.select import runtime_name
from autotune.devices.gpu import select_gpu
from autotune.errors import AutotuneError, EnvironmentProblem
from gpu_stages import hand_written, models
from gpu_stages.bench import MOBILENET, Bench
from gpu_stages.contract import GPU_TESTS
from gpu_stages.runner import STAGES, result_path, state_of

NEEDS = {
    "rtx": (),
    "contract": ("pytest",),
    "resnet50": ("torch", "onnxscript"),
    "mobilenet": (),
    "ratio": ("torch", "onnxscript", "cuda.bindings"),
    "streams": ("torch", "onnxscript"),
    "runtimes": ("torch", "onnxscript", "pycuda", "cuda.bindings"),
    "energy": ("torch", "onnxscript", "pynvml"),
}
"""Modules that a stage imports beside autotune and the engines."""
DISTRIBUTIONS = {"cuda.bindings": "cuda-bindings", "pynvml": "nvidia-ml-py"}


def require_gpu() -> None:
    """Returns on a machine that can run the stages. Raises EnvironmentProblem with what is missing and what helps."""
    select_gpu("cuda")
    runtime_name()


def dry_run(bench: Bench, names: Sequence[str]) -> int:
    """The plan is printed with what each stage lacks here. 0 where the script itself stands, 1 where it does not."""
    try:
        require_gpu()
        print("GPU: there")
    except AutotuneError as exc:
        print(f"GPU: missing. {exc}")
    wrong = [*_wrong_imports(), *_wrong_files(bench, names), *hand_written.unknown_calls()]
    for name in names:
        lacking = [module for module in NEEDS[name] if find_spec(module.partition(".")[0]) is None]
        state = state_of(bench, name) or "not run yet"
        print(f"\n{name}: {(STAGES[name].__doc__ or '').splitlines()[0]}")
        print(f"  {state}; at most {bench.limit_s:.0f} s; writes {result_path(bench, name)}")
        print(f"  $ {shlex.join(bench.command(name))}")
        if lacking:
            print(f"  lacks here: pip install {' '.join(DISTRIBUTIONS.get(module, module) for module in lacking)}")
    wrong += _wrong_studies(bench)
    for line in wrong:
        print(f"wrong: {line}", file=sys.stderr)
    return 1 if wrong else 0


def _wrong_imports() -> list[str]:
    """Modules of the stages and of autotune that do not import; vendors' libraries are imported later, by who needs them."""
    wrong = []
    for path in sorted(Path(__file__).parent.glob("*.py")):
        try:
            importlib.import_module(f"gpu_stages.{path.stem}")
        except Exception as exc:
            wrong.append(f"{path.name} does not import: {exc!r}")
    return wrong


def _wrong_files(bench: Bench, names: Sequence[str]) -> list[str]:
    wanted = [GPU_TESTS] if "contract" in names else []
    if "mobilenet" in names and bench.data is not None:
        wanted += [bench.data / MOBILENET, bench.data / "images", bench.data / "labels.csv"]
    return [f"{path} is not there" for path in wanted if not path.exists()]


def _wrong_studies(bench: Bench) -> list[str]:
    """Studies that autotune would refuse, without running them: both are loaded with the preset of the largest GPUs."""
    wrong = []
    for name, text in models.study_texts(bench).items():
        try:
            models.loaded(text)
        except EnvironmentProblem as exc:
            wrong.append(f"study {name}: {exc}")
        except AutotuneError as exc:
            wrong.append(f"study {name} is refused: {exc}")
    return wrong
