"""A device runtime whose library is missing."""

from __future__ import annotations

from autotune.cuda.host import HostRuntime
from autotune.cuda.runtime import LibraryGap


class AbsentRuntime(HostRuntime):
    """What would be made if it could."""

    name = "absent"

    @staticmethod
    def gap() -> LibraryGap | None:
        return LibraryGap(missing="the package x is not installed", remedy="pip install x")
