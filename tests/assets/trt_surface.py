"""The Python surface of one release of TensorRT, from its API dump: what it lacks raises, arguments are bound as there.

`tests/assets/trt_api/` holds the dumps (its README says how they were made). A double is written as plain classes with all that
any release has; `Surface.released` cuts a class down to one release. A name that the release lacks raises AttributeError, an
argument that it does not take TypeError, and what the release has but the double does not NotImplementedError.
"""

from __future__ import annotations

import enum
import functools
import json
import re
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

DUMPS = Path(__file__).with_name("trt_api")
RELEASES = tuple(
    sorted((p.stem for p in DUMPS.glob("*.json")), key=lambda n: ("rtx" in n, [int(d) for d in re.findall(r"\d+", n)]))
)
"""Such as "tensorrt-10.4.0", the oldest first, TensorRT for RTX last."""


class PybindEnum(enum.Enum):
    """As pybind11 makes them: int() works, and numbers are no members."""

    def __int__(self) -> int:
        return int(self.value)


class Surface:
    """One release. `module` is what its import gives, once the double has put its classes there."""

    def __init__(self, release: str) -> None:
        document = json.loads((DUMPS / f"{release}.json").read_text())
        self.release, self.version = release, document["version"]
        self.is_rtx = "rtx" in release
        self.classes: dict[str, list[str]] = document["classes"]
        self.signatures: dict[str, list[str]] = document["signatures"]
        self.enums = {name: PybindEnum(name, members) for name, members in document["enums"].items()}
        self.module: Any = ModuleType("tensorrt_rtx" if self.is_rtx else "tensorrt")
        self.module.__version__ = self.version
        self.module.__spec__ = ModuleSpec(self.module.__name__, None)
        for name, kind in self.enums.items():
            if "." not in name:
                setattr(self.module, name, kind)

    def released(self, name: str, behaviour: type) -> type:
        """`behaviour` as the release's class `name`, which is then in the module."""
        surface, allowed = self, {*self.classes[name]}

        class Released(behaviour):  # type: ignore[misc, valid-type]  # the base is an argument
            def __getattribute__(self, attribute: str) -> Any:
                if attribute.startswith("_"):
                    return super().__getattribute__(attribute)
                if attribute not in allowed:
                    raise AttributeError(f"{surface.release}: {name} has no attribute {attribute!r}")
                try:
                    found = super().__getattribute__(attribute)
                except AttributeError:
                    raise NotImplementedError(f"the double of {name} lacks {attribute}") from None
                return surface.bound(f"{name}.{attribute}", found) if callable(found) else found

            def __setattr__(self, attribute: str, value: Any) -> None:
                if not attribute.startswith("_") and attribute not in allowed:
                    raise AttributeError(f"{surface.release}: {name} has no attribute {attribute!r}")
                super().__setattr__(attribute, value)

        Released.__name__ = Released.__qualname__ = name
        setattr(self.module, name, Released)
        return Released

    def bound(self, key: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, called with arguments that one of the release's signatures of `key` takes, as it takes them."""

        @functools.wraps(function)
        def call(*given: Any, **named: Any) -> Any:
            signatures = self.signatures[key]
            for signature in signatures:
                arguments = self._arguments(signature, given, named)
                if arguments is not None:
                    return function(**arguments)
            raise TypeError(f"{self.release}: incompatible arguments {given} {named} for {' | '.join(signatures)}")

        return call

    def _arguments(self, signature: str, given: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any] | None:
        parameters = parameters_of(signature)
        names = [name for name, _, _ in parameters]
        if len(given) > len(names) or not set(named) <= set(names[len(given) :]):
            return None
        found = {**dict(zip(names, given, strict=False)), **named}
        for name, kind, optional in parameters:
            if name not in found:
                if not optional:
                    return None
            elif not self._fits(found[name], kind):
                return None
        return found

    def _fits(self, value: Any, kind: str) -> bool:
        simple: dict[str, Any] = {
            "int": (int, np.integer), "typing.SupportsInt": (int, np.integer), "str": str, "bool": bool,
            "float": (int, float), "typing.SupportsFloat": (int, float), "tuple": tuple, "list": list,
            "buffer": (bytes, bytearray, memoryview), "typing_extensions.Buffer": (bytes, bytearray, memoryview),
        }  # fmt: skip
        if kind in simple:
            return isinstance(value, simple[kind])
        if "::" in kind or kind == "object":
            return True
        name = kind.split(".", 1)[1]
        if name == "Dims":
            return all(isinstance(n, (int, np.integer)) for n in value)
        wanted = self.enums.get(name) or getattr(self.module, name, None)
        return wanted is not None and isinstance(value, wanted)


def parameters_of(signature: str) -> list[tuple[str, str, bool]]:
    """Name, type and whether it may be left out, of each parameter but self: "f(self: C, a: int, b: str = None) -> bool"."""
    inside = re.sub(r"<[^>]*>", "…", signature[signature.index("(") + 1 : signature.rindex(") ->")])
    found = []
    for part in re.split(r", (?=\w+: )", inside):
        name, _, rest = part.partition(": ")
        kind, equals, _ = rest.partition(" = ")
        if name and name != "self":
            found.append((name, kind, bool(equals)))
    return found
