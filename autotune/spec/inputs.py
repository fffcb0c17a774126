"""InputSpec: what a model wants at one of its inputs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSpec:
    """`shape` with the batch first; None where any size will do. `dtype`: numpy's name, such as float32."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str

    @property
    def sample_shape(self) -> tuple[int | None, ...]:
        """The shape of one sample, without the batch."""
        return self.shape[1:]

    def __str__(self) -> str:
        sizes = ", ".join("any" if size is None else str(size) for size in self.sample_shape)
        return f"{self.name}: {self.dtype} [{sizes}] per sample"
