"""What this machine can do: engines with their precisions, optional libraries, telemetry, and the fix for each gap."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from autotune import __version__
from autotune.cuda.probe import why_runtime_fails
from autotune.cuda.select import runtime_choices
from autotune.devices.gpu import visible_gpus
from autotune.devices.precision import doubtful_precisions, refused_precisions
from autotune.engines.build import load_backend
from autotune.errors import EnvironmentProblem
from autotune.fingerprint import cpu_fingerprint, library_version
from autotune.registry import ENGINES
from autotune.spec.knobs import PRECISIONS
from autotune.spec.presets import preset_of_device
from autotune.study.device_lock import holders, who_holds
from autotune.telemetry.gpu import gpu_probes
from autotune.telemetry.host import host_probes

_OPTIONAL = {
    "torch": ("pruning, and proposals by Gaussian processes", "pip install 'autotune[prune,gp]'"),
    "torch-pruning": ("pruning", "pip install 'autotune[prune]'"),
    "onnx2torch": ("pruning ONNX models", "pip install 'autotune[prune]'"),
    "scipy": ("proposals by Gaussian processes", "pip install 'autotune[gp]'"),
    "psycopg": ("PostgreSQL", "pip install 'autotune[postgresql]'"),
    "optuna-dashboard": ("autotune dashboard", "pip install 'autotune[dashboard]'"),
    "prometheus-client": ("autotune metrics, start --metrics", "pip install 'autotune[metrics]'"),
    "matplotlib": ("drawing the front", "pip install 'autotune[plot]'"),
}


def doctor_document() -> dict[str, Any]:
    """The machine, its engines, libraries and telemetry, as JSON."""
    engines = []
    for name in ENGINES.own_names():
        if name == "fake":
            continue
        able = load_backend(name).capabilities()
        engines.append(
            {
                "name": name,
                "device": able.device,
                "available": able.available,
                "versions": {d: library_version(d) for d in able.distributions},
                "precisions": list(able.precisions),
                "refused": dict(able.refused),
                "knobs": dict(able.knob_docs),
                "missing": able.missing,
                "remedy": able.remedy,
            }
        )
    device = cpu_fingerprint()
    libraries = [
        {"name": name, "version": library_version(name), "for": purpose, "remedy": remedy}
        for name, (purpose, remedy) in _OPTIONAL.items()
    ]
    gpus, gpu_gap = _gpus()
    probes = [*host_probes(), *(gpu_probes(visible_gpus()[0]) if gpus else ())]
    telemetry = [{"metric": p.metric, "unit": p.unit, "absent": p.absent} for p in probes]
    return {
        "autotune": __version__,
        "device": device.device,
        "cores": device.cores,
        "memory_mib": device.memory_mib,
        "system": device.system,
        "instructions": list(device.instructions),
        "gpus": gpus,
        "gpu_gap": gpu_gap,
        "cuda_runtimes": _cuda_runtimes(bool(gpus)),
        "engines": engines,
        "plug_ins": [name for name in ENGINES.names() if name not in ENGINES.own_names()],
        "libraries": libraries,
        "telemetry": telemetry,
        "busy_devices": [asdict(h) for h in holders()],
    }


def _gpus() -> tuple[list[dict[str, Any]], dict[str, str] | None]:
    """Every visible GPU with what its capability lacks, or the gap and the command that helps where there is none."""
    try:
        found = visible_gpus()
    except EnvironmentProblem as exc:
        return [], {"missing": str(exc).partition(" Try: ")[0].rstrip("."), "remedy": exc.remedy}
    if not found:
        return [], {"missing": "the NVIDIA driver is there, and no GPU is visible", "remedy": "unset CUDA_VISIBLE_DEVICES"}
    return [
        {
            "device": f"cuda:{i}",
            "name": str(gpu),
            "uuid": gpu.uuid,
            "driver": gpu.driver,
            "cuda": gpu.cuda,
            "preset": preset_of_device(f"cuda:{i}"),
            "refused": refused_precisions(PRECISIONS, gpu.compute_capability),
            "doubtful": doubtful_precisions(PRECISIONS, gpu.compute_capability),
        }
        for i, gpu in enumerate(found)
    ], None


def _cuda_runtimes(tried: bool) -> list[dict[str, Any]]:
    """The libraries that drive a GPU for engines that bring none, in their order; each is tried where there is a GPU."""
    found = []
    for choice in runtime_choices():
        missing, remedy = (choice.gap.missing, choice.gap.remedy) if choice.gap else ("", "")
        if tried and not missing:
            missing, remedy = why_runtime_fails(choice.name), "nvidia-smi; then the library's own installation"
        found.append(
            {
                "name": choice.name,
                "versions": choice.versions,
                "selected": choice.selected,
                "usable": not missing,
                "tried": tried,
                "missing": missing,
                "remedy": remedy if missing else "",
            }
        )
    return found


def _print_cuda_runtimes(document: dict[str, Any]) -> None:
    for runtime in document["cuda_runtimes"]:
        versions = ", ".join(f"{k} {v}" for k, v in runtime["versions"].items())
        if runtime["usable"]:
            state = "the one that is used" if runtime["selected"] else "used where it is named"
            untried = "" if runtime["tried"] else "; not tried, for no GPU is visible"
            click.echo(f"✓ CUDA runtime {runtime['name']} ({versions}): {state}{untried}")
        else:
            click.echo(f"✗ CUDA runtime {runtime['name']}: {runtime['missing']}. Try: {runtime['remedy']}")


def _print_gpus(document: dict[str, Any]) -> None:
    for gpu in document["gpus"]:
        click.echo(
            f"✓ {gpu['device']} {gpu['name']}, driver {gpu['driver']} for CUDA up to {gpu['cuda']}; space: {gpu['preset']}"
        )
        for precision, reason in gpu["refused"].items():
            click.echo(f"    no {precision}: {reason}")
        for precision, reason in gpu["doubtful"].items():
            click.echo(f"    {precision}: {reason}")
    if document["gpu_gap"]:
        click.echo(f"✗ NVIDIA GPU: {document['gpu_gap']['missing']}. Try: {document['gpu_gap']['remedy']}")


def print_doctor(document: dict[str, Any]) -> None:
    """The document as lines with ✓ and ✗."""
    click.echo(f"autotune {document['autotune']} on {document['device']}, {document['memory_mib']} MiB, {document['system']}")
    if document["instructions"]:
        click.echo(f"✓ instructions: {', '.join(document['instructions'])}")
    _print_gpus(document)
    _print_cuda_runtimes(document)
    for engine in document["engines"]:
        if not engine["available"]:
            click.echo(f"✗ {engine['name']}: {engine['missing']}. Try: {engine['remedy']}")
            continue
        versions = ", ".join(f"{k} {v}" for k, v in engine["versions"].items() if v)
        click.echo(f"✓ {engine['name']} ({versions}): {', '.join(engine['precisions'])}")
        for precision, reason in engine["refused"].items():
            click.echo(f"    no {precision}: {reason}")
    for name in document["plug_ins"]:
        click.echo(f"· {name}: an engine of another distribution, loaded only where a study names it")
    for library in document["libraries"]:
        if library["version"]:
            click.echo(f"✓ {library['name']} {library['version']}: {library['for']}")
        else:
            click.echo(f"✗ {library['name']} ({library['for']}). Try: {library['remedy']}")
    for probe in document["telemetry"]:
        click.echo(f"✓ {probe['metric']}" if probe["absent"] is None else f"✗ {probe['metric']}: {probe['absent']}")
    for line in who_holds():
        click.echo(line)
