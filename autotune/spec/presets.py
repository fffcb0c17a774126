"""Search spaces: the `space` of a study with the preset that it extends merged in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autotune.assets import asset
from autotune.candidate import KNOBS, Domain, Scalar
from autotune.devices.gpu import visible_gpus
from autotune.errors import EnvironmentProblem, SpecError
from autotune.registry import ENGINES
from autotune.spec.document import read_document
from autotune.spec.knobs import domain_from_value, nearest, prior_from_values
from autotune.spec.paths import located
from autotune.spec.positions import Faults, Positions, shown

Prior = Mapping[str, Scalar]
_PRESET_KEYS = ("description", "extends", "knobs", "priors")
_MAX_CHAIN = 8
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_-]*$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """What is searched: one domain per knob, and the configurations to try first."""

    knobs: Mapping[str, Domain] = field(default_factory=dict)
    priors: tuple[Prior, ...] = ()
    description: str = ""


def preset_names() -> tuple[str, ...]:
    """The presets that come with autotune, sorted."""
    return tuple(sorted(path.stem for path in asset("search_spaces").glob("*.yaml")))


_OF_GPUS = {
    **dict.fromkeys(("V100", "V100S"), "v100"),
    "T4": "t4",
    **dict.fromkeys(("A100", "A100X", "A30", "A800"), "a100"),
    **dict.fromkeys(("L4", "L40", "L40S"), "l4"),
    **dict.fromkeys(("H100", "H200", "GH200", "H800"), "h100"),
}
"""Word in a GPU's name → preset. NVML calls them "Tesla V100-SXM2-16GB", "NVIDIA A100-SXM4-40GB", "NVIDIA L4"."""


def preset_of_device(device: str) -> str:
    """The preset for "auto", "cpu", "cuda", "cuda:N" or "fake:N" on this machine; "cuda" for an unknown or absent GPU."""
    if device == "cpu" or device.startswith("fake"):
        return "cpu"
    try:
        found = visible_gpus()
    except EnvironmentProblem:
        found = ()
    number = int(device.partition(":")[2] or 0)
    if number >= len(found):
        return "cpu" if device == "auto" else "cuda"
    words = re.split(r"[ -]", found[number].name)
    return next((_OF_GPUS[word] for word in words if word in _OF_GPUS), "cuda")


def load_preset(name: str) -> Space:
    """The preset `name` with those it extends merged in. Raises SpecError with every fault."""
    faults = Faults(positions=Positions())
    space = _preset(name, "preset", Path.cwd(), faults, ())
    if faults.problems:
        raise SpecError(faults.problems)
    return space


def space_from_values(values: Any, key: str, folder: Path, faults: Faults) -> Space:
    """The study's `space`: its knobs over those of the preset it extends, and the priors of both. `folder`: the study's."""
    if not isinstance(values, Mapping):
        faults.add(key, shown(values), f"extends, priors and knobs: {', '.join(_searchable())}")
        return Space()
    base = _preset(values["extends"], f"{key}.extends", folder, faults, ()) if "extends" in values else Space()
    own = {name: value for name, value in values.items() if name not in ("extends", "priors")}
    knobs = {**base.knobs, **_knobs(own, key, faults)}
    priors = priors_from_values(values.get("priors", ()), f"{key}.priors", faults)
    check_priors(priors, knobs, f"{key}.priors", faults)
    kept = tuple(prior for prior in base.priors if _outside(prior, knobs) is None)
    return Space(knobs=knobs, priors=(*priors, *kept), description=base.description)


def priors_from_values(values: Any, key: str, faults: Faults) -> tuple[Prior, ...]:
    """A list of partial candidates; those with faults are left out."""
    if not isinstance(values, tuple):
        faults.add(key, shown(values), "a list of configurations, each {knob: value, …}")
        return ()
    engines = ENGINES.names()
    found = [prior_from_values(value, f"{key}[{i}]", engines, faults) for i, value in enumerate(values)]
    return tuple(prior for prior in found if prior is not None)


def check_priors(priors: tuple[Prior, ...], knobs: Mapping[str, Domain], key: str, faults: Faults) -> None:
    """Adds a fault for every prior that lies outside the space."""
    for i, prior in enumerate(priors):
        if (name := _outside(prior, knobs)) is not None:
            allowed = str(knobs[name]) if name in knobs else f"a knob of this space: {', '.join(knobs)}"
            faults.add(f"{key}[{i}].{name}", shown(prior[name]), allowed)


def _outside(prior: Prior, knobs: Mapping[str, Domain]) -> str | None:
    for name, value in prior.items():
        if name == "engine":
            continue
        default = KNOBS[name].default
        if name in knobs and value not in knobs[name]:
            return name
        if name not in knobs and value != default:
            return name
    return None


def _preset(reference: Any, key: str, folder: Path, faults: Faults, chain: tuple[Path, ...]) -> Space:
    """The preset that `reference` at `key` names; faults inside it carry its own file and lines."""
    path = _preset_path(reference, key, folder, faults)
    if path is None:
        return Space()
    if path in chain or len(chain) >= _MAX_CHAIN:
        faults.add(key, f"{shown(reference)}, which extends itself", "a chain of presets without a circle")
        return Space()
    try:
        document = read_document(path)
    except SpecError as exc:
        faults.problems.extend(exc.problems)
        return Space()
    faults.problems.extend(document.problems)
    inside = faults.at(document.positions)
    values = document.values
    for name in values:
        if name not in _PRESET_KEYS:
            inside.add(name, f"an unknown key{nearest(name, _PRESET_KEYS)}", ", ".join(_PRESET_KEYS))
    base = _preset(values["extends"], "extends", path.parent, inside, (*chain, path)) if "extends" in values else Space()
    knobs = values.get("knobs", {})
    if not isinstance(knobs, Mapping):
        inside.add("knobs", shown(knobs), f"a section with {', '.join(_searchable())}")
        knobs = {}
    merged = {**base.knobs, **_knobs(knobs, "knobs", inside)}
    priors = priors_from_values(values.get("priors", ()), "priors", inside)
    check_priors(priors, merged, "priors", inside)
    kept = tuple(prior for prior in base.priors if _outside(prior, merged) is None)
    return Space(knobs=merged, priors=(*priors, *kept), description=str(values.get("description") or base.description).strip())


def _preset_path(reference: Any, key: str, folder: Path, faults: Faults) -> Path | None:
    allowed = f"one of {', '.join(preset_names())}, or a .yaml file relative to the file that names it"
    if not isinstance(reference, str) or not reference:
        faults.add(key, shown(reference), allowed)
        return None
    if _NAME.match(reference):
        if reference in preset_names():
            return asset(f"search_spaces/{reference}.yaml")
        faults.add(key, f"{reference!r}{nearest(reference, preset_names())}", allowed)
        return None
    path = located(reference, folder)
    if path is None or not path.is_file():
        faults.add(key, f"{reference!r}, and no such file in {folder}", allowed)
        return None
    return path


def _knobs(values: Mapping[str, Any], key: str, faults: Faults) -> dict[str, Domain]:
    domains: dict[str, Domain] = {}
    for name, value in values.items():
        place = f"{key}.{name}"
        if name == "engine":
            faults.add(place, shown(value), "engines: [...] at the top level of the study")
        elif name not in KNOBS:
            faults.add(place, f"an unknown knob{nearest(name, _searchable())}", ", ".join(_searchable()))
        elif (domain := domain_from_value(KNOBS[name], value, place, faults)) is not None:
            domains[name] = domain
    return domains


def _searchable() -> tuple[str, ...]:
    return tuple(name for name in KNOBS if name != "engine")
