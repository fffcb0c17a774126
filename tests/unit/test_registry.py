"""The registry: names become objects when they are asked for, and an unknown name is answered with the known ones."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint
from typing import Any

import pytest

from autotune import registry
from autotune.errors import SpecError
from autotune.registry import ENGINES, EXPORTERS, METRICS, Registry, load_object

GROUP = "autotune.nothing"


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another distribution that registers two names, one of them ours."""
    found = [EntryPoint(name=n, value=v, group=GROUP) for n, v in (("theirs", "math:tau"), ("ours", "math:e"))]
    monkeypatch.setattr(registry, "entry_points", lambda group: [e for e in found if e.group == group])


def made() -> Registry:
    return Registry("things", GROUP, {"ours": "math:pi", "broken": "no_such_module_here:x"})


def test_names_are_known_without_loading(outside: None) -> None:
    """Ours first, each once; a module that cannot be imported does no harm until it is asked for."""
    assert made().names() == ("ours", "broken", "theirs")
    with pytest.raises(ImportError):
        made().load("broken")


def test_an_outsider_is_not_among_what_runs_unasked(outside: None) -> None:
    """Installing a distribution is no consent to run it: a study gets its engine only by naming it."""
    assert made().own_names() == ("ours", "broken")


def test_ours_goes_before_theirs(outside: None) -> None:
    """An outsider cannot replace a built-in engine by taking its name."""
    import math

    assert made().load("ours") is math.pi and made().load("theirs") is math.tau


def test_an_unknown_name_is_told_with_the_known_ones(outside: None) -> None:
    """Key, what was found, what is allowed."""
    with pytest.raises(SpecError, match="things: found 'colour'; allowed: ours, broken, theirs"):
        made().load("colour")


def test_names_may_be_added() -> None:
    """By programs that embed autotune."""
    things = made()
    things.add("new", "math:inf")
    assert things.load("new") == float("inf")


def test_dotted_attributes_are_followed() -> None:
    """module:Class.method is a name too."""
    assert load_object("collections:OrderedDict.fromkeys")("ab") == {"a": None, "b": None}


@pytest.mark.parametrize("known", [ENGINES, METRICS, EXPORTERS], ids=lambda r: str(r.kind))
def test_every_built_in_name_loads(known: Registry) -> None:
    """No line of the registries points to nothing."""
    for name in known.names():
        assert callable(known.load(name))


def test_registries_import_nothing_until_asked() -> None:
    """Listing every name loads no engine, no torch and no Optuna."""
    program = (
        "import sys; from autotune.registry import *; [r.names() for r in (ENGINES, METRICS, EXPORTERS)];"
        "print(sorted({'torch', 'optuna', 'onnx', 'onnxruntime', 'openvino', 'sqlalchemy', 'numpy'} & set(sys.modules)))"
    )
    ended: Any = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert ended.stdout.strip() == "[]"
