"""Everything that this project says about NVIDIA GPUs, measured on the GPU of this machine by one command, unattended.

    python benchmarks/gpu.py --data FOLDER --out benchmarks/results/gpu            # all stages
    python benchmarks/gpu.py --data FOLDER --out DIR --stage ratio --stage energy  # some of them
    python benchmarks/gpu.py --data FOLDER --out DIR --dry-run                     # the plan, checked as far as it can be

| stage | answers |
|---|---|
| rtx | does TensorRT for RTX serve this GPU, also one that it has no name for, such as Hopper? |
| contract | do the runtimes and engines keep their contracts on this GPU? |
| resnet50 | what does a study of 40 trials find for ResNet-50 (random weights, 224²), and how far from MLPerf's H200 is it? |
| mobilenet | the same for MobileNetV2 with real images and real accuracy |
| ratio | throughput against a hand-written CUDA-graph loop on the same engine, end to end and computing only |
| streams | throughput with 1, 2, 4 and 8 streams |
| runtimes | do cuda-core, torch and PyCUDA give equal figures, and equal outputs? Without TensorRT: for copies and memory |
| energy | J per inference by NVML's energy counter against its power readings; peak memory against NVML |

Each stage runs in a process of its own, ends itself within 8 minutes (`--limit-s`), and writes DIR/STAGE.json with device,
driver and versions: after every trial and every measurement, so that one that is killed loses only what was under way. The
hours of a study follow from the limit; its finalists are in it. What failed is recorded with its error, and the others go on;
what is unfinished goes on from where it was, up to `--runs` times in all, in this run or a later one. With another kind of GPU,
another driver or other packages it begins anew, and what there was lies in DIR/STAGE.before.json. What was run with --quick, or
with fewer rounds or trials than asked for, counts as not run. DIR/work keeps models, studies and engines between runs, and
DIR/work-quick those of --quick.

Exit codes: 0 all that was asked for is done, 1 some stage failed or is unfinished, 3 this machine lacks a GPU or a library, and
nothing was run.

FOLDER holds mobilenet_v2_1.0_224.onnx, images/ and labels.csv (splits calib and val); without --data mobilenet is left out.
Needs: pip install '.[cuda,cuda-core]' and TensorRT (docs/nvidia.md), and pytest for the contracts.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from gpu_stages.bench import LIMIT_S, Bench
from gpu_stages.checks import dry_run, require_gpu
from gpu_stages.runner import STAGES, run_one, run_until_done

from autotune.errors import AutotuneError


def main() -> int:
    """Runs what was asked for; the exit code."""
    arguments = _arguments()
    bench = Bench.of(arguments)
    wanted = list(dict.fromkeys(arguments.stage or ["all"]))
    names = list(STAGES) if "all" in wanted else wanted
    if bench.data is None and "mobilenet" in names:
        names.remove("mobilenet")
        print("stage mobilenet is left out: it needs --data", file=sys.stderr)
    try:
        if arguments.dry_run:
            return dry_run(bench, names)
        if arguments.in_process:
            return run_one(bench, names[0])
        require_gpu()
        return run_until_done(bench, names, runs=arguments.runs, again=arguments.again)
    except AutotuneError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return exc.exit_code


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path, help="folder for one JSON file per stage, and for work/")
    parser.add_argument("--data", type=Path, help="folder with MobileNetV2 and its images")
    parser.add_argument("--stage", action="append", choices=[*STAGES, "all"], help="may be given several times; default: all")
    parser.add_argument("--trials", type=int, default=40, help="trials of each study (default 40)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each side of a comparison is measured (default 3)")
    parser.add_argument("--engine", action="append", help="engines of the studies; default: all that this machine can run")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and check it; needs no GPU")
    parser.add_argument("--again", action="store_true", help="run stages that are done, too")
    parser.add_argument("--runs", type=int, default=8, help="what is not done goes on, at most so often (default 8)")
    parser.add_argument("--limit-s", type=float, default=LIMIT_S, help=f"seconds that a stage may take (default {LIMIT_S:g})")
    parser.add_argument("--quick", action="store_true", help="short loads, to try the script out: its figures are noise")
    parser.add_argument("--in-process", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
