"""Records as tables for people; numbers with their intervals, and a dash where nothing was measured."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from autotune.printable import printable
from autotune.records import Agreement, Estimate, Regime, Repetition, TrialRecord

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook
    from rich.table import Table

    from autotune.study.warm_start import WarmStartGain

DASH = "–"
_LONG = 50
_WIDE, _LOPSIDED = 0.25, 1.25
"""Half-width against the value, and one side against the other, from where ± would misinform."""
_MOST_DECIMALS = 9


def emit_json(document: Any) -> None:
    """One JSON document on stdout; a long list has one element per line, which is sooner written."""
    if isinstance(document, list) and len(document) > _LONG:
        lines = (json.dumps(element, ensure_ascii=False, allow_nan=False) for element in document)
        sys.stdout.write("[\n" + ",\n".join(lines) + "\n]\n")
        return
    json.dump(document, sys.stdout, indent=2, ensure_ascii=False, allow_nan=False)
    sys.stdout.write("\n")


def console(*, stderr: bool = False) -> Console:
    """Where tables go; when piped, wide enough that no column is cut."""
    from rich.console import Console

    # No markup: brackets in the names of nodes and knobs are no colours.
    found = Console(stderr=stderr, highlight=False, markup=False)
    found = found if found.is_terminal else Console(stderr=stderr, highlight=False, markup=False, width=180)
    found.push_render_hook(_printing())
    return found


def _printing() -> RenderHook:
    """What the console prints passes `printable`; its own colours and movements are no text and stay."""
    from rich.console import RenderHook
    from rich.segment import Segment

    class Printable:
        def __init__(self, shown: ConsoleRenderable) -> None:
            self._shown = shown

        def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
            for segment in console.render(self._shown, options):
                yield segment if segment.control else Segment(printable(segment.text), segment.style)

    class Hook(RenderHook):
        def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
            return [Printable(shown) for shown in renderables]

    return Hook()


def with_interval(estimate: Estimate | None, digits: int = 1, factor: float = 1.0) -> str:
    """ "812.3 ±4.1", or "812.3 [402.1, 1640.0]" where the interval is wide and lopsided, or a dash.

    `digits`: decimals, or as many more as a narrow interval needs to be seen.
    """
    if estimate is None:
        return DASH
    half_width = estimate.half_width * factor
    if half_width > 0 and math.isfinite(half_width):
        digits = max(digits, min(1 - math.floor(math.log10(half_width)), _MOST_DECIMALS))
    below, above = estimate.value - estimate.low, estimate.high - estimate.value
    if estimate.half_width > _WIDE * abs(estimate.value) and max(below, above) > _LOPSIDED * min(below, above):
        low, high = estimate.low * factor, estimate.high * factor
        return f"{estimate.value * factor:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
    return f"{estimate.value * factor:.{digits}f} ±{half_width:.{digits}f}"


def _number(value: float | None, digits: int = 1) -> str:
    return DASH if value is None else f"{value:.{digits}f}"


def _knob(value: object) -> str:
    return DASH if value is None else f"{value:g}" if isinstance(value, float) else str(value)


_SELDOM = {
    "builder_level": "level",
    "cuda_graph": "graph",
    "layout": "layout",
    "conv_search": "search",
    "arena_growth": "arena",
}
"""Knobs that few engines have, with the heads of their columns, which appear only where some trial has a value."""


def _columns(record: TrialRecord, reference: TrialRecord | None, seldom: Sequence[str]) -> list[str]:
    c = record.candidate
    rate = record.throughput_items_per_s
    base = reference.throughput_items_per_s if reference else None
    gain = f"{rate.value / base.value:.2f}×" if rate and base and base.value > 0 else DASH
    return [
        "ref" if record.role == "reference" else str(record.number),
        c.engine,
        c.precision,
        _knob(c.pruning_ratio),
        _knob(c.batch_size),
        _knob(c.streams),
        _knob(c.worker_threads),
        _knob(c.memory_pool_mib),
        *(_knob(getattr(c, name)) for name in seldom),
        with_interval(record.accuracy, 2, 100.0) if _is_share(record) else with_interval(record.accuracy, 4),
        with_interval(rate),
        gain,
        _number(record.latency_ms.p99.value if record.latency_ms.p99 else None, 2),
        _number(record.peak_memory_mib, 0),
    ]


def _is_share(record: TrialRecord) -> bool:
    return record.metric.startswith("top")


def trial_table(records: Sequence[TrialRecord], reference: TrialRecord | None, title: str = "") -> Table:
    """One row per trial, the reference's first."""
    from rich import box
    from rich.table import Table

    metric = next((r.metric for r in [*records, *([reference] if reference else [])] if r.metric), "accuracy")
    table = Table(title=title or None, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    share = metric.startswith("top")
    rows = ([reference] if reference else []) + list(records)
    seldom = [name for name in _SELDOM if any(getattr(r.candidate, name) is not None for r in rows)]
    heads = ("#", "engine", "precision", "prune", "batch", "streams", "threads", "pool MiB")
    for head in (
        *heads,
        *(_SELDOM[name] for name in seldom),
        metric + (" %" if share else ""),
        "items/s",
        "× ref",
        "p99 ms",
        "MiB",
    ):
        table.add_column(head, justify="left" if head in ("engine", "precision") else "right", no_wrap=True)
    with_slo = any(r.load is not None and r.load.within_slo is not None for r in rows)
    if with_slo:
        table.add_column("in SLO %", justify="right", no_wrap=True)
    for record in rows:
        within = [with_interval(record.load.within_slo if record.load else None, 2, 100.0)] if with_slo else []
        table.add_row(*_columns(record, reference, seldom), *within, style="dim" if record.role == "reference" else "")
    return table


def print_trials(records: Sequence[TrialRecord], reference: TrialRecord | None, title: str = "") -> None:
    """The table on stdout, then a line per trial that has no result."""
    out = console()
    out.print(trial_table(records, reference, title))
    loads = [r.load for r in (*records, *([reference] if reference else [])) if r.load is not None]
    if loads and loads[0].scenario != "offline":
        out.print(f"items/s: {loads[0].throughput_means}", markup=False, soft_wrap=True)
    for record in records:
        if record.reject is not None:
            out.print(f"{record.number:>4} {reject_line(record)}", markup=False, soft_wrap=True)


def print_front_notes(
    front: Sequence[TrialRecord],
    n_trials: int,
    n_rounds: Sequence[int],
    ties: Mapping[int, Sequence[int]],
    regimes: Sequence[Regime],
    warm_start: WarmStartGain | None,
) -> None:
    """What the front's table cannot say: ties, how often its members were measured, changes of the machine, a warm start.

    `n_rounds`: of each trial that was measured again as a finalist, in how many rounds.
    """
    for record in front:
        print_ties(record.number, ties[record.number], "every objective")
    out = console()
    if n_rounds:
        out.print(f"{len(n_rounds)} of {n_trials} trials measured again as finalists, in up to {max(n_rounds)} rounds")
    for regime in regimes:
        out.print(f"the machine changed at {regime.since}: {regime.reason}", markup=False, soft_wrap=True)
    present = regimes[-1].number if regimes else 1
    if old := [str(r.number) for r in front if r.regime < present]:
        out.print(f"measured before it changed, and not since: {', '.join(old)}", markup=False, soft_wrap=True)
    if warm_start is not None:
        out.print(str(warm_start), markup=False, soft_wrap=True)


def print_ties(number: int, ties: Sequence[int], where: str) -> None:
    """A line that names the trials which no measurement can tell from this one; nothing where there are none.

    `where`: the objective, or objectives, in which they tie.
    """
    if ties:
        console().print(f"{number:>4} ties in {where} with {', '.join(map(str, ties))}", markup=False, soft_wrap=True)


def reject_line(record: TrialRecord) -> str:
    """ "rejected in accuracy: …": the first line of the reason, of a crash the last, which names the exception."""
    if record.reject is None:
        return record.state
    lines = record.reject.message.strip().splitlines() or [record.reject.reason]
    return f"{record.state} in {record.reject.stage}: {lines[-1] if record.state == 'crashed' else lines[0]}"


def print_trial(record: TrialRecord) -> None:
    """Everything known of one trial, in lines of "name  value"."""
    out = console()
    document = record.as_json()
    for name, value in document.items():
        if isinstance(value, dict) and {"value", "low", "high"} <= value.keys():
            text = f"{value['value']:.6g} [{value['low']:.6g}, {value['high']:.6g}] (n={value['n']}, {value['method']})"
        elif name == "agreement":
            text = _agreement(record.agreement)
        elif name == "load" and value is not None:
            text = ", ".join(f"{k}={_inner(v)}" for k, v in value.items() if v is not None)
        elif name == "repetitions":
            text = "; ".join(_repetition(p) for p in record.repetitions) or DASH
        elif isinstance(value, dict):
            text = ", ".join(f"{k}={_inner(v)}" for k, v in value.items())
        elif isinstance(value, list | tuple):
            text = ", ".join(map(str, value)) or DASH
        else:
            text = DASH if value is None else str(value)
        out.print(f"{name:<24}{text}", markup=False, soft_wrap=True)


def _agreement(found: Agreement | None) -> str:
    """One line: the same class named, how far the outputs lie apart, and the classes that lost beyond noise."""
    if found is None:
        return DASH
    parts = []
    if found.top1 is not None:
        parts.append(f"same class as the reference on {_inner(asdict(found.top1))} of the samples")
    if found.output_difference is not None:
        parts.append(f"outputs differ by {_inner(asdict(found.output_difference))} of their norm")
    if found.n_classes is not None:
        worst = ", ".join(
            f"class {c.label} by {_inner(asdict(c.drop))} (n={c.drop.n}, p={c.p_value:.1g})" for c in found.classes
        )
        parts.append(f"of {found.n_classes} classes lost beyond noise: {worst or 'none'}")
    return "; ".join(parts) or DASH


def _repetition(repetition: Repetition) -> str:
    result = with_interval(repetition.throughput_items_per_s) if repetition.state == "complete" else repetition.state
    return f"{repetition.role} {repetition.round}: {result}"


def _inner(value: Any) -> str:
    if isinstance(value, dict) and "value" in value:
        return f"{value['value']:.4g} [{value['low']:.4g}, {value['high']:.4g}]"
    return DASH if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
