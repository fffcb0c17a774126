"""An engine opened: N execution contexts that live in one capped pool of device memory, driven by W threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self, TypeVar

from autotune.cuda.runtime import DeviceRuntime, MemoryPool
from autotune.engines.protocol import Inputs, Outputs
from autotune.engines.tensorrt_api import ICudaEngine, Runtime, Trt
from autotune.engines.tensorrt_lane import GraphMode, Lane, Opened, open_lane, release
from autotune.engines.tensorrt_log import Log, make_log, rejection
from autotune.errors import OutOfMemory

_MIB = 1 << 20
_Seen = TypeVar("_Seen")


class TensorRtSession:
    """`slots` contexts share the engine's weights, which lie outside the pool; everything else on the device lies in it.

    `threads`: how many host threads may drive the slots, each submitting on all of its own before it waits for one.
    """

    def __init__(
        self,
        trt: Trt,
        plan: bytes,
        runtime: DeviceRuntime,
        *,
        slots: int,
        threads: int | None,
        batch_size: int,
        pool_mib: int | None,
        graph_mode: GraphMode,
    ) -> None:
        self.slots = slots
        self.threads = min(slots, threads or slots)
        self._runtime = runtime
        self._pool: MemoryPool | None = None
        self._lanes: list[Lane] = []
        self._peak_mib: float | None = None
        self._log = make_log(trt)
        self._loader: Runtime | None = None
        self._engine: ICudaEngine | None = None
        try:
            self._loader, self._engine = loaded(trt, plan, self._log)
            self._pool = runtime.pool(cap_bytes=None if pool_mib is None else pool_mib * _MIB)
            shared = Opened(
                trt=trt,
                log=self._log,
                engine=self._engine,
                runtime=runtime,
                pool=self._pool,
                batch_size=batch_size,
                graph_mode=graph_mode,
            )
            for _ in range(slots):
                self._lanes.append(open_lane(shared))
        except OutOfMemory as exc:
            n_open = len(self._lanes)
            self.close()
            if pool_mib is None:
                raise
            raise OutOfMemory(
                f"memory_pool_mib={pool_mib} holds {n_open} of {slots} contexts with their buffers: {exc}", stage="open"
            ) from exc
        except BaseException:
            self.close()
            raise

    def submit(self, inputs: Inputs, slot: int) -> None:
        """The slot's copies and execution are on its stream. Raises Unstable."""
        self._lanes[slot].submit(inputs)

    def wait(self, slot: int) -> Outputs:
        """Views of the slot's pinned outputs. Raises Unstable when the execution failed."""
        return self._lanes[slot].wait()

    def explore(self, look: Callable[[Lane, ICudaEngine], _Seen]) -> _Seen:
        """What `look` finds in the first context and the engine, which must stay with this session. Not beside a load."""
        if self._engine is None:
            raise ValueError("the session is closed")
        return look(self._lanes[0], self._engine)

    def pool_peak_mib(self) -> float | None:
        """The most that the contexts and their buffers took from the pool at once."""
        if self._pool is not None:
            self._peak_mib = self._pool.peak_bytes() / _MIB
        return self._peak_mib

    def close(self) -> None:
        """Contexts, buffers, pool, engine and runtime are released."""
        for lane in self._lanes:
            lane.close()
        self._lanes = []
        if self._pool is not None:
            self.pool_peak_mib()
        release(self._pool)
        self._pool = self._engine = self._loader = None
        release(self._runtime)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def loaded(trt: Trt, plan: bytes, log: Log) -> tuple[Runtime, ICudaEngine]:
    """The engine with its weights on the GPU, and the loader that must outlive it."""
    try:
        loader = trt.Runtime(log)
    except (TypeError, RuntimeError) as exc:
        raise rejection(log, "TensorRT's runtime does not start", "open", exc=exc) from exc
    engine = loader.deserialize_cuda_engine(plan)
    if engine is None:
        raise rejection(log, "TensorRT cannot load the engine", "open")
    return loader, engine
