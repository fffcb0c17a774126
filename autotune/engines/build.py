"""build_engine: a variant compiled by a backend, kept by content."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from autotune.cache import Cache
from autotune.candidate import Candidate
from autotune.devices.gpu import device_fingerprint
from autotune.engines.protocol import Backend, Engine, KeepsTimings
from autotune.fingerprint import digest_of
from autotune.registry import ENGINES
from autotune.variants.variant import ModelVariant


def load_backend(name: str) -> Backend:
    """The backend registered as `name`; its vendor library is not imported yet. Raises SpecError on an unknown name."""
    return cast(Backend, ENGINES.load(name)())


def engine_key(backend: Backend, variant: ModelVariant, candidate: Candidate) -> str:
    """What the engine's files depend on: graph, backend and its versions, device, and the knobs the backend builds with."""
    able = backend.capabilities()
    device = device_fingerprint(able.device, able.distributions)
    knobs = {k: v for k, v in candidate.as_json().items() if k in backend.build_knobs}
    return digest_of({"variant": variant.key, "backend": backend.name, "knobs": knobs, **device.identity})


def build_engine(backend: Backend, variant: ModelVariant, candidate: Candidate, cache: Cache) -> tuple[Engine, bool]:
    """The engine, and whether it was there already. Raises what the backend's build raises."""
    key = engine_key(backend, variant, candidate)
    if isinstance(backend, KeepsTimings):
        backend.keep_timings(cache.root / "timings")

    def make(folder: Path) -> dict[str, str]:
        backend.build(variant, candidate, folder)
        return {"backend": backend.name, "variant": variant.key}

    made = cache.get_or_make("engines", key, make, needs=[f"variant/{variant.key}"])
    return Engine(key=key, backend=backend.name, variant=variant, folder=made.folder), made.hit
