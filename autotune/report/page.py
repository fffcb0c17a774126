"""A study's report as one HTML page: nothing in it is fetched from elsewhere, and nothing in it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from autotune.candidate import KNOBS
from autotune.fingerprint import DeviceFingerprint
from autotune.records import Estimate, Regime, TrialRecord
from autotune.report.cloud import Cloud
from autotune.report.svg import front_svg

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:1100px;padding:0 1rem;color:#1c2733;background:#fff}
h1{font-size:1.5rem;margin-bottom:.2rem}h2{font-size:1.1rem;margin-top:2rem}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:13px;white-space:nowrap}
th,td{padding:.25rem .6rem;text-align:right;border-bottom:1px solid #e3e8ee}th{font-weight:600;border-bottom-color:#9aa5b1}
td.t,th.t{text-align:left}td.w{white-space:normal;text-align:left}tr.ref{color:#1d4ed8}tr.best td{background:#fff4ed}
svg{max-width:100%;height:auto}svg text{font:12px system-ui,sans-serif;fill:#44525f}.g{stroke:#e3e8ee;fill:none}
.dim{color:#5f6c7a}
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""Whatever a name in the database holds, a browser fetches and runs nothing of it."""
_DASH = "–"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """Trials without a result that share a reason. `example`: what the first of them said."""

    state: str
    reason: str
    stage: str
    n: int
    example: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportContent:
    """What a report shows. `ties`: by the number of a member of the front. `asked_for`: by knob, what the study file asks for.

    `facts`: further lines, by their heads. `written_at`: ISO 8601.
    """

    study: str
    written_at: str
    n_trials: Mapping[str, int]
    target: int
    cloud: Cloud
    front: Sequence[TrialRecord]
    best: TrialRecord | None
    reference: TrialRecord | None
    ties: Mapping[int, Sequence[int]]
    regimes: Sequence[Regime]
    asked_for: Mapping[str, str]
    rejected: Sequence[Rejected]
    environment: DeviceFingerprint | None
    facts: Mapping[str, str]


def report_page(content: ReportContent) -> str:
    """The whole document."""
    done = ", ".join(f"{n} {state}" for state, n in content.n_trials.items() if n) or "none yet"
    device = content.environment.device if content.environment else ""
    parts = [
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width,initial-scale=1">',
        f"<title>{escape(content.study)}: autotune report</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(content.study)}</h1>",
        f'<p class="dim">{escape(device)} · {sum(content.n_trials.values())} of {content.target} trials ({done}) · '
        f"{escape(content.written_at)}</p>",
        _facts(content.facts),
        f"<h2>Accuracy against throughput</h2>{front_svg(content.cloud, content.front, content.reference)}",
        _front(content),
        _regimes(content.regimes),
        _knobs(content),
        _rejections(content.rejected),
        _environment(content.environment),
        "</body></html>\n",
    ]
    return "\n".join(p for p in parts if p)


def _facts(facts: Mapping[str, str]) -> str:
    lines = "".join(f"<li><b>{escape(head)}:</b> {escape(text)}</li>" for head, text in facts.items() if text)
    return f"<ul>{lines}</ul>" if lines else ""


def _front(content: ReportContent) -> str:
    metric = next((r.metric for r in (content.reference, *content.front) if r and r.metric), "accuracy")
    knobs = [k for k in KNOBS if any(getattr(r.candidate, k) is not None for r in (*content.front, *_some(content.reference)))]
    heads = ["#", *(k.replace("_", " ") for k in knobs), metric, "items/s", "× ref", "p99 ms", "J/item", "MiB", "ties with"]
    rows = [(r, content) for r in (*_some(content.reference), *content.front)]
    head = "".join(f'<th class="{_side(h)}">{escape(h)}</th>' for h in heads)
    body = "\n".join(_front_row(record, found, knobs) for record, found in rows)
    note = "" if content.front else "<p>No trial keeps to the constraints yet.</p>"
    best = f" The best under the constraints is trial {content.best.number}." if content.best else ""
    intro = f"<p>Every number with its 95 % interval; trials that tie cannot be told apart by what was measured.{best}</p>"
    return f'<h2>Pareto front</h2>{note}{intro}<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def _front_row(record: TrialRecord, content: ReportContent, knobs: Sequence[str]) -> str:
    base = content.reference.throughput_items_per_s if content.reference else None
    rate, is_reference = record.throughput_items_per_s, record.role == "reference"
    cells = [
        "ref" if is_reference else str(record.number),
        *(_value(getattr(record.candidate, k)) for k in knobs),
        _estimate(record.accuracy, 4),
        _estimate(rate, 1),
        f"{rate.value / base.value:.2f}" if rate and base and base.value > 0 else _DASH,
        _estimate(record.latency_ms.p99, 2),
        _estimate(record.energy_j_per_item, 4),
        _DASH if record.peak_memory_mib is None else f"{record.peak_memory_mib:.0f}",
        _DASH if is_reference else _numbers(content.ties.get(record.number, ())),
    ]
    is_best = content.best is not None and not is_reference and record.number == content.best.number
    kind = "ref" if is_reference else "best" if is_best else ""
    return f'<tr class="{kind}">' + "".join(f"<td>{escape(c)}</td>" for c in cells) + "</tr>"


def _regimes(regimes: Sequence[Regime]) -> str:
    if not regimes:
        return "<h2>The machine</h2><p>The reference's speed was steady beyond its noise.</p>"
    rows = "".join(f'<tr><td>{r.number}</td><td class="t">{escape(r.since)}</td><td class="w">{escape(r.reason)}</td></tr>'
                   for r in regimes)  # fmt: skip
    heads = '<tr><th>regime</th><th class="t">since</th><th class="t">what the reference showed</th></tr>'
    return f'<h2>Changes of the machine</h2><div class="scroll"><table>{heads}{rows}</table></div>'


def _knobs(content: ReportContent) -> str:
    rows = []
    for name, knob in KNOBS.items():
        values = sorted({_value(getattr(r.candidate, name)) for r in content.front}, key=_in_order)
        asked_for = content.asked_for.get(name, "")
        if asked_for or any(v != _DASH for v in values):
            unit = "" if knob.unit in ("", "1") else f" ({knob.unit})"
            cells = (f"{name}{unit}", asked_for or _DASH, ", ".join(values) or _DASH, knob.doc)
            rows.append("<tr>" + "".join(f'<td class="w">{escape(c)}</td>' for c in cells) + "</tr>")
    heads = "".join(f'<th class="t">{h}</th>' for h in ("knob", "asked for", "in the front", "what it is"))
    return f'<h2>Knobs</h2><div class="scroll"><table><tr>{heads}</tr>{"".join(rows)}</table></div>'


def _rejections(rejected: Sequence[Rejected]) -> str:
    if not rejected:
        return "<h2>Trials without a result</h2><p>None.</p>"
    rows = "".join(
        f'<tr><td>{r.n}</td><td class="t">{escape(r.state)}</td><td class="t">{escape(r.reason)}</td>'
        f'<td class="t">{escape(r.stage)}</td><td class="w">{escape(r.example)}</td></tr>'
        for r in rejected
    )
    heads = "".join(f'<th class="{_side(h)}">{h}</th>' for h in ("trials", "state", "reason", "stage", "the first said"))
    return f'<h2>Trials without a result</h2><div class="scroll"><table><tr>{heads}</tr>{rows}</table></div>'


def _environment(found: DeviceFingerprint | None) -> str:
    if found is None:
        return ""
    facts = {"device": found.device, "kind": found.kind, "cores": str(found.cores), "memory": f"{found.memory_mib} MiB"}
    facts |= {"instructions": ", ".join(found.instructions)} if found.instructions else {}
    facts |= {"system": found.system, **dict(sorted(found.versions.items()))}
    rows = "".join(f'<tr><td class="t">{escape(k)}</td><td class="w">{escape(str(v))}</td></tr>' for k, v in facts.items())
    return f'<h2>Environment</h2><div class="scroll"><table>{rows}</table></div>'


def _estimate(found: Estimate | None, digits: int) -> str:
    return _DASH if found is None else f"{found.value:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"


def _value(value: object) -> str:
    return _DASH if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _numbers(ties: Sequence[int], most: int = 12) -> str:
    more = f" and {len(ties) - most} more" if len(ties) > most else ""
    return ", ".join(map(str, ties[:most])) + more or _DASH


def _in_order(text: str) -> tuple[int, float, str]:
    """Numbers by their size, before words."""
    try:
        return (0, float(text), "")
    except ValueError:
        return (1, 0.0, text)


def _side(head: str) -> str:
    return "t" if head in ("engine", "precision", "state", "reason", "stage", "the first said") else ""


def _some(record: TrialRecord | None) -> list[TrialRecord]:
    return [] if record is None else [record]
