"""The GPUs that engines are built for where none of them is at hand.

Like the selected GPU, the target is said once, before any backend is asked what it can do, and is inherited by the processes
that the study starts. While there is one, backends for NVIDIA GPUs answer for it, and nothing can be opened or measured.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass

from autotune.devices.precision import Capability, refused_precisions
from autotune.errors import SpecError

_TARGET = "AUTOTUNE_BUILD_TARGET"
"""Capabilities such as "8.6,8.9"; "default": whatever the builder builds for when it is told nothing."""
_DEFAULT = "default"
_AT_LEAST: Capability = (8, 0)
"""TensorRT for RTX 1.7, told nothing, builds for compute capability 8.0 and later (header of its engines)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildTarget:
    """Compute capabilities that an engine is for, ascending. Empty: the builder's own choice, which begins at 8.0."""

    capabilities: tuple[Capability, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """As TensorRT's ComputeCapability writes them, such as "SM89"."""
        return tuple(f"SM{major}{minor}" for major, minor in self.capabilities)

    def refused(self, precisions: Iterable[str]) -> dict[str, str]:
        """The precisions that one of these GPUs cannot compute in, each with the reason."""
        wanted = tuple(precisions)
        found: dict[str, str] = {}
        for capability in self.capabilities or (_AT_LEAST,):
            found = {**refused_precisions(wanted, capability), **found}
        return {p: found[p] for p in wanted if p in found}

    def __str__(self) -> str:
        return ", ".join(f"sm_{major}{minor}" for major, minor in self.capabilities) or "sm_80 and later"


def parse_target(words: Iterable[str]) -> BuildTarget:
    """The target that words such as "8.9", "89" or "sm_89" name. Raises SpecError on anything else."""
    found = set()
    for word in words:
        match = re.fullmatch(r"(?:sm_?)?(\d{1,2})\.?(\d)", word.strip(), re.IGNORECASE)
        if match is None:
            raise SpecError(f"--compute-capability {word}: allowed: a number such as 8.9, as `nvidia-smi` tells it")
        found.add((int(match[1]), int(match[2])))
    return BuildTarget(capabilities=tuple(sorted(found)))


def set_build_target(target: BuildTarget) -> None:
    """This process, and those that it starts, build for `target`."""
    os.environ[_TARGET] = ",".join(f"{major}.{minor}" for major, minor in target.capabilities) or _DEFAULT


def build_target() -> BuildTarget | None:
    """The GPUs that this process builds for; None where it uses the ones that are there."""
    words = os.environ.get(_TARGET)
    return None if words is None else parse_target([] if words == _DEFAULT else words.split(","))
