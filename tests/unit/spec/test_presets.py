"""The presets and the schema that come with autotune."""

from __future__ import annotations

import json

import pytest

from autotune.assets import asset
from autotune.candidate import KNOBS, Choices
from autotune.spec.knobs import CALIBRATED, PRECISIONS
from autotune.spec.presets import load_preset, preset_names
from autotune.spec.schema import SCHEMA_ASSET, json_schema


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads_and_has_priors_inside_it(name: str) -> None:
    """A preset that we ship has a description, all knobs but the engine, and priors that its own space holds."""
    preset = load_preset(name)
    assert preset.description
    assert set(preset.knobs) == set(KNOBS) - {"engine"}
    assert preset.priors
    assert all(value in preset.knobs[knob] for prior in preset.priors for knob, value in prior.items())


def test_cpu_runtime_does_not_prune() -> None:
    """The preset without pruning fixes the ratio at 0 and drops the prior that prunes."""
    preset = load_preset("cpu-runtime")
    assert preset.knobs["pruning_ratio"] == Choices(values=(0.0,))
    assert all("pruning_ratio" not in prior for prior in preset.priors)


def test_the_schema_in_the_checkout_is_up_to_date() -> None:
    """`python -m autotune.spec.schema search_spaces/study.schema.json` was run after the last change of the sections."""
    assert json.loads(asset(SCHEMA_ASSET).read_text(encoding="utf-8")) == json_schema()


def test_the_schema_holds_the_bounds_of_every_knob() -> None:
    """An editor can tell a batch size of 0, an unknown precision and an unknown key."""
    schema = json_schema()
    space = schema["properties"]["space"]
    assert set(space["properties"]) == {*KNOBS, "extends", "priors"} - {"engine"}
    assert space["properties"]["batch_size"]["anyOf"][0] == {"type": "integer", "minimum": 1, "maximum": 65536}
    assert space["properties"]["precision"]["anyOf"][0]["enum"] == list(PRECISIONS)
    assert schema["additionalProperties"] is False and "file" not in schema["properties"]


def test_calibrated_precisions_are_precisions() -> None:
    """The two lists of names agree."""
    assert set(CALIBRATED) <= set(PRECISIONS)
