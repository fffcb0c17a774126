"""The explanation in a few plain sentences, every number in them measured."""

from __future__ import annotations

import math
from collections.abc import Sequence

from autotune.explain.comparison import Comparison, Matched
from autotune.explain.explanation import Explanation, Finding, Placed
from autotune.explain.subject import Subject, counted
from autotune.records import Estimate

_WORTH_SAYING = 0.03
"""Share of a trial's time below which a part of it is left to the tables."""
_WORTH_A_WORD = 0.005
_AT_MOST = 4


def verdict(subject: Subject, explanation: Explanation) -> tuple[str, ...]:
    """Where one trial's time goes."""
    if subject.total_us <= 0:
        return (f"{subject.label} was inspected and not run, so nothing can be said of its time.", *_open(explanation))
    plain = subject.plain_us
    alone = "" if plain is None else f" ({_us(plain.value)} without the profiler)"
    begin = f"{subject.label} takes {_us(subject.total_us)} per batch of {subject.batch_size} under the profiler{alone}."
    composed = f"Of this, {_composition(subject, explanation)}."
    return (begin, composed, *_placed(explanation), *_unfused(explanation), *_open(explanation))


def _placed(explanation: Explanation) -> tuple[str, ...]:
    """Which executor inside the engine took what."""
    parts = explanation.by_provider
    if not parts:
        return ()
    told = "; ".join(map(_part, parts))
    cpu = next((p for p in parts if p.provider == "CPU"), None)
    fell = f" On the CPU: {', '.join(cpu.nodes[:_AT_MOST])}{', …' if len(cpu.nodes) > _AT_MOST else ''}." if cpu else ""
    return (f"Inside the engine: {told}{'' if cpu else '; nothing fell to the CPU'}.{fell}",)


def _part(placed: Placed) -> str:
    """ "TensorRT has 50 nodes in 1 layer, 93 % of the time"."""
    layers = "1 layer" if placed.n_layers == 1 else f"{placed.n_layers} layers"
    nodes = "1 node" if placed.n_nodes == 1 else f"{placed.n_nodes} nodes"
    if placed.untimed == placed.n_layers:
        return f"{placed.provider} has {nodes} in {layers}, whose time is not known"
    rest = f" ({placed.untimed} of them without a time)" if placed.untimed else ""
    return f"{placed.provider} has {nodes} in {layers}, {_percent(placed.share)} of the time{rest}"


def _unfused(explanation: Explanation) -> tuple[str, ...]:
    """What runs on its own and could be part of another layer; Q and DQ at the model's ends could not."""
    found = [f for f in explanation.unfused if "where it is needed" not in f.why]
    if not found:
        return ()
    share = sum(f.share for f in found)
    verb = "is 1 layer" if len(found) == 1 else f"are {len(found)} layers"
    return (f"Not fused with their neighbours {verb} ({counted(f.label for f in found)}), {_percent(share)} of the time.",)


def comparison_verdict(
    ours: Subject, theirs: Subject, our_parts: Explanation, their_parts: Explanation, comparison: Comparison
) -> tuple[str, ...]:
    """Which of the two is faster, what its or the other's time consists of, and which work makes the difference."""
    return (
        _speed(ours, theirs, comparison),
        *(f"Of {s.label}'s time, {_composition(s, e)}." for s, e in ((ours, our_parts), (theirs, their_parts)) if s.total_us),
        *(f"{s.label}: {text}" for s, e in ((ours, our_parts), (theirs, their_parts)) for text in _placed(e)),
        *_difference(ours, theirs, comparison),
        *_missing_fusions(ours, theirs, comparison),
        *_study(ours, theirs, comparison),
        *_open(our_parts),
        *_unmatched(comparison),
    )


def _speed(ours: Subject, theirs: Subject, comparison: Comparison) -> str:
    ratio = comparison.ratio
    if ratio is None:
        return f"How fast {ours.label} is against {theirs.label} was not measured."
    unit = "per batch" if ours.batch_size == theirs.batch_size else "per item"
    our_us, their_us = _pair_us(ours, theirs, per_item=ours.batch_size != theirs.batch_size)
    times = f"{_us(our_us)} against {_us(their_us)}, {comparison.ratio_source}"
    if ratio.low <= 1 <= ratio.high:
        return f"{ours.label} and {theirs.label} cannot be told apart {unit}: × {_interval(ratio)} ({times})."
    if ratio.value > 1:
        return f"{ours.label} is {_interval(ratio)} × slower {unit} than {theirs.label} ({times})."
    return f"{ours.label} is {_interval(_inverse(ratio))} × faster {unit} than {theirs.label} ({times})."


def _pair_us(ours: Subject, theirs: Subject, *, per_item: bool) -> tuple[float, float]:
    plain = ours.plain_us is not None and theirs.plain_us is not None
    times = [
        (s.plain_us.value if plain and s.plain_us else s.total_us) / (s.batch_size if per_item else 1) for s in (ours, theirs)
    ]
    return times[0], times[1]


def _inverse(ratio: Estimate) -> Estimate:
    low = 1 / ratio.high if ratio.high > 0 else 0.0
    high = 1 / ratio.low if ratio.low > 0 else float("inf")
    return Estimate(value=1 / ratio.value, low=low, high=high, n=ratio.n, method=ratio.method)


def _interval(ratio: Estimate) -> str:
    """ "1.80 [1.74, 1.86]"; without the interval where there is none."""
    known = ratio.high < float("inf")
    return f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]" if known else f"{ratio.value:.2f} (no interval known)"


def _composition(subject: Subject, explanation: Explanation) -> str:
    """ "41 % is 17 computing layers that stayed fp32 (…), 47 % is 35 computing layers in int8, 12 % is 24 reformat layers"."""
    wide = explanation.stayed_wide
    parts = [_wide_part(wide)] if wide else []
    computing = next((s for s in explanation.by_role if s.name == "compute"), None)
    if computing is not None and computing.n_layers > len(wide):
        wide_formats = {f.precision for f in wide}
        formats = [s.name for s in explanation.by_precision if s.name not in wide_formats]
        rest = computing.share - sum(f.share for f in wide)
        parts.append(f"{_percent(rest)} {_layers(computing.n_layers - len(wide), 'computing')} in {', '.join(formats)}")
    parts += [
        f"{_percent(s.share)} {_layers(s.n_layers, s.name)}"
        for s in explanation.by_role
        if s.name != "compute" and s.share >= _WORTH_A_WORD
    ]
    if explanation.between.share >= _WORTH_A_WORD:
        parts.append(f"{_percent(explanation.between.share)} lies between layers")
    return ", ".join(parts)


def _wide_part(wide: Sequence[Finding]) -> str:
    formats = "/".join(dict.fromkeys(f.precision for f in wide))
    share = sum(f.share for f in wide)
    reasons = counted((f.why for f in wide), at_most=2)
    what = counted(f.label for f in wide)
    return f"{_percent(share)} {_layers(len(wide), 'computing')} that stayed {formats} ({what}; why: {reasons})"


def _layers(n: int, kind: str) -> str:
    return f"is 1 {kind} layer" if n == 1 else f"is {n} {kind} layers"


def _difference(ours: Subject, theirs: Subject, comparison: Comparison) -> tuple[str, ...]:
    """The kinds of work that lose and gain most, per item by the profiler."""
    base = max(ours.total_us / ours.batch_size, theirs.total_us / theirs.batch_size)
    told = [m for m in comparison.families if base > 0 and abs(m.lost_us) >= _WORTH_SAYING * base]
    lost = [m for m in told if m.lost_us > 0][:_AT_MOST]
    gained = [m for m in reversed(told) if m.lost_us < 0][:_AT_MOST]
    apart = comparison.ratio is not None and not comparison.ratio.low <= 1 <= comparison.ratio.high
    begin = "Per item and profiled" + ("" if apart else ", which may be noise where the whole cannot be told apart")
    found = []
    if lost:
        found.append(f"{begin}, {ours.label} loses most in {'; '.join(map(_change, lost))}.")
    if gained:
        found.append(f"{begin}, {ours.label} gains most in {'; '.join(map(_change, gained))}.")
    if not told:
        found.append(f"No kind of work differs by more than {_WORTH_SAYING:.0%} of the time.")
    return tuple(found)


def _change(m: Matched) -> str:
    """ "Conv 3×3 depthwise +120 µs (17 nodes, fp32 → int8, 3.1 × as long)"."""
    facts = [f"{len(m.nodes)} node" + ("s" if len(m.nodes) > 1 else "")] if m.nodes else []
    formats = ["/".join(s.precisions) for s in (m.theirs, m.ours)]
    if all(formats) and formats[0] != formats[1]:
        facts.append(" → ".join(formats))
    if m.theirs.us_per_item > 0 and m.ours.us_per_item > 0:
        times = m.ours.us_per_item / m.theirs.us_per_item
        facts.append(f"{times:.2f} × as long" if times < 100 else "hardly anything there")
    else:
        facts.append("only here" if m.ours.us_per_item > 0 else "only there")
    return f"{m.label} {m.lost_us:+,.{0 if abs(m.lost_us) >= 100 else 1}f} µs ({', '.join(facts)})"


def _missing_fusions(ours: Subject, theirs: Subject, comparison: Comparison) -> tuple[str, ...]:
    if not comparison.fused_there:
        return ()
    names = {name for name, _ in comparison.fused_there}
    time_us = sum(layer.time_us or 0.0 for layer in ours.report.layers if layer.name in names)
    n = len(names)
    what = "layer of its own is" if n == 1 else "layers of their own are"
    return (
        f"{n} {what} fused into a convolution or product in {theirs.label}; here they take {_percent(ours.share(time_us))}.",
    )


def _study(ours: Subject, theirs: Subject, comparison: Comparison) -> tuple[str, ...]:
    """Whether the study's own measurement, under each trial's streams, says the same."""
    mine, other = ours.measured, theirs.measured
    if mine is None or other is None or mine.value <= 0 or other.value <= 0:
        return ("At least one of the two has no measured throughput to compare with.",)
    speed = mine.value / other.value
    text = (
        f"The study measured {mine.value:.1f} ±{mine.half_width:.1f} against {other.value:.1f} ±{other.half_width:.1f} items/s "
        f"under each trial's own streams: × {speed:.2f}"
    )
    if abs(math.log(speed)) <= math.hypot(mine.half_width / mine.value, other.half_width / other.value):
        return (f"{text}, no difference beyond their intervals.",)
    ratio = comparison.ratio
    apart = ratio is not None and not ratio.low <= 1 <= ratio.high
    if ratio is not None and apart and (speed > 1) == (ratio.value > 1):
        return (f"{text}, the other way round; what happens between streams, or the machine's state, decides there.",)
    return (f"{text}.",)


def _open(explanation: Explanation) -> tuple[str, ...]:
    return (f"Not told: {'; '.join(explanation.untold)}.",) if explanation.untold else ()


def _unmatched(comparison: Comparison) -> tuple[str, ...]:
    n = comparison.unmatched_nodes
    return (f"{n} nodes are in one graph only (Clip and ReLU go into the ranges of Q, for one).",) if n else ()


def _percent(share: float) -> str:
    return f"{share * 100:.0f} %" if share >= 0.01 or share == 0 else f"{share * 100:.1f} %"


def _us(us: float) -> str:
    return f"{us / 1e3:.2f} ms" if us >= 1e4 else f"{us:.0f} µs"
