"""The JSON schema of study.yaml, for editors and for `autotune schema`. `python -m autotune.spec.schema FILE` writes it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from autotune.candidate import KNOBS, Knob
from autotune.spec.knobs import choices_of
from autotune.spec.model import OFF, StudySpec
from autotune.spec.scenarios import SECTIONS

SCHEMA_ASSET = "search_spaces/study.schema.json"


def json_schema() -> dict[str, Any]:
    """The schema (draft 2020-12) of a study file: what `load_spec` takes, except faults that need a look at other files."""
    schema = _without_titles(StudySpec.model_json_schema())
    for name in ("Choices", "Range"):
        schema["$defs"].pop(name, None)
    properties = schema["properties"]
    del properties["file"]
    for name in OFF:
        section = properties if name in properties else schema["$defs"]["AccuracySpec"]["properties"]
        section[name] = {"anyOf": [section[name], {"enum": [False, "off"]}], "default": section[name].pop("default")}
    properties["cache"] = {"anyOf": [{"type": "string", "description": "its folder"}, properties["cache"]]}
    _allow_short_loads(schema["$defs"])
    properties["space"] = _space()
    properties["priors"] = _priors("configurations to try first; may name some knobs only")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "autotune study",
        "description": "One search for the best deployment of one model on one device",
    }


def _allow_short_loads(definitions: dict[str, Any]) -> None:
    """The section `load` also takes the forms that `canonical_load` understands."""
    load = definitions["LoadSpec"]["properties"]
    csv = {"type": "string", "pattern": r"\.[cC][sS][vV]$", "description": "a recorded trace"}
    nested = {
        "type": "object",
        "properties": {name: {"$ref": f"#/$defs/{kind.__name__}"} for name, kind in SECTIONS.items()},
        "minProperties": 1,
        "maxProperties": 1,
        "additionalProperties": False,
    }
    scenario = load["scenario"]
    load["scenario"] = {
        "description": scenario.pop("description"),
        "default": scenario.pop("default"),
        "anyOf": [scenario, nested, csv],
    }
    load["trace"]["anyOf"].append(csv)
    for kind in SECTIONS.values():
        for name, value in definitions[kind.__name__]["properties"].items():
            # Defaults belong to the section; beside the scenario a key stands only where somebody wrote it.
            load.setdefault(name, {k: v for k, v in value.items() if k != "default"})


def schema_text() -> str:
    """The schema as the file in search_spaces/ holds it."""
    return json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n"


def _without_titles(schema: Any) -> Any:
    """pydantic's titles repeat the keys; editors show them in place of the description."""
    if isinstance(schema, dict):
        return {k: _without_titles(v) for k, v in schema.items() if not (k == "title" and isinstance(v, str))}
    return [_without_titles(item) for item in schema] if isinstance(schema, list) else schema


def _space() -> dict[str, Any]:
    knobs = {name: _domain(knob) for name, knob in KNOBS.items() if name != "engine"}
    return {
        "type": "object",
        "description": "what is searched: a list of choices, a range, or one value for each knob; default: the device's preset",
        "properties": {
            "extends": {"type": "string", "description": "a preset of search_spaces/, or a .yaml file relative to this one"},
            **knobs,
            "priors": _priors("configurations to try first, before those of the preset"),
        },
        "additionalProperties": False,
    }


def _domain(knob: Knob) -> dict[str, Any]:
    value = _value(knob)
    doc = f"{knob.doc}{f' [{knob.unit}]' if knob.unit not in ('', '1') else ''}"
    forms: list[dict[str, Any]] = [value, {"type": "array", "items": value, "minItems": 1, "uniqueItems": True}]
    if knob.kind != "choice":
        step = {"type": value["type"], "exclusiveMinimum": 0}
        forms.append(
            {
                "type": "object",
                "properties": {"low": value, "high": value, "step": step, "log": {"type": "boolean"}},
                "required": ["low", "high"],
                "additionalProperties": False,
            }
        )
    return {"description": doc, "anyOf": forms}


def _value(knob: Knob) -> dict[str, Any]:
    if knob.kind == "choice":
        known = list(choices_of(knob))
        if {"on", "off"} <= set(known):
            return {"enum": [*known, True, False]}  # what YAML 1.1 makes of a bare on or off
        return {"type": "string", "enum": known} if known else {"type": "string"}
    as_type = int if knob.kind == "int" else float
    bounds = {name: as_type(end) for name, end in (("minimum", knob.low), ("maximum", knob.high)) if end is not None}
    return {"type": "integer" if knob.kind == "int" else "number", **bounds}


def _priors(doc: str) -> dict[str, Any]:
    knobs = {name: _value(knob) for name, knob in KNOBS.items()}
    item = {"type": "object", "properties": knobs, "additionalProperties": False, "minProperties": 1}
    return {"type": "array", "description": doc, "items": item}


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(schema_text(), encoding="utf-8")
