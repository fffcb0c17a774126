"""A study holds one kind of device; over several it is in parts that never mix."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from assets import fake_study as fake

from autotune.errors import SpecError
from autotune.fingerprint import DeviceFingerprint
from autotune.spec.load import load_spec
from autotune.store.repository import open_store
from autotune.study.kinds import part_name, parts_of
from autotune.study.loop import register_study
from autotune.study.plan import make_plan

V100 = DeviceFingerprint(
    device="Tesla V100 (sm_70)", kind="cuda", cores=8, memory_mib=16, system="", versions={"nvidia-driver": "570.86.15"}
)


def test_a_class_is_model_limits_and_branch() -> None:
    """Another host, core count or driver patch is the same class; another model or branch is not."""
    assert V100.device_class == replace(V100, cores=4, system="x", versions={"nvidia-driver": "570.1"}).device_class
    assert V100.device_class != replace(V100, versions={"nvidia-driver": "580.1"}).device_class
    assert V100.device_class != replace(V100, device="A100").device_class
    assert part_name("s", V100) == part_name("s", replace(V100, cores=4)) != part_name("s", replace(V100, device="A100"))


def test_another_kind_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    """A worker on another kind of device is told both devices and what to do, and the study stays as it was."""
    plan = make_plan(load_spec(fake.write_study(tmp_path), {"device": "fake:0"}))
    store = open_store(plan.spec.storage)
    register_study(plan, store, 5)
    same = make_plan(load_spec(tmp_path / "study.yaml", {"device": "fake:3"}))
    register_study(same, store, 5)
    other = make_plan(load_spec(tmp_path / "study.yaml", {"device": "cpu"}))
    with pytest.raises(SpecError, match=r"began on simulated device.*device_kinds: several"):
        register_study(other, store, 9)
    assert [s.target_trials for s in store.studies()] == [5]
    make_plan(load_spec(tmp_path / "study.yaml", {"device": "cpu"}))  # deselects the simulated device


def test_fewer_cores_are_another_kind_and_may_come_from_building_ahead(tmp_path: Path) -> None:
    """The same CPU with one core more: the section that keeps some for builds is named."""
    plan = make_plan(load_spec(fake.write_study(tmp_path), {"device": "cpu"}))
    store = open_store(plan.spec.storage)
    register_study(plan, store, 5)
    model, _, cores = plan.fingerprint.device.partition(" × ")
    more = replace(plan, fingerprint=replace(plan.fingerprint, device=f"{model} × {int(cores) + 1}"))
    with pytest.raises(SpecError, match="as many cores as then: `build_ahead`"):
        register_study(more, store, 5)


@pytest.mark.parametrize(
    ("here", "said"),
    [
        (("avx2", "avx512f"), "without amx_bf16, unlike that device"),
        (("amx_bf16", "amx_int8", "avx2", "avx512f"), "with amx_int8, unlike that device"),
        (("avx2", "avx512_vnni", "avx512f"), "without amx_bf16 and with avx512_vnni, unlike that device"),
    ],
)
def test_a_cpu_of_the_same_name_with_other_instructions_is_another_kind(
    here: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    """Clouds give CPUs with and without AMX one name; the message says what differs, not all that both have."""
    plan = make_plan(load_spec(fake.write_study(tmp_path), {"device": "cpu"}))
    store = open_store(plan.spec.storage)
    plan = replace(plan, fingerprint=replace(plan.fingerprint, instructions=("amx_bf16", "avx2", "avx512f")))
    register_study(plan, store, 5)
    register_study(plan, store, 6)
    register_study(replace(plan, fingerprint=replace(plan.fingerprint, instructions=())), store, 7)
    with pytest.raises(SpecError, match=f"{said} on which the study fake began") as caught:
        register_study(replace(plan, fingerprint=replace(plan.fingerprint, instructions=here)), store, 9)
    assert "build_ahead" not in str(caught.value) and [s.target_trials for s in store.studies()] == [7]


def test_kinds_are_kept_in_parts(tmp_path: Path) -> None:
    """With device_kinds: several each kind has a study of its own, which one name finds."""
    file = fake.write_study(tmp_path, ("seed: 1", "seed: 1\ndevice_kinds: several"))
    plans = [make_plan(load_spec(file, {"device": device})) for device in ("fake:0", "fake:1", "cpu")]
    store = open_store(plans[0].spec.storage)
    rows = [register_study(plan, store, 5) for plan in plans]
    assert rows[0].id == rows[1].id != rows[2].id
    assert {r.name for r in parts_of("fake", store)} == {rows[0].name, rows[2].name}
    assert parts_of("fak", store) == []


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ("devices: [cpu, cpu]", "devices[1]"),
        ("device: cpu\ndevices: [cpu]", "device"),
        ("devices: []", "devices"),
        ("devices: [gpu]", "devices[0]"),
        ("price_per_hour: 1\nprices: study.yaml", "prices"),
    ],
)
def test_faults_of_devices_are_placed(change: str, key: str, tmp_path: Path) -> None:
    """What cannot be is refused at its line."""
    with pytest.raises(SpecError) as caught:
        load_spec(fake.write_study(tmp_path, ("seed: 1", f"seed: 1\n{change}")))
    assert [(p.key, p.line is not None) for p in caught.value.problems] == [(key, True)]


def test_parts_are_not_named_by_users(tmp_path: Path) -> None:
    """`@` is what makes a part."""
    with pytest.raises(SpecError, match="without @"):
        load_spec(fake.write_study(tmp_path, ("study: fake", "study: fake@x")))
