"""The protocols in tensorrt_api.py, to which mypy holds the backend, are true of every release of which there is a dump."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'autotune[onnxruntime]'")

from assets.trt_double import World
from assets.trt_surface import RELEASES, Surface, parameters_of

ENGINES = Path(__file__).parents[3] / "autotune" / "engines"
BACKEND = sorted(ENGINES.glob("tensorrt_*.py"))
HAND_WRITTEN = ENGINES.parents[1] / "benchmarks" / "gpu_stages" / "hand_written.py"
"""The loop that the backend is measured against, for the same releases. mypy does not read it: see HELD."""
SOURCES = [*BACKEND, HAND_WRITTEN]
API = ENGINES / "tensorrt_api.py"
OURS = {"Member", "Trt", "RtxTrt"}
"""Protocols of ours: a member of any enumeration, and the module itself."""

WEAK = {"tensorrt-10.0.1", "tensorrt-10.3.0", "tensorrt-10.4.0", "tensorrt-10.16.1"}
RTX = {"tensorrt-rtx-1.7.1"}
GUARDED: dict[str, set[str]] = {
    "BuilderFlag.FP16": WEAK,
    "BuilderFlag.INT8": WEAK,
    "Trt.ComputeCapability": RTX,
    "Trt.CudaGraphStrategy": RTX,
    "ICudaEngine.get_device_memory_size_for_profile_v2": set(RELEASES) - {"tensorrt-10.0.1"},
    "IExecutionContext.set_device_memory": set(RELEASES) - {"tensorrt-10.0.1"},
}
"""What is asked for by `member` or `method` because some releases lack it, and the releases that have it."""

GUARD_CALLS = {
    ("member", "trt.BuilderFlag", "name"): {"BuilderFlag.FP16", "BuilderFlag.INT8"},  # from WEAK_FLAGS
    ("member", "trt", "'ComputeCapability'"): {"Trt.ComputeCapability"},
    ("member", "module()", "'ComputeCapability'"): {"Trt.ComputeCapability"},
    ("member", "member(trt, 'ComputeCapability')", "name"): {"Trt.ComputeCapability"},  # SM89 and its kin: by the target
    ("member", "known", "name"): {"Trt.ComputeCapability"},
    ("member", "trt", "'CudaGraphStrategy'"): {"Trt.CudaGraphStrategy"},
    ("method", "lane.shared.engine", "'get_device_memory_size_for_profile_v2'"): {
        "ICudaEngine.get_device_memory_size_for_profile_v2"
    },
    ("method", "context", "'set_device_memory'"): {"IExecutionContext.set_device_memory"},
    ("method", "execution", "'set_device_memory'"): {"IExecutionContext.set_device_memory"},
}
"""Every guarded access in the sources, as it is written, with the entries of GUARDED that it can mean."""

HELD = {"trt": "Trt", "runtime": "Runtime", "engine": "ICudaEngine", "execution": "IExecutionContext"}
"""What the hand-written loop calls TensorRT's objects, and their protocols."""


def protocols() -> dict[str, tuple[str, dict[str, list[str] | None]]]:
    """Class → (the protocols it extends, member → the parameters' names, None for an attribute), read from the source."""
    found = {}
    for node in ast.parse(API.read_text()).body:
        if isinstance(node, ast.ClassDef):
            members: dict[str, list[str] | None] = {}
            for part in node.body:
                if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
                    members[part.target.id] = None
                elif isinstance(part, ast.FunctionDef):
                    members[part.name] = [a.arg for a in part.args.args[1:]]
            found[node.name] = (" ".join(ast.unparse(b) for b in node.bases), members)
    return found


def touched() -> list[tuple[str, str, list[str] | None]]:
    """(class, member, parameters) of everything that the protocols let the backend touch."""
    return [
        (kind, name, parameters)
        for kind, (_, members) in protocols().items()
        if kind not in OURS
        for name, parameters in members.items()
    ]


def is_there(surface: Surface, kind: str, name: str, parameters: list[str] | None) -> bool:
    """True where the release has the member, and a signature that takes parameters of these names, in this order."""
    if kind in surface.enums:
        return name in surface.enums[kind].__members__
    if name not in surface.classes.get(kind, ()):
        return False
    if parameters is None:
        return True
    known = [[n for n, _, _ in parameters_of(s)] for s in surface.signatures[f"{kind}.{name}"]]
    return any(names[: len(parameters)] == parameters for names in known)


@pytest.mark.parametrize("release", RELEASES)
def test_what_the_backend_touches_is_in_every_release(release: str) -> None:
    """By name and by argument; what only TensorRT for RTX has stands in classes whose names begin with Rtx."""
    surface = Surface(release)
    wrong = []
    for kind, name, parameters in touched():
        only_rtx = kind.startswith("Rtx")
        if (surface.is_rtx or not only_rtx) and not is_there(surface, kind.removeprefix("Rtx"), name, parameters):
            wrong.append(f"{kind}.{name}({parameters})")
    assert wrong == []


@pytest.mark.parametrize("release", RELEASES)
def test_the_module_has_every_class_and_enumeration(release: str) -> None:
    """The attributes of the protocol `Trt`; of `RtxTrt` for TensorRT for RTX."""
    surface, known = Surface(release), protocols()
    wanted = {*known["Trt"][1], *(known["RtxTrt"][1] if surface.is_rtx else {})}
    assert wanted - {*surface.classes, *surface.enums} == set()


@pytest.mark.parametrize("release", RELEASES)
def test_what_is_guarded_is_in_just_the_releases_of_the_table(release: str) -> None:
    """A guard that every release passes, or none, is a mistake in the table or in the code."""
    surface = Surface(release)
    for entry, releases in GUARDED.items():
        kind, _, name = entry.partition(".")
        has = name in surface.enums if kind == "Trt" else is_there(surface, kind, name, None)
        assert has == (release in releases), entry


def calls_of_guards() -> set[tuple[str, str, str]]:
    """Every call of `member` and `method` in the sources: the function, and its two arguments as they are written."""
    found = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("member", "method"):
                found.add((node.func.id, ast.unparse(node.args[0]), ast.unparse(node.args[1])))
    return found


def test_every_guarded_access_is_in_the_table() -> None:
    """Whoever guards something new says which releases have it."""
    assert calls_of_guards() == set(GUARD_CALLS)
    assert set.union(*GUARD_CALLS.values()) == set(GUARDED)


def test_nothing_else_goes_around_the_protocols() -> None:
    """No getattr, hasattr or Any for TensorRT's objects: mypy could not see what is touched. The two guards are exceptions."""
    wrong = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in ("getattr", "hasattr", "setattr")
            ):
                wrong.append(f"{path.name}:{node.lineno}")
    lines = [i for i, line in enumerate(API.read_text().splitlines(), 1) if "= getattr(" in line]
    assert wrong == [f"{API.name}:{n}" for n in lines] and len(lines) == 2


def test_every_member_of_the_protocols_is_used() -> None:
    """A protocol that names what nobody touches would test nothing."""
    used = {
        node.attr
        for path in BACKEND
        if path != API
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
    }
    names = {name for kind, (_, members) in protocols().items() for name in members if not name.startswith("__")}
    assert names - used - {"ComputeCapability"} == set()  # asked for by `member`


def test_the_hand_written_loop_touches_what_the_protocols_have() -> None:
    """They are in every release; whatever else a release has, the loop asks for as the backend does, by `method`."""
    known, found = protocols(), set()
    for node in ast.walk(ast.parse(HAND_WRITTEN.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in HELD:
            found.add((HELD[node.value.id], node.attr))
    assert {kind for kind, _ in found} == set(HELD.values())
    assert {f"{kind}.{name}" for kind, name in found if name not in known[kind][1]} == set()


@pytest.mark.parametrize("release", RELEASES)
def test_the_double_has_no_more_than_the_release(release: str) -> None:
    """An unknown name, an unknown argument and a wrong type raise as in the bindings; so does a member of an enumeration."""
    world = World(release)
    log = type("Log", (world.module.ILogger,), {"log": lambda self, severity, text: None})()
    builder: Any = world.module.Builder(log)
    config = builder.create_builder_config()
    with pytest.raises(AttributeError, match="max_workspace_size"):
        config.max_workspace_size = 1
    with pytest.raises(TypeError, match="incompatible"):
        config.set_memory_pool_limit(world.module.MemoryPoolType.WORKSPACE, "1")
    with pytest.raises(TypeError, match="incompatible"):
        config.set_memory_pool_limit(pool=world.module.MemoryPoolType.WORKSPACE, size=1)
    with pytest.raises(TypeError, match="incompatible"):
        config.set_flag(world.module.MemoryPoolType.WORKSPACE)
    assert hasattr(world.module.BuilderFlag, "FP16") == (release in WEAK)
    assert hasattr(config, "set_compute_capability") == world.surface.is_rtx
    assert hasattr(world.module, "IRuntimeConfig") == (release not in WEAK - {"tensorrt-10.16.1"})
    with pytest.raises(TypeError, match=r"ILogger\.__init__"):
        world.module.Builder(object())
