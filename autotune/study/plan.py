"""StudyPlan: what a study will do on this machine, known before anything is built or measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from autotune.cache import Cache
from autotune.candidate import Candidate, Choices
from autotune.devices.build_target import build_target
from autotune.devices.cores import set_apart
from autotune.devices.gpu import device_fingerprint, selected_gpu
from autotune.devices.precision import doubtful_precisions
from autotune.engines.protocol import Backend, Capabilities
from autotune.errors import EnvironmentProblem
from autotune.fingerprint import DeviceFingerprint
from autotune.space.capability import SHARED_KNOBS, EngineView, SearchSpace, filtered_space
from autotune.space.sampling import nearest_in
from autotune.spec.model import StudySpec
from autotune.study.kinds import of_its_kind, priced
from autotune.study.machine import engines_here, lock_name
from autotune.telemetry.gpu import gpu_probes
from autotune.telemetry.host import host_probes
from autotune.trial.artifacts import cache_of, cache_root_of
from autotune.variants.precision import PRECISIONS


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyPlan:
    """A study made ready for this machine: its space after the capability filter, the reference and the first candidates.

    `doubts`: precision → why it is searched here, but seldom leads; their priors are the last. `certain`: those of the priors
    that every strategy tries first: the first of all, which is the reference where it is a prior, and what the study
    file names. The others are the other engines' defaults and its preset's; a strategy may weigh them by itself.
    `build_cores`: the CPUs on which is built ahead, none where nothing is.
    """

    spec: StudySpec
    space: SearchSpace
    backends: Mapping[str, Backend]
    fingerprint: DeviceFingerprint
    reference: Candidate
    priors: tuple[Candidate, ...]
    doubts: Mapping[str, str]
    cache_root: Path
    certain: tuple[Candidate, ...] = ()
    build_cores: tuple[int, ...] = ()

    @property
    def cache(self) -> Cache:
        """The study's artifacts."""
        return cache_of(self.spec, self.cache_root)

    @property
    def lock_name(self) -> str:
        """As `study.machine.lock_name`."""
        return lock_name(self.fingerprint.kind)

    @property
    def prunes(self) -> bool:
        """True when some candidate may be pruned."""
        domain = self.space.domains["pruning_ratio"]
        return any(v != 0 for v in domain.values) if isinstance(domain, Choices) else domain.high > 0

    @property
    def preload(self) -> tuple[str, ...]:
        """Modules that a trial's process imports once for all trials."""
        modules = [m for b in self.backends.values() for m in b.preload]
        return (*dict.fromkeys(modules), *(("torch",) if self.prunes else ()))


def make_plan(spec: StudySpec) -> StudyPlan:
    """The study on this machine, or the part of it for this kind of device.

    From now on this process does not run on the cores that the study builds on. Raises EnvironmentProblem where the machine
    lacks what was asked for, SpecError on an empty space.
    """
    build_cores = set_apart(spec.build_ahead.cores) if spec.build_ahead.cores else ()
    kind, able = engines_here(spec)
    _require_energy(spec, kind)
    views = [_view(backend, found) for backend, found in able.values()]
    space = filtered_space(spec, views, can_prune=_why_not_prune())
    doubts = _doubts(kind, space)
    distributions = tuple(
        dict.fromkeys(d for _, found in able.values() for d in (*found.distributions, *found.run_distributions))
    )
    reference = space.default_candidate(next(iter(able)))
    fingerprint = device_fingerprint(kind, distributions)
    priors = _to_try((*_defaults(space), *_named(spec.priors, spec, space)), reference, space, doubts)
    own = _to_try(_named(spec.own_priors, spec, space), reference, space, doubts)
    return StudyPlan(
        spec=priced(of_its_kind(spec, fingerprint), fingerprint),
        space=space,
        backends={name: backend for name, (backend, _) in able.items()},
        fingerprint=fingerprint,
        reference=reference,
        priors=priors,
        doubts=doubts,
        certain=tuple(dict.fromkeys((*priors[:1], *own))),
        cache_root=cache_root_of(spec),
        build_cores=build_cores,
    )


def _require_energy(spec: StudySpec, kind: str) -> None:
    """Returns when energy is no objective, can be read, or nothing is measured. Raises EnvironmentProblem with the reason."""
    if "energy" not in spec.objectives or build_target() is not None:
        return
    probes, metric = (gpu_probes(selected_gpu()), "gpu_energy_j") if kind == "cuda" else (host_probes(), "cpu_energy_j")
    absent = next(p.absent for p in probes if p.metric == metric)
    if absent is not None:
        needs = "a GPU since Volta, outside MIG and vGPU" if kind == "cuda" else "root on a host with RAPL"
        raise EnvironmentProblem(
            f"objectives: energy: this machine's energy counter cannot be read: {absent}.",
            remedy=f"{needs}, or take energy out of objectives",
        )


def _view(backend: Backend, able: Capabilities) -> EngineView:
    return EngineView(
        name=backend.name,
        knobs=backend.build_knobs | backend.run_knobs,
        precisions=able.precisions,
        refused=able.refused,
        limits=able.limits,
        defaults=backend.defaults(),
        build_knobs=backend.build_knobs,
        schemes={p: _scheme(backend, p) for p in able.precisions if p in PRECISIONS and PRECISIONS[p].schemed},
    )


def _scheme(backend: Backend, precision: str) -> str:
    try:
        return backend.scheme(precision).name
    except Exception:  # a backend of somebody else's; its trials say what is wrong with it, and the others go on
        return f"as {backend.name} wants it"


def _why_not_prune() -> str:
    lacking = [m for m in ("torch", "torch_pruning", "onnx2torch") if find_spec(m) is None]
    if not lacking:
        return ""
    return f"pruning needs {', '.join(lacking)}: pip install 'autotune[prune]'"


def _doubts(kind: str, space: SearchSpace) -> dict[str, str]:
    """The space's precisions that run on the GPU, or on one of those that are built for, without the hardware for them."""
    if kind != "cuda":
        return {}
    target, found = build_target(), dict[str, str]()
    for capability in (selected_gpu().compute_capability,) if target is None else target.capabilities:
        found |= doubtful_precisions(dict.fromkeys(p for _, p in space.pairs), capability)
    return found


def _defaults(space: SearchSpace) -> tuple[Candidate, ...]:
    """Each engine's defaults in fp32; in the first precision there is, where no engine computes in fp32."""
    wanted = [space.default_candidate(engine, precision) for engine, precision in space.pairs]
    return tuple([c for c in wanted if c.precision == "fp32"] or wanted[:1])


def _named(priors: Sequence[Mapping[str, Any]], spec: StudySpec, space: SearchSpace) -> tuple[Candidate, ...]:
    """The priors spelled out. One that leaves the engine open stands for all of them."""
    spelled = [full for prior in priors for full in _completed(prior, space)]
    n = spec.load.samples_per_query
    # A batch that no query fills is padded in every single request: no configuration that anybody would deploy.
    return tuple(c for c in spelled if n is None or c.batch_size <= n)


def _to_try(
    priors: tuple[Candidate, ...], reference: Candidate, space: SearchSpace, doubts: Mapping[str, str]
) -> tuple[Candidate, ...]:
    """Each of the priors once, those in doubtful precisions last.

    Without the reference where the space knows it only with its open knobs at their largest values, such as the memory pool:
    the largest limit does what none does, and would be measured a second time for it.
    """
    nearest = nearest_in(reference, space) or reference
    moved = {k for k, v in nearest.as_json().items() if v != getattr(reference, k)}
    same = bool(moved) and all(getattr(reference, k) is None for k in moved)
    each = (c for c in dict.fromkeys(priors) if not (same and c == reference))
    return tuple(sorted(each, key=lambda c: c.precision in doubts))


def _completed(prior: Mapping[str, Any], space: SearchSpace) -> list[Candidate]:
    engines = [prior["engine"]] if "engine" in prior else list(space.engines)
    found = []
    for engine in engines:
        if (engine, prior.get("precision", "fp32")) not in space.pairs:
            continue
        base = space.default_candidate(engine).as_json()
        named = {k: v for k, v in prior.items() if k not in SHARED_KNOBS or space.has(engine, k)}
        found.append(Candidate.from_json({**base, **named, "engine": engine}))
    return found
