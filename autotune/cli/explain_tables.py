"""Explanations for people: the verdict first, then the tables that it stands on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from autotune.cli.render import DASH, console
from autotune.explain.comparison import Comparison, Matched, Side, compare
from autotune.explain.document import CAVEATS
from autotune.explain.explanation import Explanation, Finding, NodeTime, Placed, explain
from autotune.explain.subject import Subject
from autotune.explain.verdict import comparison_verdict, verdict

if TYPE_CHECKING:
    from rich.table import Table

Row = Sequence[str]


def print_explanation(subjects: Sequence[Subject], notes: Sequence[str], top: int) -> None:
    """Verdict, tables and caveats on stdout."""
    parts = [explain(s) for s in subjects]
    if len(subjects) == 1:
        _say(verdict(subjects[0], parts[0]))
    else:
        comparison = compare(subjects[0], subjects[1])
        _say(comparison_verdict(subjects[0], subjects[1], parts[0], parts[1], comparison))
        _print_comparison(subjects[0], subjects[1], comparison, top)
    for subject, explanation in zip(subjects, parts, strict=True):
        _print_subject(subject, explanation, top)
    _say(f"note: {text}" for text in (*CAVEATS, *notes))


def _say(lines: Iterable[str]) -> None:
    out = console()
    for line in lines:
        out.print(line, markup=False, soft_wrap=not out.is_terminal)
    out.print()


def _table(title: str, heads: Sequence[str], rows: Iterable[Row], left: Iterable[str] = ()) -> None:
    from rich import box
    from rich.table import Table

    table: Table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    texts = set(left)
    for head in heads:
        table.add_column(head, justify="left" if head in texts else "right", overflow="fold")
    n = 0
    for row in rows:
        table.add_row(*row)
        n += 1
    if n:
        out = console()
        out.print(title, style="bold", markup=False, soft_wrap=True)
        out.print(table)


def _print_comparison(ours: Subject, theirs: Subject, comparison: Comparison, top: int) -> None:
    heads = ("work", "nodes", f"{ours.label}, µs/item", f"{theirs.label}, µs/item", "lost", "formats")
    _table("profiled, by kind of work", heads, (_matched_row(m) for m in comparison.families), ("work", "formats"))
    moved = sorted(comparison.matched, key=lambda m: -abs(m.lost_us))[:top]
    changes = (_matched_row(m, by_name=True) for m in moved)
    _table(f"profiled, the {len(moved)} largest changes by node", heads, changes, ("work", "formats"))
    _table(
        f"layers of their own in {ours.label} that {theirs.label} fuses",
        ("layer", "why"),
        comparison.fused_there[:top],
        ("layer", "why"),
    )


def _matched_row(m: Matched, *, by_name: bool = False) -> Row:
    name = f"{m.name} ({m.label})" if by_name and m.nodes else m.label
    formats = " → ".join(dict.fromkeys("/".join(s.precisions) or DASH for s in (m.theirs, m.ours)))
    n_nodes = str(len(m.nodes)) if m.nodes else DASH
    return (name, n_nodes, _side_us(m.ours), _side_us(m.theirs), f"{m.lost_us:+.1f}", formats if m.nodes else "")


def _side_us(side: Side) -> str:
    return f"{side.us_per_item:.1f}"


def _print_subject(subject: Subject, e: Explanation, top: int) -> None:
    shares = [(f"{s.name} layers", str(s.n_layers), f"{s.time_us:.0f}", f"{s.share:.1%}") for s in e.by_role]
    shares += [(f"computed in {s.name}", str(s.n_layers), f"{s.time_us:.0f}", f"{s.share:.1%}") for s in e.by_precision]
    shares += [(f"run by {p.provider} ({p.n_nodes} nodes)", str(p.n_layers), *_provider_time(p)) for p in e.by_provider]
    shares.append(("between layers", DASH, f"{e.between.time_us:.0f}", f"{e.between.share:.1%}"))
    batch = f"batch {subject.batch_size}, profiled, {subject.report.n_runs} runs"
    _table(f"{subject.label}: where the time goes ({batch})", ("part", "layers", "µs", "share"), shares, ("part",))
    heads = ("layer", "work", "role", "format", "µs", "share", "kernel", "nodes")
    left = ("layer", "work", "role", "format", "kernel", "nodes")
    _table(f"{subject.label}: longest layers", heads, map(_layer_row, e.layers[:top]), left)
    _findings(f"{subject.label}: stayed wider than {subject.precision}", e.stayed_wide, top)
    _findings(f"{subject.label}: layers that compute nothing", e.overhead, top)
    _findings(f"{subject.label}: not fused", e.unfused, top)
    nodes = (
        (n.name, n.label, str(n.n_layers), f"{n.time_us:.0f}", f"{n.share:.1%}", _few(_others(n))) for n in e.by_node[:top]
    )
    columns = ("node", "work", "layers", "µs", "share", "with")
    _table(f"{subject.label}: by node of the graph", columns, nodes, ("node", "work", "with"))
    if e.vanished:
        _say([f"{subject.label}: {len(e.vanished)} nodes are in no layer: {_few(e.vanished, top)}"])


def _provider_time(p: Placed) -> tuple[str, str]:
    return (DASH, DASH) if p.untimed == p.n_layers else (f"{p.time_us:.0f}", f"{p.share:.1%}")


def _layer_row(f: Finding) -> Row:
    return (f.layer, f.label, f.role, f.precision or DASH, _us(f), f"{f.share:.1%}", f.kernel, _few(f.nodes))


def _others(n: NodeTime) -> Sequence[str]:
    return [name for name in n.nodes if name != n.name]


def _few(names: Sequence[str], at_most: int = 3) -> str:
    more = len(names) - at_most
    return ", ".join(names[:at_most]) + (f" +{more}" if more > 0 else "")


def _us(f: Finding) -> str:
    return DASH if f.time_us is None else f"{f.time_us:.0f}"


def _findings(title: str, found: Sequence[Finding], top: int) -> None:
    if not found:
        return
    shown = f"{len(found)}, {sum(f.share for f in found):.1%} of the time"
    rows = ((f.layer, f.label, f.precision or DASH, _us(f), f"{f.share:.1%}", f.why or f.role) for f in found[:top])
    _table(f"{title} ({shown})", ("layer", "work", "format", "µs", "share", "why"), rows, ("layer", "work", "format", "why"))
