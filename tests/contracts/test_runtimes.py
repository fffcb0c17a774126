"""The host double keeps the contract of a device runtime. The real ones are in tests/gpu, and skip where there is no GPU."""

from __future__ import annotations

from autotune.cuda.host import HostRuntime, device_view, enqueue
from autotune.cuda.runtime import DeviceRuntime
from autotune.testing import DeviceRuntimeContract


class TestHost(DeviceRuntimeContract):
    """The double that engines are tested with."""

    def kind(self) -> type[DeviceRuntime]:
        return HostRuntime

    def foreign_fill(self, handle: int, pointer: int, value: int, n_bytes: int) -> None:
        def fill() -> None:
            device_view(pointer, n_bytes)[:] = value

        enqueue(handle, fill)
