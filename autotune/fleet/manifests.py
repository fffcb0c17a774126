"""Manifests: what makes another system (systemd, Kubernetes, Slurm) start a study's workers. One function per target.

A target is a function `manifest(request: ManifestRequest) -> str` and a line in `registry.MANIFESTS`; outsiders register under
the entry-point group `autotune.manifests`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from autotune.errors import SpecError
from autotune.registry import MANIFESTS


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestRequest:
    """A study to be started elsewhere.

    `study`: its name. `study_file`: absolute. `storage`: the database's URL where it is not the study file's; it may hold a
    password, which no manifest may show. `devices`: as in a study file ("cpu", "cuda:0"), one worker on each; empty for the
    study file's own. `image`: the container image, for targets that need one. `workers`: processes per device. `options`: the
    target's own, each NAME=VALUE.
    """

    study: str
    study_file: Path
    storage: str | None = None
    devices: tuple[str, ...] = ()
    image: str | None = None
    workers: int = 1
    options: tuple[str, ...] = ()


def make_manifest(target: str, request: ManifestRequest) -> str:
    """The text that `target` takes. Raises SpecError on an unknown target, and on what the target cannot take."""
    function = cast(Callable[[ManifestRequest], str], MANIFESTS.load(target))
    return function(request)


def named_options(request: ManifestRequest, allowed: Mapping[str, str]) -> dict[str, str]:
    """The request's options by name. `allowed`: name → what it means. Raises SpecError on any other, listing these."""
    found = {}
    for option in request.options:
        name, sep, value = option.partition("=")
        if not sep or name not in allowed:
            known = ", ".join(f"{k}=… ({meaning})" for k, meaning in allowed.items()) or "none"
            raise SpecError(f"--option {option}: found {name!r}; allowed: {known}")
        found[name] = value
    return found
