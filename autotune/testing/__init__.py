"""What authors of plug-ins inherit: EngineContract for an engine, LayersContract for one that tells its layers,
DeviceRuntimeContract for a way to drive a GPU.

    class TestMyEngine(EngineContract):
        def backend(self) -> Backend:
            return MyBackend()

All are pytest classes. Their tests skip, with the reason, where the machine lacks what they need.
"""

from autotune.testing.engine_contract import EngineContract
from autotune.testing.layers_contract import LayersContract
from autotune.testing.runtime_contract import DeviceRuntimeContract

__all__ = ["DeviceRuntimeContract", "EngineContract", "LayersContract"]
