"""What every ONNX Runtime engine shares: a session that ran where it was asked to, and its failures as rejections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from autotune.engines.protocol import Inputs, Outputs
from autotune.errors import BuildFailed, CandidateRejected, OutOfMemory, Unstable, Unsupported

Providers = Sequence[tuple[str, Mapping[str, str]]]
NO_CPU = "session.disable_cpu_ep_fallback"
"""Set, ONNX Runtime refuses a session of which one node would run on the CPU, instead of copying there and back."""
FELL_TO_CPU = "fallback to CPU EP has been explicitly disabled"
_NO_GRAPH = ("cannot use the graph capture feature", "cannot use the CUDA Graph feature")
_OUT_OF_MEMORY = ("smaller than requested bytes", "bad_alloc", "Failed to allocate memory", "out of memory", "OUT_OF_MEMORY")


class OnnxRuntimeSession:
    """One InferenceSession; `wait` runs the model on the calling thread, so each slot's thread is a stream.

    `cap`: the memory limit that an out-of-memory message should name, such as "memory_pool_mib=64".
    """

    def __init__(self, session: Any, slots: int, cap: str = "") -> None:
        self.slots = slots
        self._session = session
        self._cap = cap
        self._names = [o.name for o in session.get_outputs()]
        self._pending: list[Inputs | None] = [None] * slots

    def submit(self, inputs: Inputs, slot: int) -> None:
        """The inputs are remembered; the slot's own thread does the work in `wait`."""
        self._pending[slot] = inputs

    def wait(self, slot: int) -> Outputs:
        """The outputs by name. Raises OutOfMemory when the arena's cap is reached, Unstable on any other failure."""
        try:
            values = self._session.run(self._names, self._pending[slot])
        except Exception as exc:
            raise rejection(exc, Unstable, "load", self._cap) from exc
        return dict(zip(self._names, values, strict=True))

    def close(self) -> None:
        """The session and its arena are released."""
        self._session = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def create_session(path: Path, options: Any, providers: Providers, *, stage: str, cap: str = "") -> Any:
    """An InferenceSession on exactly these providers. Raises Unsupported where ONNX Runtime took others.

    Asked for CUDA without its libraries, ONNX Runtime logs a line and runs on the CPU, so what it took is compared. And where a
    provider fails later, in a run, its Python session is made anew on the CPU (`enable_fallback`), unless that is switched off.
    """
    import onnxruntime as ort

    asked_for = [(name, dict(values)) for name, values in providers]
    try:
        session = ort.InferenceSession(str(path), options, providers=asked_for, enable_fallback=0)
        session.disable_fallback()  # older releases have no such argument
    except Exception as exc:  # onnxruntime raises a dozen unrelated pybind classes
        raise rejection(exc, BuildFailed, stage, cap) from exc
    asked, taken = [name for name, _ in providers], list(session.get_providers())
    if taken[: len(asked)] != asked:
        raise Unsupported(f"ONNX Runtime was asked for {', '.join(asked)} and took {', '.join(taken)}", stage=stage)
    return session


def rejection(exc: Exception, otherwise: type[BuildFailed] | type[Unstable], stage: str, cap: str = "") -> CandidateRejected:
    """The rejection that an exception of ONNX Runtime means, told by its text."""
    text = str(exc)
    if isinstance(exc, MemoryError) or any(sign in text for sign in _OUT_OF_MEMORY):
        limit = f" with {cap}" if cap else ""
        return OutOfMemory(f"ONNX Runtime's arena ran out{limit}: {text.rpartition('Stream*) ')[2] or text}", stage=stage)
    if any(sign in text for sign in _NO_GRAPH):
        return Unsupported(f"cuda_graph=on: ONNX Runtime: {text}", stage=stage)
    if "NOT_IMPLEMENTED" in text or FELL_TO_CPU in text:
        return Unsupported(f"ONNX Runtime: {text}", stage=stage)
    return otherwise(f"ONNX Runtime: {text}", stage=stage)
