"""load_spec: a study file becomes a StudySpec, or one SpecError with every fault in it, before anything runs."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from autotune.candidate import Choices, Domain
from autotune.errors import SpecError
from autotune.registry import ENGINES, METRICS, STRATEGIES
from autotune.spec.document import read_document
from autotune.spec.knobs import CALIBRATED, nearest
from autotune.spec.model import CLASS_METRICS, DEVICE, StudySpec
from autotune.spec.paths import located
from autotune.spec.positions import Faults, Positions, shown
from autotune.spec.presets import (
    Prior,
    Space,
    check_priors,
    preset_names,
    preset_of_device,
    priors_from_values,
    space_from_values,
)
from autotune.spec.problems import problems_from_validation
from autotune.spec.scenarios import canonical_load
from autotune.spec.storage_url import absolute_storage

_NO_OVERRIDES: Mapping[str, Any] = MappingProxyType({})
_CALLABLE = re.compile(r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$")
_COMMAND_LINE = ("command line", None)
_SPLITS = ("validation", "calibration", "train")
_FILE_KEYS = ("model.path", "model.weights", "load.trace.file", "prices", *(f"data.{split}.npz" for split in _SPLITS))


def load_spec(path: Path, overrides: Mapping[str, Any] = _NO_OVERRIDES) -> StudySpec:
    """The study at `path`, presets merged in, every path absolute, its sections knowing their lines.

    `overrides`: dotted key → value that replaces the file's, such as {"budget.trials": 5}. Only looks whether files exist;
    `spec.check.check_model` and `data` look into them. Raises SpecError listing all faults by line.
    """
    document = read_document(path)
    values, positions = _overridden(document.values, document.positions, overrides)
    positions, form_faults = _with_canonical_load(values, positions)
    faults = Faults(positions=positions, problems=list(document.problems))
    for fault in form_faults:
        faults.add(*fault)
    folder = path.absolute().parent
    if (
        isinstance(values.get("devices"), tuple)
        and (first := str(next(iter(values["devices"]), "")))
        and re.match(DEVICE, first)
    ):
        values.setdefault("device", first)
    _resolve_paths(values, folder, faults)
    _check_names(values, faults)
    _check_shares(values, faults)
    _check_devices(values, faults)
    own_priors = values.get("priors") or ()
    space = _space(values, folder, faults)
    _check_calibration(values, space.knobs, faults)
    if "file" in values:
        faults.add("file", "an unknown key", ", ".join(name for name in StudySpec.model_fields if name != "file"))
    values |= {"space": dict(space.knobs), "priors": space.priors, "file": path.absolute()}
    spec = _validated(values, faults)
    if spec is None or faults.problems:
        raise SpecError(sorted(dict.fromkeys(faults.problems), key=lambda p: (p.file != str(path), p.file, p.line or 0)))
    return spec.placed(positions, len(own_priors))


def _overridden(values: dict[str, Any], positions: Positions, overrides: Mapping[str, Any]) -> tuple[dict[str, Any], Positions]:
    """The values with overrides put in, whose faults are then placed on the command line instead of in the file."""
    lines = dict(positions.lines)
    for key, value in overrides.items():
        *sections, last = key.split(".")
        inner = values
        for name in sections:
            nested = inner.get(name)
            inner[name] = dict(nested) if isinstance(nested, Mapping) else {}
            inner = inner[name]
        inner[last] = tuple(value) if isinstance(value, list) else value
        lines[key] = _COMMAND_LINE
    return values, Positions(file=positions.file, lines=lines)


def _with_canonical_load(values: dict[str, Any], positions: Positions) -> tuple[Positions, list[tuple[str, str, str]]]:
    """`values["load"]` is in its canonical form, and the positions know how the file has it; what no form allows comes back."""
    section = _section(values, "load")
    if section is None:
        return positions, []
    form = canonical_load(section)
    values["load"] = form.values
    spelled = {f"load.{key}": f"load.{written}" for key, written in form.spelled.items()}
    faults = [(f"load.{key}", found, allowed) for key, found, allowed in form.faults]
    return Positions(file=positions.file, lines=positions.lines, spelled=spelled), faults


def _validated(values: dict[str, Any], faults: Faults) -> StudySpec | None:
    try:
        # strict: "60", 1.0 and true are not the integer that they could be read as
        return StudySpec.model_validate(values, strict=True)
    except ValidationError as exc:
        faults.problems.extend(problems_from_validation(exc, values, faults.positions))
        return None


def _section(values: Mapping[str, Any], *names: str) -> dict[str, Any] | None:
    """The section at `names` if it is there and is a section."""
    inner: Any = values
    for name in names:
        inner = inner.get(name) if isinstance(inner, dict) else None
    return inner if isinstance(inner, dict) else None


def _resolve_paths(values: dict[str, Any], folder: Path, faults: Faults) -> None:
    """Paths become absolute, against the study's folder; those that must exist and do not are faults."""
    for key in _FILE_KEYS:
        _resolve_path(_section(values, *key.split(".")[:-1]), key, folder, faults, "file")
    for split in _SPLITS:
        section = _section(values, "data", split)
        if section and "images" in section:
            _resolve_path(section, f"data.{split}.images", folder, faults, "folder")
            _resolve_path(section, f"data.{split}.labels", folder, faults, "file")
    _resolve_path(values, "cache", folder, faults, "")
    _resolve_path(_section(values, "cache"), "cache.folder", folder, faults, "")
    if isinstance(values.get("storage"), str):
        values["storage"] = absolute_storage(values["storage"], "storage", folder, faults)
    else:
        named = os.environ.get("AUTOTUNE_STORAGE")  # as without a study file, from the current folder
        where = ("sqlite:///autotune.db", folder) if named is None else (named, Path.cwd())
        values.setdefault("storage", absolute_storage(where[0], "storage", where[1], faults))


def _resolve_path(section: dict[str, Any] | None, key: str, folder: Path, faults: Faults, kind: str) -> None:
    name = key.rpartition(".")[2]
    text = section.get(name) if section else None
    if section is None or not isinstance(text, str):
        return
    path = located(text, folder) if text else None
    if path is None:
        faults.add(key, shown(text), f"a path to a {kind or 'folder'}")
        return
    section[name] = path
    if (kind == "file" and not path.is_file()) or (kind == "folder" and not path.is_dir()):
        what = "nothing there" if not path.exists() else "a folder" if path.is_dir() else "a file"
        faults.add(key, f"{text} ({what})", f"an existing {kind}, relative to {folder}")


def _check_names(values: Mapping[str, Any], faults: Faults) -> None:
    """Engines and the metric are known by name; nothing is imported."""
    engines = values.get("engines")
    known = ENGINES.names()
    names = engines if isinstance(engines, tuple) else ()
    for i, name in enumerate(names):
        if isinstance(name, str) and name not in known:
            faults.add(f"engines[{i}]", f"{name!r}{nearest(name, known)}", ", ".join(known))
        elif name in names[:i]:
            faults.add(f"engines[{i}]", f"{name!r} a second time", "each engine once")
    metric, metrics = (_section(values, "data") or {}).get("metric"), METRICS.names()
    if isinstance(metric, str) and metric not in metrics and not _CALLABLE.match(metric):
        faults.add("data.metric", f"{metric!r}{nearest(metric, metrics)}", f"{', '.join(metrics)}, or module:function")
    strategy, strategies = (_section(values, "search") or {}).get("strategy"), STRATEGIES.names()
    if isinstance(strategy, str) and strategy not in strategies:
        faults.add("search.strategy", f"{strategy!r}{nearest(strategy, strategies)}", ", ".join(strategies))


def _space(values: Mapping[str, Any], folder: Path, faults: Faults) -> Space:
    """The study's space; without one the preset of the device. Priors of the study go before those of the preset."""
    space = space_from_values(_space_values(values, faults), "space", folder, faults)
    own: tuple[Prior, ...] = priors_from_values(values.get("priors", ()), "priors", faults)
    check_priors(own, space.knobs, "priors", faults)
    engines = values.get("engines")
    for i, prior in enumerate(own):
        engine = prior.get("engine")
        if engine is not None and isinstance(engines, tuple) and engine not in engines:
            faults.add(f"priors[{i}].engine", shown(engine), f"an engine of this study: {', '.join(map(str, engines))}")
    return Space(knobs=space.knobs, priors=(*own, *space.priors), description=space.description)


def _space_values(values: Mapping[str, Any], faults: Faults) -> Any:
    if "space" in values:
        return values["space"]
    device = values.get("device", "auto")
    if isinstance(device, str) and re.match(DEVICE, device):
        return {"extends": preset_of_device(device)}
    allowed = f"a space, because no preset is for {shown(device)}; presets: {', '.join(preset_names())}"
    faults.add("space", "nothing", allowed)
    return {}


def _check_shares(values: Mapping[str, Any], faults: Faults) -> None:
    """Accuracy limits of a metric that is a share: given in percent they would keep every candidate, or none."""
    limits, metric = _section(values, "constraints") or {}, (_section(values, "data") or {}).get("metric", "top1")
    if metric not in CLASS_METRICS:
        return
    for name, least_wrong, example in (("accuracy_drop", 1.0, "0.01 is one point"), ("accuracy", 1.000001, "0.76 is 76 %")):
        value = limits.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and value >= least_wrong:
            faults.add(f"constraints.{name}", shown(value), f"a share of the samples: {example}")


_LONGEST_FAMILY = 60
"""Letters of a study's name that leave room for the kind of device, `@…`, within the 100 of a name."""


def _check_devices(values: Mapping[str, Any], faults: Faults) -> None:
    """One way to say where the study runs, one to say what that costs; and `@`, which parts of a study have, is ours."""
    place = faults.positions.lines.get("device")
    if "devices" in values and place not in (None, _COMMAND_LINE):
        faults.add("device", shown(values["device"]), "nothing beside devices")
    found = values.get("devices")
    devices = found if isinstance(found, tuple) else ()
    for i, name in enumerate(devices):
        if name in devices[:i]:
            faults.add(f"devices[{i}]", f"{name!r} a second time", "each device once; more workers: --workers N")
    if "prices" in values and "price_per_hour" in values:
        faults.add("prices", "prices and price_per_hour", "one of them")
    name = values.get("study")
    if isinstance(name, str) and "@" in name:
        faults.add("study", shown(name), "a name without @, which stands before the kind of device in a study over several")
    elif isinstance(name, str) and values.get("device_kinds") == "several" and len(name) > _LONGEST_FAMILY:
        faults.add("study", shown(name), f"at most {_LONGEST_FAMILY} letters with device_kinds: several")


def _check_calibration(values: Mapping[str, Any], knobs: Mapping[str, Domain], faults: Faults) -> None:
    """A precision that is calibrated needs data.calibration."""
    data = _section(values, "data")
    precision = knobs.get("precision")
    asked = [name for name in precision.values if name in CALIBRATED] if isinstance(precision, Choices) else []
    if data is not None and data.get("calibration") is None and asked:
        allowed = f"samples to calibrate {', '.join(map(str, asked))} on, or a space.precision without"
        faults.add("data.calibration", "nothing", allowed)
