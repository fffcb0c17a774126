"""The GPUs that engines are built for where none is at hand."""

from __future__ import annotations

import pytest

from autotune.devices.build_target import BuildTarget, build_target, parse_target, set_build_target
from autotune.devices.gpu import device_fingerprint, device_kind
from autotune.errors import SpecError


@pytest.mark.parametrize("word", ["8.9", "89", "sm_89", "SM89", " 8.9 "])
def test_a_capability_is_written_as_people_write_it(word: str) -> None:
    """nvidia-smi's 8.9, the compiler's sm_89."""
    assert parse_target([word]) == BuildTarget(capabilities=((8, 9),))


def test_capabilities_are_sorted_and_told_once() -> None:
    """12.0 comes after 8.9, as numbers and not as text."""
    target = parse_target(["12.0", "8.9", "8.9"])
    assert target.names == ("SM89", "SM120") and str(target) == "sm_89, sm_120"
    assert str(BuildTarget()) == "sm_80 and later"


@pytest.mark.parametrize("word", ["", "ada", "8", "8.9.1", "-8.9"])
def test_what_is_no_capability_is_refused(word: str) -> None:
    """With the form that is meant."""
    with pytest.raises(SpecError, match=r"such as 8\.9"):
        parse_target([word])


def test_a_target_goes_to_the_processes_that_are_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the environment; the device of a record is then the target, and never the CPU that built."""
    monkeypatch.setenv("AUTOTUNE_BUILD_TARGET", "")
    monkeypatch.delenv("AUTOTUNE_BUILD_TARGET")
    assert build_target() is None
    for target, text in ((BuildTarget(capabilities=((8, 6), (8, 9))), "sm_86, sm_89"), (BuildTarget(), "sm_80 and later")):
        set_build_target(target)
        assert build_target() == target
        assert device_kind() == "cuda" and device_fingerprint("cuda").device == f"built ahead of time for {text}"


def test_a_precision_must_run_on_every_target() -> None:
    """fp8 begins at 8.9, bf16 at 8.0; told nothing, the builder builds for 8.0 and later."""
    asked = ("fp16", "bf16", "fp8")
    assert set(parse_target(["7.5", "8.9"]).refused(asked)) == {"bf16", "fp8"}
    assert set(parse_target(["8.9"]).refused(asked)) == set()
    assert "sm_80" in BuildTarget().refused(asked)["fp8"] and "bf16" not in BuildTarget().refused(asked)
