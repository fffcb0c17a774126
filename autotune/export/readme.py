"""The bundle's README.md: what it is, how to run it, and what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from autotune import __version__
from autotune.records import Estimate, TrialRecord

if TYPE_CHECKING:
    from autotune.export.bundle import BundleSource

FILE = "README.md"
_HOW = {
    "onnxruntime": "numpy and onnxruntime",
    "openvino": "numpy and openvino",
}
_FILES = {
    "model.onnx": "the model as it was measured",
    "model.xml": "the model as it was measured, its graph",
    "model.bin": "its weights",
    "settings.json": "the settings that it was measured with",
    "run.py": "runs it; `load` in it can be imported",
}


def readme(source: BundleSource, target: str, files: Sequence[str]) -> str:
    """The text, in Markdown. Every number has its interval; what was not measured is not mentioned."""
    record = source.record
    needs = _HOW.get(target, f"what the target {target} needs")
    lines = [
        f"# Deployment bundle: trial {record.number}",
        "",
        f"Written by autotune {__version__} for the target {target}: {record.candidate}.",
        "",
        "## Run it",
        "",
        f"    python run.py                          # random inputs, prints items per second; needs {needs}",
        "    python run.py --input samples.npz      # arrays named like the model's inputs; writes outputs.npz",
        "",
        *_preprocessing(source),
        "## What was measured",
        "",
        f"On {record.device or 'an unnamed device'}, {record.finished_at or 'at an unknown time'}; intervals hold with 95 %.",
        *_instructions(source),
        "",
        "| | value | interval | n |",
        "|---|---|---|---|",
        *_rows(record),
        "",
        *_circumstances(record),
        "## Files",
        "",
        *(f"* `{name}`{f': {_FILES[name]}' if name in _FILES else ''}" for name in files),
        "* `manifest.json`: the SHA-256 of each, the settings, and all numbers above",
        "",
        "`run.py` compares the checksums before it loads anything. They tell a damaged copy, not a forged one.",
    ]
    return "\n".join(lines) + "\n"


def _instructions(source: BundleSource) -> Iterator[str]:
    if source.instructions:
        yield f"Its instructions: {', '.join(source.instructions)}. A CPU that lacks some is another device, whatever its name."


def _preprocessing(source: BundleSource) -> Iterator[str]:
    if source.preprocess is None:
        yield "Inputs go in as they are: the study preprocessed nothing."
    else:
        said = ", ".join(f"{name} {value}" for name, value in source.preprocess.items() if value is not None)
        yield f"Inputs are preprocessed as the study did, (pixel·scale − mean)/std: {said}."
    yield ""


def _rows(record: TrialRecord) -> Iterator[str]:
    percent = record.metric in ("top1", "top5")
    yield from _row(record.metric or "accuracy", record.accuracy, percent=percent)
    yield from _row("drop against the unmodified model", record.accuracy_drop, percent=percent)
    yield from _row("throughput, items/s", record.throughput_items_per_s)
    for name in ("p50", "p90", "p95", "p99"):
        yield from _row(f"latency {name}, ms", getattr(record.latency_ms, name))
    yield from _row("energy, J per item", record.energy_j_per_item)
    if record.peak_memory_mib is not None:
        yield f"| peak memory under load, MiB | {record.peak_memory_mib:.0f} | | 1 |"


def _row(name: str, found: Estimate | None, *, percent: bool = False) -> Iterator[str]:
    if found is None:
        return
    scale, unit = (100, " %") if percent else (1, "")
    value, low, high = (f"{v * scale:.4g}{unit}" for v in (found.value, found.low, found.high))
    yield f"| {name} | {value} | {low} to {high} | {found.n} |"


def _circumstances(record: TrialRecord) -> Iterator[str]:
    if record.versions:
        yield f"With {', '.join(f'{name} {version}' for name, version in record.versions.items())}."
    if record.flags:
        yield f"Flags of the trial: {', '.join(record.flags)}."
    if record.versions or record.flags:
        yield ""
