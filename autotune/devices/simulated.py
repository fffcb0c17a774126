"""The simulated device `fake:N`: one of several equal devices on a machine that has none; only the engine `fake` runs on it.

Like a GPU it is selected for a process and for those that it starts, so that an engine needs no setting for it.
"""

from __future__ import annotations

import os

_VARIABLE = "AUTOTUNE_FAKE_DEVICE"
NAME = "simulated device"
"""What its fingerprint calls it; nobody must take its numbers for a machine's."""


def select_simulated(device: str) -> None:
    """The device that `device`, "fake" or "fake:N", means is this process's and its children's; any other text selects none."""
    if device.partition(":")[0] == "fake":
        os.environ[_VARIABLE] = device.partition(":")[2] or "0"
    else:
        os.environ.pop(_VARIABLE, None)


def simulated_number() -> int | None:
    """The number of the selected device; None where none is."""
    found = os.environ.get(_VARIABLE)
    return None if found is None else int(found)
