"""The capability filter: the study's space cut down to what the engines and the device can do, with every reason kept."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from autotune.candidate import KNOBS, Candidate, Choices, Domain, Range, Scalar
from autotune.errors import EnvironmentProblem, SpecError, SpecProblem
from autotune.spec.knobs import CALIBRATED
from autotune.spec.model import LoadSpec, StudySpec

SHARED_KNOBS = tuple(k for k in KNOBS if k not in ("engine", "precision"))
"""The knobs that are sampled one by one; engine and precision are drawn together, because engines differ in precisions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineView:
    """What the filter needs to know of a backend; `engines.protocol.Capabilities` explains the fields.

    `schemes`: by precision, the name of the quantization scheme in which the engine wants it, where it has one.
    """

    name: str
    knobs: frozenset[str]
    precisions: Sequence[str]
    refused: Mapping[str, str]
    limits: Mapping[str, tuple[int, int]]
    defaults: Mapping[str, Scalar | None]
    build_knobs: frozenset[str] = frozenset()
    schemes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """A part of the study's space that cannot be honoured here. `engine` is empty where no engine could."""

    knob: str
    what: str
    reason: str
    engine: str = ""

    def __str__(self) -> str:
        where = f" on {self.engine}" if self.engine else ""
        return f"{self.knob}={self.what}{where}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSpace:
    """What is left: pairs of engine and precision, a domain for every knob that some engine has, and what was removed.

    `build_knobs_of`: by engine, the knobs that shape its files; another value of one of them is another engine to build.
    `graphs`: by pair, the name of the graph that its engines are built from; pairs with the same one share their variants.
    """

    pairs: tuple[tuple[str, str], ...]
    domains: Mapping[str, Domain]
    knobs_of: Mapping[str, frozenset[str]]
    defaults_of: Mapping[str, Mapping[str, Scalar | None]]
    removed: tuple[Removal, ...]
    build_knobs_of: Mapping[str, frozenset[str]] = field(default_factory=dict)
    graphs: Mapping[tuple[str, str], str] = field(default_factory=dict)

    @property
    def engines(self) -> tuple[str, ...]:
        """The engines that are left, in the study's order."""
        return tuple(dict.fromkeys(engine for engine, _ in self.pairs))

    def has(self, engine: str, knob: str) -> bool:
        """True when candidates of `engine` carry a value of `knob`."""
        return knob in self.domains and (KNOBS[knob].stage == "variant" or knob in self.knobs_of[engine])

    def graph_of(self, engine: str, precision: str) -> str:
        """The pair's entry in `graphs`; where nobody said, one that it shares with no other."""
        return self.graphs.get((engine, precision), f"{precision} for {engine}")

    def default_candidate(self, engine: str, precision: str = "fp32", pruning_ratio: float = 0.0) -> Candidate:
        """The engine's own defaults, which need not lie in the study's space."""
        defaults = self.defaults_of[engine]
        runtime = {k: defaults.get(k) for k in SHARED_KNOBS if KNOBS[k].stage == "engine"}
        return Candidate.from_json({"engine": engine, "precision": precision, "pruning_ratio": pruning_ratio, **runtime})


def filtered_space(spec: StudySpec, engines: Sequence[EngineView], *, can_prune: str = "") -> SearchSpace:
    """The study's space on these engines. `can_prune`: empty, or why pruning cannot be done here.

    Raises SpecError when nothing is left of a knob, EnvironmentProblem when no engine can run.
    """
    if not engines:
        raise EnvironmentProblem("no engine of this study can run on this machine.", remedy="autotune doctor")
    removed: list[Removal] = []
    pairs = _pairs(spec, engines, removed)
    domains: dict[str, Domain] = {}
    for knob in SHARED_KNOBS:
        takers = [e for e in engines if KNOBS[knob].stage == "variant" or knob in e.knobs]
        if not takers:
            if knob not in spec.space:
                continue  # nobody asked for it
            removed.append(Removal(knob=knob, what=str(spec.domain(knob)), reason="none of the engines has this knob"))
            continue
        domain = spec.domain(knob)
        if knob == "pruning_ratio":
            domain = _without_pruning(spec, domain, can_prune, removed)
        domain = _clipped(knob, domain, takers, removed)
        domain = _useful(knob, domain, spec.load, removed)
        if isinstance(domain, Choices) and not domain.values and KNOBS[knob].default is None and knob not in spec.space:
            continue  # the study leaves this knob to the engine
        domains[knob] = domain
    return SearchSpace(
        pairs=pairs,
        domains=domains,
        knobs_of={e.name: frozenset(e.knobs) for e in engines},
        defaults_of={e.name: e.defaults for e in engines},
        removed=tuple(removed),
        build_knobs_of={e.name: e.build_knobs for e in engines},
        graphs={(e.name, p): " ".join(filter(None, (p, e.schemes.get(p)))) for e in engines for p in e.precisions},
    )


def _pairs(spec: StudySpec, engines: Sequence[EngineView], removed: list[Removal]) -> tuple[tuple[str, str], ...]:
    domain = spec.domain("precision")
    wanted = domain.values if isinstance(domain, Choices) else ()
    pairs = []
    for engine in engines:
        for precision in map(str, wanted):
            reason = "" if precision in engine.precisions else engine.refused.get(precision, "the engine does not know it")
            if not reason and precision in CALIBRATED and spec.data.calibration is None:
                reason = "quantization needs data.calibration"
            if reason:
                removed.append(Removal(knob="precision", what=precision, engine=engine.name, reason=reason))
            else:
                pairs.append((engine.name, precision))
    if not pairs:
        raise SpecError(
            [
                SpecProblem(
                    key="space.precision",
                    found=str(domain) + ", of which nothing can be done here: " + "; ".join(map(str, removed)),
                    allowed="; ".join(f"{e.name}: {', '.join(e.precisions)}" for e in engines),
                )
            ]
        )
    return tuple(pairs)


def _without_pruning(spec: StudySpec, domain: Domain, can_prune: str, removed: list[Removal]) -> Domain:
    reason = can_prune
    if not reason and spec.data.train is None and spec.data.calibration is None:
        reason = "recovery after pruning needs data.train or data.calibration"
    asks = any(v != 0 for v in domain.values) if isinstance(domain, Choices) else domain.high > 0
    if not (reason and asks):
        return domain
    removed.append(Removal(knob="pruning_ratio", what=str(domain), reason=reason))
    return Choices(values=(0.0,))


def _clipped(knob: str, domain: Domain, takers: Sequence[EngineView], removed: list[Removal]) -> Domain:
    """The domain inside the limits of every engine that has the knob."""
    limits = [e.limits[knob] for e in takers if knob in e.limits]
    if not limits:
        return domain if isinstance(domain, Choices) else _on_grid(domain, domain.low, domain.high)
    low, high = max(lo for lo, _ in limits), min(hi for _, hi in limits)
    reason = f"this device takes {low}…{high}"
    if isinstance(domain, Choices):
        kept = tuple(v for v in domain.values if isinstance(v, int | float) and low <= v <= high)
        removed += [Removal(knob=knob, what=str(v), reason=reason) for v in domain.values if v not in kept]
        if domain.values and not kept:
            raise SpecError([SpecProblem(key=f"space.{knob}", found=str(domain), allowed=f"{low}…{high} on this device")])
        return Choices(values=kept)
    inside = _on_grid(domain, max(domain.low, low), min(domain.high, high))
    if inside.low > inside.high:
        raise SpecError([SpecProblem(key=f"space.{knob}", found=str(domain), allowed=f"{low}…{high} on this device")])
    if domain.high > high:
        removed.append(Removal(knob=knob, what=f"{high + 1}…{domain.high:g}", reason=reason))
    if domain.low < low:
        removed.append(Removal(knob=knob, what=f"{domain.low:g}…{low - 1}", reason=reason))
    return inside


def _useful(knob: str, domain: Domain, load: LoadSpec, removed: list[Removal]) -> Domain:
    """The domain without batches and streams that a query of so few samples cannot fill, unless nothing would be left."""
    n = load.samples_per_query
    if n is None or knob not in ("batch_size", "streams"):
        return domain
    reason = f"{load.scenario} asks {n} sample{'s' if n > 1 else ''} at a time"
    if isinstance(domain, Choices):
        kept = tuple(v for v in domain.values if isinstance(v, int | float) and v <= n)
        removed += [Removal(knob=knob, what=str(v), reason=reason) for v in domain.values if kept and v not in kept]
        return Choices(values=kept) if kept else domain
    if domain.low > n or domain.high <= n:
        return domain
    removed.append(Removal(knob=knob, what=f"{n + 1}…{domain.high:g}", reason=reason))
    inside = _on_grid(domain, domain.low, n)
    return Choices(values=(inside.low,)) if inside.low >= inside.high else inside


def _on_grid(domain: Range, low: float, high: float) -> Range:
    """The part of the range between `low` and `high`, both moved inwards to the range's own steps; low > high where none is."""
    if domain.step:
        low = domain.low + math.ceil((low - domain.low) / domain.step - 1e-9) * domain.step
        high = domain.low + math.floor((high - domain.low) / domain.step + 1e-9) * domain.step
    return replace(domain, low=low, high=high)
