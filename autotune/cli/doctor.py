"""What this machine can do: engines with their precisions, optional libraries, telemetry, and the fix for each gap."""

from __future__ import annotations

from typing import Any

import click

from autotune import __version__
from autotune.engines.build import load_backend
from autotune.fingerprint import cpu_fingerprint, library_version
from autotune.registry import ENGINES
from autotune.telemetry.host import host_probes

_OPTIONAL = {
    "torch": ("pruning, and proposals by Gaussian processes", "pip install 'autotune[prune,gp]'"),
    "torch-pruning": ("pruning", "pip install 'autotune[prune]'"),
    "onnx2torch": ("pruning ONNX models", "pip install 'autotune[prune]'"),
    "scipy": ("proposals by Gaussian processes", "pip install 'autotune[gp]'"),
    "psycopg": ("PostgreSQL", "pip install 'autotune[postgresql]'"),
    "optuna-dashboard": ("autotune dashboard", "pip install 'autotune[dashboard]'"),
    "matplotlib": ("drawing the front", "pip install 'autotune[plot]'"),
}


def doctor_document() -> dict[str, Any]:
    """The machine, its engines, libraries and telemetry, as JSON."""
    engines = []
    for name in ENGINES.names():
        if name == "fake":
            continue
        able = load_backend(name).capabilities()
        engines.append(
            {
                "name": name,
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
    telemetry = [{"metric": p.metric, "unit": p.unit, "absent": p.absent} for p in host_probes()]
    return {
        "autotune": __version__,
        "device": device.device,
        "cores": device.cores,
        "memory_mib": device.memory_mib,
        "system": device.system,
        "engines": engines,
        "libraries": libraries,
        "telemetry": telemetry,
    }


def print_doctor(document: dict[str, Any]) -> None:
    """The document as lines with ✓ and ✗."""
    click.echo(f"autotune {document['autotune']} on {document['device']}, {document['memory_mib']} MiB, {document['system']}")
    for engine in document["engines"]:
        if not engine["available"]:
            click.echo(f"✗ {engine['name']}: {engine['missing']}. Try: {engine['remedy']}")
            continue
        versions = ", ".join(f"{k} {v}" for k, v in engine["versions"].items())
        click.echo(f"✓ {engine['name']} ({versions}): {', '.join(engine['precisions'])}")
        for precision, reason in engine["refused"].items():
            click.echo(f"    no {precision}: {reason}")
    for library in document["libraries"]:
        if library["version"]:
            click.echo(f"✓ {library['name']} {library['version']}: {library['for']}")
        else:
            click.echo(f"✗ {library['name']} ({library['for']}). Try: {library['remedy']}")
    for probe in document["telemetry"]:
        click.echo(f"✓ {probe['metric']}" if probe["absent"] is None else f"✗ {probe['metric']}: {probe['absent']}")
