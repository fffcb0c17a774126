"""Kinds of devices: a study holds one, because throughputs of two are no comparison; or it is in parts, one for each kind.

The part of the study S for a kind is a study of its own, named S@KIND, with its own search, reference and front.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from autotune.errors import SpecError
from autotune.fingerprint import DeviceFingerprint, digest_of
from autotune.spec.model import StudySpec
from autotune.spec.prices import read_prices
from autotune.store.repository import Store
from autotune.store.studies import StudyRow

if TYPE_CHECKING:
    from autotune.study.plan import StudyPlan

_MARK = "@"
_SHOWN = 24
"""Letters of the device's name in that of a part, before the digest that tells it from every other."""


def part_name(study: str, device: DeviceFingerprint) -> str:
    """What the part of `study` for this kind of device is called: the same on every host that has one."""
    words = re.sub(r"[^a-z0-9]+", "-", device.device.lower())[:_SHOWN].strip("-")
    return f"{study}{_MARK}{words}-{digest_of(device.device_class)[:6]}"


def parts_of(name: str, store: Store) -> list[StudyRow]:
    """The study's parts, by name; itself where it is in none; none where nobody began it."""
    return store.study_family(name, _MARK)


def whole_name(part: str) -> str:
    """The name of the study that the part belongs to; its own where it is no part."""
    return part.partition(_MARK)[0]


def of_its_kind(spec: StudySpec, device: DeviceFingerprint) -> StudySpec:
    """The study, or where it is over several kinds its part for this one."""
    if spec.device_kinds == "one" or _MARK in spec.study:
        return spec
    return spec.model_copy(update={"study": part_name(spec.study, device)})


def priced(spec: StudySpec, device: DeviceFingerprint) -> StudySpec:
    """The study with its table's price of an hour of this device, if it has a table.

    Raises SpecError where the table is wrong, or lacks the device of a study whose objective is cost.
    """
    if spec.prices is None:
        return spec
    table = read_prices(spec.prices)
    price = table.price_of(device.device)
    if price is None and "cost" in spec.objectives:
        known = ", ".join(table.per_hour)
        raise SpecError(
            [spec.problem("prices", f"no price of {device.device!r}; prices of: {known}", "a price of this device")]
        )
    return spec.model_copy(update={"price_per_hour": price})


def require_kind(plan: StudyPlan, store: Store) -> None:
    """Returns where the study is new, or began on a device of this kind. Raises SpecError naming both devices."""
    row = store.study(plan.spec.study)
    if row is None:
        return
    began = store.environment(row.environment_key)
    if not began.is_comparable(plan.fingerprint):
        found = _told_apart(plan.fingerprint, began, row.name)
        allowed = (
            "a device of the kind on which the study began, because what is measured on two kinds is no comparison; "
            "or another name in `study:`; or, from its first start on, `device_kinds: several`, which keeps kinds apart"
        )
        if _differ_in_cores(began, plan.fingerprint):
            allowed += "; as many cores as then: `build_ahead`, which keeps some for builds, as it was"
        raise SpecError([plan.spec.problem("device", found, allowed)])


def _told_apart(here: DeviceFingerprint, there: DeviceFingerprint, study: str) -> str:
    """In what this device differs from the one that the study began on."""
    if here.device != there.device or here.is_same_device(there):
        return f"{here.label}; the study {study} began on {there.label}"
    # A list of all that both have would hide the one that tells.
    before, now = set(there.instructions), set(here.instructions)
    sides = (("without", before - now), ("with", now - before))
    differences = " and ".join(f"{word} {', '.join(sorted(names))}" for word, names in sides if names)
    return f"{here.device} {differences}, unlike that device on which the study {study} began"


def _differ_in_cores(one: DeviceFingerprint, other: DeviceFingerprint) -> bool:
    return one.device != other.device and one.device.partition(" × ")[0] == other.device.partition(" × ")[0]
