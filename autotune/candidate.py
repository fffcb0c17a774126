"""The knobs: one frozen dataclass whose fields are what a study searches over.

Everything that must know the knobs derives it from here: the YAML schema, Optuna's distributions, the SQL columns,
the report's headers and the cache keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from autotune.fingerprint import digest_of

Stage = Literal["variant", "engine"]
Scalar = str | int | float


@dataclass(frozen=True, slots=True, kw_only=True)
class Knob:
    """What is known of a knob wherever it is used. `low` and `high` bound what makes sense on any device."""

    name: str
    kind: Literal["choice", "int", "float"]
    stage: Stage
    unit: str
    doc: str
    low: float | None = None
    high: float | None = None
    default: Scalar | None = None
    choices: tuple[str, ...] = ()
    """What a choice may be, where that is known here: the names of engines and precisions are not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """A knob's domain as an explicit list; one value fixes the knob."""

    values: tuple[Scalar, ...]

    def __contains__(self, value: object) -> bool:
        return value in self.values

    def __str__(self) -> str:
        return ", ".join(map(str, self.values))


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """A knob's domain between `low` and `high`, both included; `step` from `low`, or `log` for a geometric scale."""

    low: float
    high: float
    step: float | None = None
    log: bool = False

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int | float) and self.low <= value <= self.high

    def __str__(self) -> str:
        extra = f", step {self.step:g}" if self.step else ", log" if self.log else ""
        return f"{self.low:g}…{self.high:g}{extra}"


Domain = Choices | Range


def _knob(
    kind: Literal["choice", "int", "float"],
    stage: Stage,
    doc: str,
    *,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    default: Scalar | None = None,
    choices: tuple[str, ...] = (),
    later: bool = False,
) -> Any:
    """A field whose metadata is the knob's. `later`: it came after candidates were stored without it, which read None."""
    ends = {"low": low, "high": high, "default": default, "choices": choices}
    meta = {"kind": kind, "stage": stage, "doc": doc, "unit": unit, **ends}
    return field(default=None, metadata=meta) if later else field(metadata=meta)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One deployment to try. A field is None where the engine has no such knob, or where its own default is meant."""

    engine: str = _knob("choice", "engine", "the inference engine that compiles and runs the model")
    precision: str = _knob(
        "choice", "variant", "number format of weights and activations, carried by the model's graph", default="fp32"
    )
    pruning_ratio: float = _knob(
        "float", "variant", "share of channels removed from each prunable group", unit="1", low=0.0, high=0.95, default=0.0
    )
    batch_size: int = _knob("int", "engine", "samples in one submission", unit="samples", low=1, high=65536, default=1)
    streams: int | None = _knob("int", "engine", "executions in flight at once", low=1, high=1024, default=1)
    worker_threads: int | None = _knob("int", "engine", "threads that compute inside the engine", low=1, high=4096)
    memory_pool_mib: int | None = _knob(
        "int", "engine", "upper bound of the engine's own memory pool (arena, workspace)", unit="MiB", low=1, high=1 << 20
    )
    builder_level: int | None = _knob(
        "int", "engine", "how long the engine's builder looks for faster kernels", low=0, high=5, default=3, later=True
    )
    cuda_graph: str | None = _knob(
        "choice",
        "engine",
        "whether an execution is captured once and launched as a whole",
        default="off",
        choices=("off", "on"),
        later=True,
    )
    layout: str | None = _knob(
        "choice",
        "engine",
        "where the channels of activations lie in memory: before the pixels (nchw) or behind them (nhwc)",
        choices=("nchw", "nhwc"),
        later=True,
    )
    conv_search: str | None = _knob(
        "choice",
        "engine",
        "how the algorithm of each convolution is chosen: by timing all, by a rule, or always the same",
        choices=("exhaustive", "heuristic", "default"),
        later=True,
    )
    arena_growth: str | None = _knob(
        "choice",
        "engine",
        "by how much the engine's arena grows: to the next power of two, or by what is asked for",
        choices=("doubling", "as_requested"),
        later=True,
    )

    def as_json(self) -> dict[str, Scalar | None]:
        """The knobs by name, in field order."""
        return asdict(self)

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Candidate:
        """The candidate that `as_json` described. Raises TypeError on unknown or missing knobs."""
        return Candidate(**values)

    @property
    def digest(self) -> str:
        """What equal candidates share. A knob that came later and is not set does not count: older digests hold."""
        return digest_of({k: v for k, v in self.as_json().items() if v is not None or k not in _LATER})

    def __str__(self) -> str:
        return " ".join(f"{k}={v}" for k, v in self.as_json().items() if v is not None)


_LATER = frozenset(f.name for f in fields(Candidate) if f.default is None)
KNOBS: dict[str, Knob] = {f.name: Knob(name=f.name, **f.metadata) for f in fields(Candidate)}
"""Every knob by name, `engine` included, in the order in which people read them."""
