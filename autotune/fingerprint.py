"""Names for contents: the digests that caches, studies and devices are known by."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

_INSTRUCTIONS = {
    "flags": frozenset(
        (
            *("sse2", "sse4_2", "avx", "avx2", "fma", "avx_vnni"),
            *("avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16", "amx_fp16"),
        )
    ),
    "Features": frozenset(("asimd", "asimdhp", "asimddp", "bf16", "i8mm", "sve", "sve2", "sme")),
}
"""Sets of instructions by which engines choose their kernels, by what /proc/cpuinfo lists those of x86 and of Arm under.

`sse2` and `asimd` are on every 64-bit CPU, so one that tells of none was not understood.
"""
_CPU_INFO = Path("/proc/cpuinfo")
KEY_LENGTH = 24
"""Hex digits of a key: 96 bits, a collision is out of reach for any number of artifacts a disk can hold."""


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no blanks, the same for equal values on every machine. Raises TypeError for non-JSON."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest_of(value: Any) -> str:
    """SHA-256 of the canonical JSON, shortened to KEY_LENGTH hex digits."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:KEY_LENGTH]


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hex digits. Raises OSError."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@cache
def library_version(distribution: str) -> str | None:
    """The installed version of a distribution, without importing it; None where it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def onnxruntime_version() -> str | None:
    """The version of whichever distribution brings the module onnxruntime: that for CPUs, for NVIDIA GPUs or for OpenVINO."""
    found = map(library_version, ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino"))
    return next((version for version in found if version), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFingerprint:
    """What a measurement depends on and cannot change: the device, the system, and the versions of the libraries.

    `instructions`: of a CPU, the sets of those by which engines choose their kernels; empty where that is not known. A cloud
    calls CPUs with AMX and without by one name.
    """

    device: str
    kind: str
    cores: int
    memory_mib: int
    system: str
    versions: Mapping[str, str] = field(default_factory=dict)
    instructions: tuple[str, ...] = ()

    @staticmethod
    def from_json(document: Mapping[str, Any]) -> DeviceFingerprint:
        """What `asdict` wrote, in an earlier version without instructions. Raises TypeError where it is something else."""
        return DeviceFingerprint(**{**document, "instructions": tuple(document.get("instructions", ()))})

    @property
    def device_class(self) -> str:
        """What devices have in common whose measurements may be compared: model, size and limits, and the driver's branch.

        Two GPUs of a model in two hosts are one class; with another power limit, or a driver of another branch, they are not.
        Of CPUs the instructions count, too.
        """
        return f"{self.label} with {', '.join(self.instructions)}" if self.instructions else self.label

    @property
    def label(self) -> str:
        """The class for people: without the instructions, of which there are many."""
        return f"{self.device}, driver {self._branch}" if self._branch else self.device

    @property
    def identity(self) -> dict[str, Any]:
        """What engines and answers that are kept for this device depend on, as JSON."""
        told = {"instructions": list(self.instructions)} if self.instructions else {}
        return {"device": self.device, "versions": dict(self.versions), **told}

    def is_same_device(self, other: DeviceFingerprint) -> bool:
        """True for the same model, size and limits; and the same instructions, unless those of one are not known."""
        unknown = not self.instructions or not other.instructions
        return self.device == other.device and (unknown or self.instructions == other.instructions)

    def is_comparable(self, other: DeviceFingerprint) -> bool:
        """True where both are of one `device_class`, as far as is known."""
        return self.is_same_device(other) and self._branch == other._branch

    @property
    def _branch(self) -> str:
        return self.versions.get("nvidia-driver", "").partition(".")[0]

    @property
    def key(self) -> str:
        """The digest under which the environment is stored; of a device that tells no instructions what it always was."""
        return digest_of({k: v for k, v in asdict(self).items() if k != "instructions" or v})


CORES = "AUTOTUNE_CORES"
"""Variable that says how many CPUs candidates are measured on, where a process builds for them on others (`devices.cores`)."""


def usable_cores() -> int:
    """CPUs that candidates may be measured on: affinity and the container's CPU quota, at least 1.

    The same in a process that only builds, wherever that runs, for what is built is known by the device that it is for.
    """
    if (named := os.environ.get(CORES, "")).isdigit():
        return max(1, int(named))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            cores = min(cores, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass
    return cores


@cache
def cpu_fingerprint(distributions: tuple[str, ...] = ()) -> DeviceFingerprint:
    """This machine's CPU, with the versions of the named distributions that are installed."""
    versions = {d: v for d in distributions if (v := library_version(d))}
    return DeviceFingerprint(
        device=f"{_cpu_model()} × {usable_cores()}",
        kind="cpu",
        cores=usable_cores(),
        memory_mib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        system=f"{platform.system()} {platform.release()} {platform.machine()}, Python {platform.python_version()}",
        versions=versions,
        instructions=tuple(
            sorted(x for name, sets in _INSTRUCTIONS.items() for x in sets.intersection(_cpu_info(name).split()))
        ),
    )


def _cpu_model() -> str:
    return _cpu_info("model name") or platform.processor() or platform.machine()


def _cpu_info(name: str) -> str:
    """What Linux says of the first CPU under this name; empty where it says nothing."""
    try:
        lines = _CPU_INFO.read_text().splitlines()
    except OSError:
        return ""
    told = (line.partition(":") for line in lines)
    return next((value.strip() for key, _, value in told if key.strip() == name), "")
