"""Stages streams and runtimes: one candidate, one thing varied, in fresh processes, interleaved in random order."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from autotune.candidate import Candidate
from autotune.cuda.probe import why_runtime_fails
from autotune.cuda.select import VARIABLE, runtime_choices
from autotune.errors import EnvironmentProblem
from autotune.records import TrialRecord
from autotune.study.lock import device_lock
from autotune.study.plan import StudyPlan
from autotune.trial.isolation import TrialProcess
from gpu_stages import copies
from gpu_stages.bench import Bench
from gpu_stages.candidates import candidate_for, chosen, told, trial, with_knobs
from gpu_stages.models import resnet50_plan
from gpu_stages.rounds import in_rounds

STREAMS = (1, 2, 4, 8)
THE_PAIR = ("cuda-core", "pycuda")
"""The libraries whose figures are to be equal."""
_DRIVEN = ("tensorrt", "tensorrt-rtx")
"""Engines that any of the libraries drives; the others bring their own."""
_MARGIN_S, _LEAST_S, _MOST_S = 15.0, 10.0, 180.0
EQUAL_WITHIN = 0.02
"""What trials in fresh processes differ by on a GPU that does nothing else is not known yet; 2 % is what they do on a CPU."""


def streams(bench: Bench) -> dict[str, Any]:
    """Throughput of the fastest candidate with 1, 2, 4 and 8 streams, without a cap on its memory."""
    plan = resnet50_plan(bench)
    base = chosen(bench, lambda: candidate_for(plan))
    choices = {str(n): with_knobs(plan, base, streams=n, worker_threads=None, memory_pool_mib=None) for n in STREAMS}
    head = {"candidate": base.as_json()}
    with device_lock(plan.lock_name), TrialProcess(plan.preload) as process:
        rounds, whole = in_rounds(
            bench, head, "streams", list(choices), lambda n: told(trial(plan, process, choices[n], bench.load))
        )
    return {**head, "streams": rounds, "against_one": ratios(rounds, "1"), "unfinished": not whole}


def runtimes(bench: Bench) -> dict[str, Any]:
    """The same candidate driven by each library that is here, without CUDA graphs, which PyCUDA lacks: figures and outputs.

    Without TensorRT, whose engines alone take any library: what the libraries do by themselves, copies and memory.
    """
    plan = resnet50_plan(bench)
    usable, absent = _usable_runtimes()
    if not usable:
        raise EnvironmentProblem(f"no CUDA runtime works here: {absent}.", remedy="pip install 'autotune[cuda-core]'")
    if not any(name in plan.backends for name in _DRIVEN):
        return _by_copies(bench, plan, usable, absent)
    candidate = chosen(bench, lambda: with_knobs(plan, candidate_for(plan, _DRIVEN), cuda_graph="off"))
    with device_lock(plan.lock_name):
        outputs = dict(bench.before.get("outputs_sha256", {}))
        outputs |= {name: _outputs(plan, candidate, name, _limit_s(bench)) for name in usable if _lacks(outputs, name)}
        head = {"candidate": candidate.as_json(), "absent": absent, "outputs_sha256": outputs}
        rounds, whole = in_rounds(bench, head, "runtimes", usable, lambda name: told(_under(name, plan, candidate, bench)))
    first = usable[0]
    against = ratios(rounds, first)
    return {
        **head,
        "runtimes": rounds,
        f"against_{first}": against,
        "outputs_equal": len(set(outputs.values())) == 1 and not any(o.startswith("error") for o in outputs.values()),
        **_verdict(against, absent),
        "unfinished": not whole,
    }


def _by_copies(bench: Bench, plan: StudyPlan, usable: Sequence[str], absent: Mapping[str, str]) -> dict[str, Any]:
    """Copies and allocations by each library; no engine computes anything."""
    seconds = 0.2 if bench.quick else 3.0
    head = {"absent": absent, "without_engine": "neither TensorRT nor TensorRT for RTX runs here: copies and memory only"}
    with device_lock(plan.lock_name):
        rounds, whole = in_rounds(bench, head, "copies", usable, lambda name: copies.under(name, seconds, _limit_s(bench)))
    first = usable[0]
    against = ratios(rounds, first, of="bytes_per_s")
    digests = {name: sorted({str(found.get("sha256", "error")) for found in values}) for name, values in rounds.items()}
    return {
        **head,
        "copies": rounds,
        f"against_{first}": against,
        f"allocations_against_{first}": ratios(rounds, first, of="allocations_per_s"),
        "outputs_equal": len({tuple(found) for found in digests.values()}) == 1 and digests[first] != ["error"],
        **_verdict(against, absent),
        "unfinished": not whole,
    }


def _verdict(against: Mapping[str, Any], absent: Mapping[str, str]) -> dict[str, Any]:
    return {
        "equal_within": EQUAL_WITHIN,
        "figures_equal": {name: equal_figures(ratio) for name, ratio in against.items()},
        "not_compared": {name: absent[name] for name in THE_PAIR if name in absent},
    }


def _limit_s(bench: Bench) -> float:
    """What one measurement in a process of its own may take, so that the stage can still tell that it took too long."""
    return max(_LEAST_S, min(_MOST_S, bench.left_s - _MARGIN_S))


def equal_figures(ratio: Mapping[str, float] | None) -> bool | None:
    """Whether throughput against the first is 1 within the bound, or cannot be told from 1 by the rounds; None without one."""
    if ratio is None:
        return None
    return abs(ratio["median"] - 1) <= EQUAL_WITHIN or ratio["min"] <= 1 <= ratio["max"]


def ratios(
    rounds: Mapping[str, Sequence[Mapping[str, Any]]], base: str, *, of: str = "throughput_items_per_s"
) -> dict[str, Any]:
    """`of`, throughput as a rule, against `base` of the same round: median, least, most; None where no round has both.

    The last round of a stage that ran out of time lacks some of them.
    """
    found: dict[str, Any] = {}
    for name, values in rounds.items():
        pairs = [
            mine[of]["value"] / theirs[of]["value"]
            for mine, theirs in zip(values, rounds[base], strict=False)
            if mine.get(of) and theirs.get(of)
        ]
        found[name] = {"median": statistics.median(pairs), "min": min(pairs), "max": max(pairs)} if pairs else None
    return found


def _usable_runtimes() -> tuple[list[str], dict[str, str]]:
    usable, absent = [], {}
    for choice in runtime_choices():
        why = choice.gap.missing if choice.gap else why_runtime_fails(choice.name)
        if why:
            absent[choice.name] = why
        else:
            usable.append(choice.name)
    return usable, absent


def _under(name: str, plan: StudyPlan, candidate: Candidate, bench: Bench) -> TrialRecord:
    """A trial whose processes use the runtime of this name; they inherit it when they are started."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = name
    try:
        with TrialProcess(plan.preload) as process:
            return trial(plan, process, candidate, bench.load)
    finally:
        os.environ.pop(VARIABLE)
        if before is not None:
            os.environ[VARIABLE] = before


_PROGRAM = """
import hashlib, importlib, json, sys
from pathlib import Path
from autotune.cache import Cache
from autotune.candidate import Candidate
from autotune.engines.build import load_backend
from autotune.spec.load import load_spec
from autotune.study.machine import engines_here
from autotune.trial.materialize import materialize
from autotune.trial.stages import bound_split, load_batches
given = json.loads(sys.argv[1])
spec, cache = load_spec(Path(given["study"])), Cache(Path(given["cache"]))
candidate = Candidate.from_json(given["candidate"])
for module in load_backend(candidate.engine).preload:
    importlib.import_module(module)
engines_here(spec)
engine = materialize(spec, candidate, cache).engine
batch = load_batches(bound_split(spec, spec.data.validation, cache), candidate.batch_size)[0]
with load_backend(candidate.engine).open(engine, candidate) as session:
    session.submit(batch, 0)
    found = session.wait(0)
    digest = hashlib.sha256(b"".join(found[name].tobytes() for name in sorted(found))).hexdigest()
print(digest)
"""


def _lacks(outputs: Mapping[str, str], runtime: str) -> bool:
    return outputs.get(runtime, "error").startswith("error")


def _outputs(plan: StudyPlan, candidate: Candidate, runtime: str, limit_s: float) -> str:
    """The digest of the outputs of one batch, or the error, with this runtime in a process of its own."""
    given = {"study": str(plan.spec.file), "cache": str(plan.cache_root), "candidate": candidate.as_json()}
    environment = {**os.environ, VARIABLE: runtime, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, "-c", _PROGRAM, json.dumps(given)]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        return f"error: did not end within {limit_s:g} s"
    if ended.returncode != 0:
        return "error: " + (ended.stderr.strip().splitlines() or ["no message"])[-1][:300]
    return ended.stdout.split()[-1]
