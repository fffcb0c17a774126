"""What authors of plug-ins inherit: EngineContract for an engine, DeviceRuntimeContract for a way to drive a GPU.

    class TestMyEngine(EngineContract):
        def backend(self) -> Backend:
            return MyBackend()

Both are pytest classes. Their tests skip, with the reason, where the machine lacks what they need.
"""

from autotune.testing.engine_contract import EngineContract
from autotune.testing.runtime_contract import DeviceRuntimeContract

__all__ = ["DeviceRuntimeContract", "EngineContract"]
