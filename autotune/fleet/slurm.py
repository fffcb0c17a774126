"""The target `slurm`: a batch script, a job array with one task per device.

A task that runs into its time limit ends after its trial and queues itself again; one whose node fails, or that must give way,
is queued again by Slurm. A worker that is killed, or loses its database, is started again by its task, a few times. What it was
measuring is put back by itself or by the others.
"""

from __future__ import annotations

import re
import shlex

from autotune.errors import SpecError
from autotune.fleet.manifests import ManifestRequest, named_options
from autotune.fleet.scheduled import (
    STORAGE_FROM_ENVIRONMENT,
    STORAGE_VARIABLE,
    WorkerGroup,
    has_password,
    shared_storage,
    worker_groups,
)
from autotune.spec.load import load_spec

OPTIONS = {
    "partition": "the partition",
    "account": "who pays",
    "time": "the time limit of one task, such as 24:00:00; longer studies queue themselves again",
    "gpu": "the GPU's type in Slurm's words, such as v100, so that all workers get one model",
    "cpus": "CPUs of a task; default 4",
    "memory": "memory of a task; default 16G",
    "grace_s": "seconds before the time limit at which a worker ends after its trial; default 300",
    "setup": "a line of shell before the worker starts, such as: source venv/bin/activate",
}
_RESTARTS, _PAUSE_S, _SOUND_S = 5, 10, 600
"""As a fleet's supervisor does: so many in a row, and a worker that ran ten minutes was no failed start."""
_FINAL = "0 | 2 | 3 | 130"
"""Exit codes that another start would only repeat: done, the input, the machine, stopped by somebody."""
_FORMS = {
    "partition": r"[A-Za-z0-9_.,-]+",
    "account": r"[A-Za-z0-9_.-]+",
    "time": r"[0-9]+([:-][0-9]+){0,3}",
    "gpu": r"[A-Za-z0-9_.-]+",
    "cpus": r"[1-9][0-9]{0,3}",
    "memory": r"[1-9][0-9]*[KMGT]?",
    "grace_s": r"[1-9][0-9]{0,4}",
    "setup": r"[^\n\r]+",
}


def manifest(request: ManifestRequest) -> str:
    """The script for `sbatch`. Raises SpecError, also for several kinds of devices: they need a job each."""
    spec = load_spec(request.study_file)
    chosen = {"cpus": "4", "memory": "16G", "grace_s": "300"} | named_options(request, OPTIONS)
    for name, value in chosen.items():
        if not re.fullmatch(_FORMS[name], value):
            raise SpecError(f"--option {name}={value}: allowed: text of the form {_FORMS[name]}")
    groups = worker_groups(request, spec)
    if len(groups) > 1:
        one = " and ".join(f"--device {group.device}" for group in groups)
        raise SpecError(f"a job array has one kind of task, the study's devices are of several; make a script for each: {one}")
    url = shared_storage(request, spec, groups)
    return "\n".join([*_directives(request, groups[0], chosen), "", *_body(request, groups[0], chosen, url)]) + "\n"


def _directives(request: ManifestRequest, group: WorkerGroup, chosen: dict[str, str]) -> list[str]:
    folder = str(request.study_file.parent)
    if re.search(r'["\\\n\r]', folder):
        raise SpecError(
            f"the folder {folder!r} has a quote, a backslash or a line break in its name, which sbatch does not take"
        )
    name = re.sub(r"[^A-Za-z0-9._-]", "-", request.study)
    log = folder.replace("%", "%%") + "/slurm-%x-%A-%a.log"
    words = {
        "job-name": f"autotune-{name}",
        "array": f"0-{group.n_workers - 1}",
        "ntasks": "1",
        "cpus-per-task": chosen["cpus"],
        "mem": chosen["memory"],
        "gres": f"gpu:{chosen['gpu']}:1" if "gpu" in chosen else "gpu:1",
        "signal": f"B:TERM@{chosen['grace_s']}",
        "output": f'"{log}"',
        "open-mode": "append",
    }
    if not group.needs_gpu:
        del words["gres"]
    words |= {key: chosen[key] for key in ("partition", "account", "time") if key in chosen}
    # A CPU that others compute on is no device to measure on.
    alone = [] if group.needs_gpu else ["#SBATCH --exclusive"]
    return ["#!/bin/bash", *(f"#SBATCH --{key}={value}" for key, value in words.items()), "#SBATCH --requeue", *alone]


def _body(request: ManifestRequest, group: WorkerGroup, chosen: dict[str, str], url: str) -> list[str]:
    words = ["autotune", "worker", str(request.study_file), "--device", group.device]
    lines = [
        f"# One worker of the study {shlex.quote(request.study)} per task. Submit: sbatch THIS_FILE    Stop: scancel --name=…",
        "set -u",
    ]
    if url.startswith("sqlite") or not has_password(url):
        words += ["--storage", url]
    else:
        words += STORAGE_FROM_ENVIRONMENT
        hint = f"set {STORAGE_VARIABLE} to the database URL before sbatch"
        lines += [f': "${{{STORAGE_VARIABLE}:?{hint}}}"  # it has a password, which stands in no file here']
    lines += [chosen["setup"]] if "setup" in chosen else []
    command = shlex.join(words)
    return [
        *lines,
        "",
        "time_is_up= worker= told=",
        "on_term() {  # once, from --signal: the worker ends after its trial",
        "  time_is_up=yes",
        '  if [ -n "$worker" ]; then told=yes; kill -TERM "$worker" 2>/dev/null; fi',
        "}",
        "trap on_term TERM",
        "restarts=0 code=130",
        'while [ -z "$time_is_up" ]; do',
        "  began=$SECONDS",
        f'  srun --ntasks=1 --cpus-per-task="${{SLURM_CPUS_PER_TASK:-{chosen["cpus"]}}}" {command} &',
        "  worker=$!",
        '  [ -z "$time_is_up" ] || [ -n "$told" ] || on_term  # the signal came while it was started',
        '  wait "$worker"',
        "  code=$?",
        '  while kill -0 "$worker" 2>/dev/null; do  # a signal had interrupted the wait',
        '    wait "$worker"',
        "    code=$?",
        "  done",
        "  worker=",
        '  [ -z "$time_is_up" ] || break',
        f'  case "$code" in {_FINAL}) exit "$code" ;; esac',
        f"  [ $((SECONDS - began)) -lt {_SOUND_S} ] || restarts=0",
        f'  [ "$restarts" -lt {_RESTARTS} ] || exit "$code"',
        "  restarts=$((restarts + 1))",
        f'  echo "the worker ended with $code; it is started again in {_PAUSE_S} s, $restarts of {_RESTARTS}" >&2',
        f"  sleep {_PAUSE_S} &",
        "  wait $!  # which the signal ends",
        "done",
        '[ "$code" -eq 0 ] && exit 0  # the study is done, or no worker was begun before the time was up',
        'scontrol requeue "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"',
    ]
