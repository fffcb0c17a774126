"""A knob's domain from what a study file or a preset says: a list of choices, a range, or one value."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any

from autotune.candidate import KNOBS, Choices, Domain, Knob, Range, Scalar
from autotune.spec.positions import Faults, shown

PRECISIONS: tuple[str, ...] = (
    "fp32",
    "tf32",
    "fp16",
    "bf16",
    "amp-fp16",
    "amp-bf16",
    "int8",
    "int8-tensor",
    "fp8",
    "int4",
    "fp16-sparse",
    "weak-fp16",
    "weak-fp16-int8",
)
"""Number formats that a study may name. int8-tensor: int8 with one scale per weight tensor instead of one per channel;
amp-…: an fp32 graph of which the engine computes what it may in 16 bits (torch's autocast); int4: weights only; -sparse: with
2:4 structured sparsity; weak-…: TensorRT's builder chooses fp16 or fp32 for each layer that is not quantized."""

CALIBRATED: tuple[str, ...] = ("int8", "int8-tensor", "fp8", "weak-fp16-int8")
"""Precisions whose activation ranges are measured on data.calibration."""

_RANGE_KEYS = ("low", "high", "step", "log")


def nearest(name: str, known: Iterable[str]) -> str:
    """ " — did you mean X?" for the known name that `name` resembles, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def allowed_values(knob: Knob) -> str:
    """What a value of the knob may be, in words."""
    if knob.kind == "choice":
        return ", ".join(choices_of(knob))
    bounds = f"{knob.low:g}…{knob.high:g}" if knob.low is not None and knob.high is not None else "any"
    kind = "an integer" if knob.kind == "int" else "a number"
    return f"{kind} in {bounds}{f' {knob.unit}' if knob.unit not in ('', '1') else ''}"


def choices_of(knob: Knob) -> tuple[str, ...]:
    """The words that a choice knows."""
    return PRECISIONS if knob.name == "precision" else knob.choices


def domain_from_value(knob: Knob, value: Any, key: str, faults: Faults) -> Domain | None:
    """The domain that `value` states, or None with the reasons in `faults`."""
    if isinstance(value, Mapping):
        return _range(knob, value, key, faults)
    if isinstance(value, tuple):
        return _choices(knob, value, key, faults)
    checked = checked_value(knob, value, key, faults)
    return None if checked is None else Choices(values=(checked,))


def checked_value(knob: Knob, value: Any, key: str, faults: Faults) -> Scalar | None:
    """The value as the knob's type, or None with the reason in `faults`. A YAML boolean is not a number here."""
    if knob.kind == "choice":
        known = choices_of(knob)
        if isinstance(value, bool) and {"on", "off"} <= set(known):
            return "on" if value else "off"  # what YAML 1.1 makes of a bare on or off
        if isinstance(value, str) and value in known:
            return value
        hint = nearest(value, known) if isinstance(value, str) else ""
        faults.add(key, f"{shown(value)}{hint}", allowed_values(knob))
        return None
    right = isinstance(value, int) if knob.kind == "int" else isinstance(value, int | float)
    if not right or isinstance(value, bool) or (isinstance(value, float) and not math.isfinite(value)):
        hint = "; leave the key out for the engine's default" if value is None else ""
        faults.add(key, shown(value), f"{allowed_values(knob)}{hint}")
        return None
    if (knob.low is not None and value < knob.low) or (knob.high is not None and value > knob.high):
        faults.add(key, shown(value), allowed_values(knob))
        return None
    return int(value) if knob.kind == "int" else float(value)


def _choices(knob: Knob, values: tuple[Any, ...], key: str, faults: Faults) -> Choices | None:
    if not values:
        faults.add(key, "an empty list", f"at least one value: {allowed_values(knob)}")
        return None
    found = [checked_value(knob, value, f"{key}[{i}]", faults) for i, value in enumerate(values)]
    good = [value for value in found if value is not None]
    for i, value in enumerate(found):
        if value is not None and value in found[:i]:
            faults.add(f"{key}[{i}]", f"{shown(value)} a second time", "each choice once")
    return Choices(values=tuple(good)) if len(set(good)) == len(values) else None


def _range(knob: Knob, value: Mapping[str, Any], key: str, faults: Faults) -> Range | None:
    before = len(faults.problems)
    if knob.kind == "choice":
        faults.add(key, "a range", f"a list of choices: {allowed_values(knob)}")
        return None
    for name in value:
        if name not in _RANGE_KEYS:
            faults.add(f"{key}.{name}", f"an unknown key{nearest(name, _RANGE_KEYS)}", ", ".join(_RANGE_KEYS))
    ends: list[float] = []
    for name in ("low", "high"):
        if name not in value:
            faults.add(f"{key}.{name}", "nothing", f"both ends, low and high: {allowed_values(knob)}")
        elif (end := checked_value(knob, value[name], f"{key}.{name}", faults)) is not None:
            ends.append(float(end))
    log, step = value.get("log", False), value.get("step")
    if not isinstance(log, bool):
        faults.add(f"{key}.log", shown(log), "true, false")
    if len(ends) == 2:
        _check_ends(ends, key, log is True, faults)
        if step is not None:
            _check_step(knob, step, ends, key, log is True, faults)
    if len(faults.problems) > before:
        return None
    as_type = int if knob.kind == "int" else float
    return Range(low=as_type(ends[0]), high=as_type(ends[1]), step=None if step is None else as_type(step), log=log)


def _check_ends(ends: list[float], key: str, log: bool, faults: Faults) -> None:
    low, high = ends
    if low >= high:
        faults.add(key, f"low {low:g}, high {high:g}", "low less than high; write one value to fix the knob")
    if log and low <= 0:
        faults.add(f"{key}.low", f"{low:g} with log: true", "low above 0 on a logarithmic scale")


def _check_step(knob: Knob, step: Any, ends: list[float], key: str, log: bool, faults: Faults) -> None:
    low, high = ends
    if log:
        faults.add(f"{key}.step", "step together with log: true", "one of the two; list the choices for other grids")
    right = isinstance(step, int) if knob.kind == "int" else isinstance(step, int | float)
    if not right or isinstance(step, bool) or not 0 < step <= max(high - low, 0):
        kind = "an integer" if knob.kind == "int" else "a number"
        faults.add(f"{key}.step", shown(step), f"{kind} above 0 and at most high - low = {max(high - low, 0):g}")


def prior_from_values(values: Any, key: str, engines: Iterable[str], faults: Faults) -> dict[str, Scalar] | None:
    """A partial candidate such as {precision: int8, batch_size: 8}, or None with the reasons in `faults`."""
    if not isinstance(values, Mapping) or not values:
        faults.add(key, shown(values), f"some knobs with a value each: {', '.join(KNOBS)}")
        return None
    before = len(faults.problems)
    prior: dict[str, Scalar] = {}
    for name, value in values.items():
        place = f"{key}.{name}"
        if name not in KNOBS:
            faults.add(place, f"an unknown knob{nearest(name, KNOBS)}", ", ".join(KNOBS))
        elif name == "engine":
            if value not in engines:
                faults.add(place, shown(value), ", ".join(engines))
            prior[name] = value
        elif (checked := checked_value(KNOBS[name], value, place, faults)) is not None:
            prior[name] = checked
    return prior if len(faults.problems) == before else None
