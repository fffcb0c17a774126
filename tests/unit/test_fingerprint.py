"""Digests: equal contents have equal names on every machine, different contents different ones."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune import fingerprint
from autotune.fingerprint import (
    KEY_LENGTH,
    DeviceFingerprint,
    canonical_json,
    cpu_fingerprint,
    digest_of,
    file_digest,
    library_version,
    usable_cores,
)


def test_canonical_json_by_hand() -> None:
    """Sorted keys, no blanks, text as it is: the very bytes that are digested."""
    assert canonical_json({"b": [1, 2.5, None], "a": {"ü": True}}) == '{"a":{"ü":true},"b":[1,2.5,null]}'


@given(st.dictionaries(st.text(), st.integers() | st.text()))
def test_the_order_of_keys_does_not_matter(values: dict[str, int | str]) -> None:
    """Two dictionaries that are equal have one digest."""
    assert digest_of(dict(reversed(values.items()))) == digest_of(values)


def test_a_digest_is_the_beginning_of_sha256() -> None:
    """Of the canonical JSON, so that other programs can compute it too; numbers and text stay apart."""
    assert digest_of({"a": 1}) == hashlib.sha256(b'{"a":1}').hexdigest()[:KEY_LENGTH]
    assert digest_of({"a": 1}) != digest_of({"a": "1"}) and digest_of([]) != digest_of({})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_without_json_are_refused(value: float) -> None:
    """NaN is not equal to itself and cannot name anything."""
    with pytest.raises(ValueError, match="JSON"):
        digest_of({"a": value})


def test_other_objects_are_refused() -> None:
    """A path or an array would be named by its text, which is not its content."""
    with pytest.raises(TypeError):
        digest_of({"a": Path("x")})


def test_file_digest_is_plain_sha256(tmp_path: Path) -> None:
    """What `sha256sum` prints, for an empty file too."""
    path = tmp_path / "f"
    path.write_bytes(b"")
    assert file_digest(path) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    path.write_bytes(b"abc")
    assert file_digest(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_library_that_is_not_installed_has_no_version() -> None:
    """And the question imports nothing."""
    assert library_version("no-such-distribution-anywhere") is None
    assert library_version("numpy") is not None


def test_cpu_fingerprint_describes_this_machine() -> None:
    """Versions of what is installed only; the key changes with any of them."""
    found = cpu_fingerprint(("numpy", "no-such-distribution-anywhere"))
    assert found.kind == "cpu" and found.cores == usable_cores() >= 1 and found.memory_mib > 0
    assert set(found.versions) == {"numpy"} and found.device.endswith(f"× {found.cores}")
    other = DeviceFingerprint(
        device=found.device, kind="cpu", cores=found.cores, memory_mib=found.memory_mib, system=found.system,
        versions={"numpy": "0"},
    )  # fmt: skip
    assert other.key != found.key


XEON = """processor\t: 0
model name\t: Intel(R) Xeon(R) Processor
flags\t\t: fpu avx512f sse2 avx2 amx_tile amx_bf16 avx512_bf16 hypervisor
processor\t: 1
flags\t\t: fpu
"""
GRAVITON = "processor\t: 0\nFeatures\t: fp asimd asimddp sve bf16 i8mm\nCPU part\t: 0xd40\n"
EPYC = "model name\t: AMD EPYC 7763\nflags\t\t: fpu sse2 avx2 sme sev\n"
""" `sme` is encrypted memory there, which a BIOS turns off, and a set of instructions on Arm."""


@pytest.mark.parametrize(
    ("told", "model", "instructions"),
    [
        (XEON, "Intel(R) Xeon(R) Processor", ("amx_bf16", "avx2", "avx512_bf16", "avx512f", "sse2")),
        (GRAVITON, None, ("asimd", "asimddp", "bf16", "i8mm", "sve")),
        (EPYC, "AMD EPYC 7763", ("avx2", "sse2")),
        ("", None, ()),
    ],
)
def test_instructions_by_which_engines_choose_kernels(
    told: str, model: str | None, instructions: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the first CPU, on x86 and Arm, in a fixed order; none where the system tells nothing."""
    (tmp_path / "cpuinfo").write_text(told)
    monkeypatch.setattr(fingerprint, "_CPU_INFO", tmp_path / ("cpuinfo" if told else "missing"))
    found = cpu_fingerprint.__wrapped__()
    assert found.instructions == instructions
    assert model is None or found.device.startswith(f"{model} × ")


PLAIN = DeviceFingerprint(device="Xeon × 2", kind="cpu", cores=2, memory_mib=9, system="Linux", instructions=("avx2",))
AMX = replace(PLAIN, instructions=("amx_bf16", "avx2"))
OLDER = replace(PLAIN, instructions=())


def test_cpus_of_one_name_are_told_apart_by_instructions() -> None:
    """With AMX and without they are two devices, whose measurements are no comparison."""
    assert not PLAIN.is_same_device(AMX) and not PLAIN.is_comparable(AMX) and PLAIN.key != AMX.key
    assert AMX.device_class == "Xeon × 2 with amx_bf16, avx2" != PLAIN.device_class
    assert PLAIN.is_comparable(replace(PLAIN, cores=4, system="another kernel"))


def test_what_an_earlier_version_stored_goes_by_its_name() -> None:
    """It knew of no instructions, and whoever updates must be able to go on."""
    before = {k: v for k, v in asdict(OLDER).items() if k != "instructions"}
    assert DeviceFingerprint.from_json(before) == OLDER and OLDER.device_class == "Xeon × 2"
    assert OLDER.is_comparable(AMX) and AMX.is_comparable(OLDER)
    assert not OLDER.is_comparable(replace(AMX, device="Xeon × 4"))


def test_a_device_that_tells_none_keeps_its_key() -> None:
    """What a GPU or a simulated device measured is stored under the key that it always had."""
    gpu = replace(OLDER, device="V100", kind="cuda")
    assert gpu.key == "f142a2ccb16f2beb8d968d28", "as commit 242b5ca gave it"
    assert gpu.identity == {"device": "V100", "versions": {}}


def test_a_fingerprint_comes_back_from_json() -> None:
    """Equal, with its key."""
    back = DeviceFingerprint.from_json(json.loads(json.dumps(asdict(AMX))))
    assert back == AMX and back.key == AMX.key
    with pytest.raises(TypeError):
        DeviceFingerprint.from_json({**asdict(AMX), "colour": "red"})
