"""The seam between autotune and an inference engine: Backend builds an Engine, and opens it as a Session.

A backend differs from another in which knobs it needs when it builds (`build_knobs`), which it takes when it opens
(`run_knobs`), and which it does not have at all; only build knobs enter an engine's key, so a sweep over run knobs never
rebuilds, and a knob in neither set is never sampled for it and reads None in the candidate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, Self, runtime_checkable

from numpy.typing import NDArray

from autotune.candidate import Candidate, Scalar
from autotune.variants.variant import ModelVariant, QuantScheme

Inputs = Mapping[str, NDArray[Any]]
Outputs = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a backend can do on this machine. `missing` is why it cannot run at all, with the command that helps.

    `precisions`: supported names. `refused`: precision → the reason why it is not offered here.
    `limits`: knob → (low, high) that the device allows. `distributions`: what its versions come from, on which an engine's
    files depend; `run_distributions`: what more is loaded to run them, on which only measurements depend.
    `device`: the kind it runs on, "cpu", "cuda" or "fake", also where it cannot. `offered`: whether a study that names no
    engine gets this one.
    """

    available: bool
    missing: str = ""
    remedy: str = ""
    device: str = "cpu"
    offered: Literal["by default", "if nothing else runs", "only by name"] = "by default"
    precisions: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    distributions: tuple[str, ...] = ()
    run_distributions: tuple[str, ...] = ()
    knob_docs: Mapping[str, str] = field(default_factory=dict)
    partial_batches: bool = False
    """A session takes batches that are smaller than the candidate's as well, and answers as many samples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """A built engine: a folder of files. `key` covers the variant, the backend with its version, and the build knobs."""

    key: str
    backend: str
    variant: ModelVariant
    folder: Path


class Session(Protocol):
    """An engine made ready to run. `slots` executions may be in flight, one per slot; each slot belongs to one thread, and each
    thread has one slot, unless the session is one of FewerThreads.

    The arrays given to `submit` must stay unchanged until `wait` of that slot returns; its result is the caller's until the
    next `submit` on the slot. An engine without asynchronous execution may do its work in `wait`.
    """

    slots: int

    def submit(self, inputs: Inputs, slot: int) -> None:
        """Execution on `slot` has begun or is ready to. `inputs`: by name, first dimension the batch size."""
        ...

    def wait(self, slot: int) -> Outputs:
        """The outputs of `slot` by name. Raises OutOfMemory or Unstable."""
        ...

    def close(self) -> None:
        """Everything the session held is released. Safe to call twice."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


@runtime_checkable
class FewerThreads(Protocol):
    """A session whose slots fewer threads may drive: `submit` returns at once, so that a thread submits on all of its slots
    before it waits for the first."""

    threads: int


@runtime_checkable
class CountsPool(Protocol):
    """A session whose memory pool counts what it handed out."""

    def pool_peak_mib(self) -> float | None:
        """The most MiB that were handed out at once since the session was opened; the last figure once it is closed."""
        ...


def driving_threads(session: Session) -> int:
    """How many threads drive the session's slots: one for each, unless the session says fewer."""
    fewer = session.threads if isinstance(session, FewerThreads) else session.slots
    return max(1, min(session.slots, fewer))


@runtime_checkable
class KeepsTimings(Protocol):
    """A backend whose builder measures kernels, and may start from what earlier builds measured."""

    def keep_timings(self, folder: Path) -> None:
        """Builds from now on read and extend files in `folder`, which all builds of a cache share.

        What lies there changes how long a build takes, and is no part of an engine's key.
        """
        ...


class Backend(Protocol):
    """An inference engine. Constructing one imports no vendor library; every method may."""

    name: str
    build_knobs: frozenset[str]
    run_knobs: frozenset[str]
    preload: tuple[str, ...]
    """Modules that a trial's process imports before it forks a child for each trial. They must not touch a GPU, and a child
    must not need the threads that they start: ONNX Runtime and OpenVINO each leave an idle one, which a child can miss."""

    def capabilities(self) -> Capabilities:
        """What this machine can do, found out without running a model. Never raises for a missing library."""
        ...

    def scheme(self, precision: str) -> QuantScheme:
        """How integer graphs must be made for this engine."""
        ...

    def defaults(self) -> Mapping[str, Scalar | None]:
        """The run-time settings that a user who sets nothing gets, as values of the knobs the backend has."""
        ...

    def build(self, variant: ModelVariant, candidate: Candidate, folder: Path) -> None:
        """The engine's files are in `folder`, which is empty at first. Raises Unsupported, BuildFailed or OutOfMemory."""
        ...

    def open(self, engine: Engine, candidate: Candidate) -> Session:
        """A session with the candidate's run-time settings. Raises Unsupported, BuildFailed or OutOfMemory."""
        ...

    def deployment(self, candidate: Candidate) -> dict[str, Any]:
        """The engine's own names and values for the candidate's settings, as a deployment must set them."""
        ...
