"""materialize: a candidate's files without measuring it, from the cache or made again."""

from __future__ import annotations

from dataclasses import dataclass

from autotune.cache import Cache
from autotune.candidate import Candidate
from autotune.engines.build import build_engine, load_backend
from autotune.engines.protocol import Engine
from autotune.spec.model import StudySpec
from autotune.trial.stages import variant_of
from autotune.variants.variant import ModelVariant


@dataclass(frozen=True, slots=True, kw_only=True)
class Materials:
    """The compressed model and the engine built from it."""

    variant: ModelVariant
    engine: Engine


def materialize(spec: StudySpec, candidate: Candidate, cache: Cache) -> Materials:
    """The candidate's variant and engine. Raises what making them raises."""
    backend = load_backend(candidate.engine)
    variant, _ = variant_of(spec, candidate, backend, cache)
    engine, _ = build_engine(backend, variant, candidate, cache)
    return Materials(variant=variant, engine=engine)
