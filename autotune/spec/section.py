"""Section: what every section of a study file has in common, which is that it knows where it was read."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, PrivateAttr

from autotune.errors import SpecProblem
from autotune.spec.positions import Positions


class Section(BaseModel):
    """Frozen, with no unknown key; a fault found later can still name its line."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)

    # Where the section was read, so that a stage that finds a fault later can still name the line; not in the JSON.
    _positions: Positions = PrivateAttr(default=Positions())
    _key: str = PrivateAttr(default="")

    def problem(self, key: str, found: str, allowed: str) -> SpecProblem:
        """A fault at `key` of this section ("" for the section itself), with the file and line it was read from, if any."""
        dotted = ".".join(part for part in (self._key, key) if part)
        return self._positions.problem(dotted, found, allowed)

    def placed_at(self, positions: Positions, key: str) -> None:
        """This section and those inside it know that they were read at `key`. Defaults, which are shared, are left alone."""
        self._positions, self._key = positions, key
        for name in self.model_fields_set:
            inner = getattr(self, name)
            if isinstance(inner, Section):
                inner.placed_at(positions, f"{key}.{name}" if key else name)
