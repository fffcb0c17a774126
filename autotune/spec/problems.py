"""pydantic's complaints as SpecProblems: the dotted key, its line, what was found and what is allowed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from autotune.errors import SpecProblem
from autotune.spec.knobs import nearest
from autotune.spec.model import StudySpec
from autotune.spec.positions import Positions, dotted, shown

Location = tuple[str | int, ...]

_KINDS = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "path_type": "a path",
    "is_instance_of": "a path",
    "tuple_type": "a list",
    "mapping_type": "a section of keys",
    "model_type": "a section of keys",
    "dict_type": "a section of keys",
    "finite_number": "a finite number",
}
# pydantic's names of limits, and how people say them
_LIMITS = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}


def problems_from_validation(error: ValidationError, values: Mapping[str, Any], positions: Positions) -> list[SpecProblem]:
    """One problem per key. A value that fits no branch of a union gives one problem naming what each branch would take."""
    allowed: dict[Location, list[str]] = {}
    found: dict[Location, str] = {}
    for fault in error.errors(include_url=False):
        key, value = _known(tuple(fault["loc"]), values)
        if fault["type"] == "missing":
            key, value = (*key, fault["loc"][-1]), None
        known = _fields(key[:-1])
        if fault["type"] == "extra_forbidden":
            found[key] = f"an unknown key{nearest(str(key[-1]), known)}"
            allowed[key] = [", ".join(known)]
            continue
        found[key] = shown(value)
        allowed.setdefault(key, []).append(_allowed(fault, key))
    inner = {key[:n] for key in allowed for n in range(1, len(key)) if isinstance(key[n], int)}
    told = {key: _sentence(key, words) for key, words in allowed.items() if key not in inner}
    return [positions.problem(dotted(key), found[key], words) for key, words in told.items()]


def _known(location: Location, values: Any) -> tuple[Location, Any]:
    """The part of pydantic's location that is in the file, and the value there; names of union branches are passed over."""
    key: Location = ()
    for part in location:
        inside = isinstance(values, tuple) and isinstance(part, int) and part < len(values)
        if not inside and not (isinstance(values, Mapping) and part in values):
            continue
        values = values[part]
        key = (*key, part)
    return key, values


def _sentence(key: Location, words: list[str]) -> str:
    doc = _description(key) if all(word in _KINDS.values() for word in words) else ""
    return " or ".join(dict.fromkeys(words)) + (f": {doc}" if doc else "")


def _allowed(fault: Any, key: Location) -> str:
    kind, context = fault["type"], fault.get("ctx", {})
    doc = _description(key)
    if kind == "missing":
        return f"this key is needed{f': {doc}' if doc else ''}"
    if kind == "literal_error":
        return str(context["expected"]).replace(" or ", ", ").replace("'", "") + (f" ({doc})" if doc else "")
    if kind in _LIMITS:
        name, words = _LIMITS[kind]
        return f"{words} {context[name]:g}"
    if kind == "value_error":
        return str(context["error"])
    if kind == "string_pattern_mismatch":
        return doc or f"text of the form {context['pattern']}"
    if kind == "too_short":
        return f"at least {context['min_length']}"
    if kind == "too_long":
        return f"at most {context['max_length']}"
    if kind in ("model_type", "mapping_type") and (names := _fields(key)):
        return f"a section with the keys {', '.join(names)}"
    return _KINDS.get(kind, str(fault["msg"]))


def _section(key: Location) -> type[BaseModel] | None:
    """The model of the section at `key`, or None where the key leads to no section."""
    section: type[BaseModel] = StudySpec
    for part in key:
        info = section.model_fields.get(str(part))
        kinds = () if info is None else (info.annotation, *get_args(info.annotation))
        inner = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if not inner:
            return None
        section = inner[0]
    return section


def _fields(key: Location) -> tuple[str, ...]:
    section = _section(key)
    return () if section is None else tuple(name for name, info in section.model_fields.items() if not info.exclude)


def _description(key: Location) -> str:
    section = _section(key[:-1]) if key else None
    info = section.model_fields.get(str(key[-1])) if section else None
    return (info.description or "") if info else ""
