"""The presets and the schema that come with autotune."""

from __future__ import annotations

import json

import pytest
from assets import fake_nvml

from autotune.assets import asset
from autotune.candidate import KNOBS, Choices
from autotune.devices.precision import refused_precisions
from autotune.spec.knobs import CALIBRATED, PRECISIONS
from autotune.spec.presets import load_preset, preset_names, preset_of_device
from autotune.spec.schema import SCHEMA_ASSET, json_schema


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads_and_has_priors_inside_it(name: str) -> None:
    """A preset that we ship has a description, all knobs that engines of its device have, and priors that its space holds."""
    preset = load_preset(name)
    assert preset.description
    of_gpus = {"builder_level", "cuda_graph", "layout", "conv_search"} if name.startswith("cpu") else set()
    # arena_growth is left to the engine, which looks at whether there is a cap.
    assert set(preset.knobs) == set(KNOBS) - {"engine", "arena_growth"} - of_gpus
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


@pytest.mark.parametrize(
    ("name", "preset"),
    [
        ("Tesla V100-SXM2-16GB", "v100"),
        ("Tesla T4", "t4"),
        ("NVIDIA A100-SXM4-40GB", "a100"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h100"),
        ("NVIDIA GeForce RTX 4090", "cuda"),
        ("NVIDIA T400 4GB", "cuda"),
    ],
)
def test_a_gpu_gets_the_preset_of_its_kind(monkeypatch: pytest.MonkeyPatch, name: str, preset: str) -> None:
    """By a whole word of NVML's name: a T400 is no T4. Its preset exists."""
    fake_nvml.install(monkeypatch, fake_nvml.FakeGpu(), fake_nvml.FakeGpu(uuid="GPU-b", name=name))
    assert preset_of_device("cuda:1") == preset and preset in preset_names()
    assert preset_of_device("auto") == "v100" and preset_of_device("cpu") == "cpu"


def test_without_a_gpu_the_presets_are_the_general_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """A study for a GPU can be written and checked on a laptop."""
    fake_nvml.install(monkeypatch, init=fake_nvml.pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)
    assert preset_of_device("auto") == "cpu" and preset_of_device("cuda:0") == "cuda"


def test_the_v100_preset_begins_with_its_deployment_and_has_no_newer_formats() -> None:
    """ResNet-50 at batch 64 and 32 threads is the first prior; int8 is searched, and the last of the preset's own priors."""
    preset = load_preset("v100")
    assert preset.knobs["precision"] == Choices(values=("fp32", "fp16", "int8", "weak-fp16", "weak-fp16-int8"))
    first = preset.priors[0]
    assert (first["precision"], first["batch_size"], first["worker_threads"]) == ("fp16", 64, 32)
    assert not [p for p in preset.priors if p.get("precision") in ("bf16", "tf32", "fp8", "fp16-sparse")]
    assert preset.priors[6] == {"precision": "int8", "batch_size": 8, "streams": 2}


@pytest.mark.parametrize(
    ("name", "capability"), [("v100", (7, 0)), ("t4", (7, 5)), ("a100", (8, 0)), ("l4", (8, 9)), ("h100", (9, 0))]
)
def test_a_gpus_preset_has_only_what_the_gpu_computes(name: str, capability: tuple[int, int]) -> None:
    """Nothing in the preset of a known GPU is removed on that GPU for what its hardware lacks."""
    precisions = load_preset(name).knobs["precision"]
    assert isinstance(precisions, Choices)
    assert refused_precisions(map(str, precisions.values), capability) == {}
