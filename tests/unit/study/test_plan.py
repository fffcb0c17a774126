"""make_plan: what a study will do on this machine, or why it cannot."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pynvml
import pytest
from assets.fake_nvml import FakeGpu, install
from study_samples import SPLIT, candidate, study

from autotune.candidate import Choices, Range
from autotune.cuda.select import VARIABLE
from autotune.devices import gpu as devices
from autotune.engines.fake import FakeBackend
from autotune.errors import EnvironmentProblem, SpecError
from autotune.registry import ENGINES, RUNTIMES
from autotune.spec.positions import Positions
from autotune.study.cost_aware import favoured_priors
from autotune.study.plan import make_plan

FORMATS = ("fp32", "fp16", "int8")


class Absent:
    """An engine whose library is missing."""

    name = "absent"
    build_knobs = run_knobs = frozenset({"batch_size"})
    preload = ()

    def capabilities(self) -> Any:
        from autotune.engines.protocol import Capabilities

        return Capabilities(available=False, missing="the package absent is not installed", remedy="pip install absent")


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ENGINES, "_paths", {"fake": ENGINES._paths["fake"]})
    ENGINES.add("absent", f"{__name__}:Absent")


def test_the_reference_is_the_first_engines_defaults() -> None:
    """fp32, unpruned, one sample and one stream, although the study's own space begins at two."""
    plan = make_plan(study(space={"streams": Range(low=2, high=4)}))
    assert plan.reference == candidate(streams=1, worker_threads=1)
    assert plan.fingerprint.kind == "cpu" and plan.fingerprint.versions.keys() == {"numpy"}


def test_priors_begin_with_the_defaults_and_are_completed() -> None:
    """A prior that names two knobs takes the others from the engine's defaults; one that cannot run here is left out."""
    space = {"precision": Choices(values=("fp32", "fp16")), "streams": Choices(values=(1, 2))}
    priors = ({"precision": "fp16", "streams": 2}, {"precision": "bf16"}, {"streams": 2, "memory_pool_mib": 64})
    plan = make_plan(study(space=space, priors=priors))
    default = candidate(streams=1, worker_threads=1)
    assert plan.priors == (
        default,
        candidate(precision="fp16", streams=2, worker_threads=1),
        candidate(streams=2, worker_threads=1),  # memory_pool_mib is not in this study's space
    )
    assert plan.certain == plan.priors, "no file was read, so all of them are the study's own"


def test_a_presets_priors_are_not_certain() -> None:
    """Of three priors the file names the first: it and what is the reference are tried first, the preset's may be weighed."""
    space = {"precision": Choices(values=("fp32", "fp16")), "streams": Choices(values=(1, 2, 3))}
    priors = ({"streams": 2}, {"streams": 3}, {"precision": "fp16"})
    plan = make_plan(study(space=space, priors=priors).placed(Positions(), 1))
    assert len(plan.priors) == 4
    assert plan.certain == (candidate(streams=1, worker_threads=1), candidate(streams=2, worker_threads=1))


class SecondFake(FakeBackend):
    """The same under another name."""

    name = "second-fake"


@pytest.fixture
def second(absent: None) -> None:
    ENGINES.add("second-fake", f"{__name__}:SecondFake")


def test_another_engines_defaults_are_certain_only_where_the_file_names_them(second: None) -> None:
    """They are a prior all the same, which a strategy may weigh."""
    engines = ("fake", "second-fake")
    first, other = (candidate(engine=name, streams=1, worker_threads=1) for name in engines)
    preset = ({"streams": 2},)
    plan = make_plan(study(engines=engines, priors=preset).placed(Positions(), 0))
    assert plan.priors[:2] == (first, other) and plan.certain == (first,)
    named = ({"engine": "second-fake", "streams": 1}, *preset)
    assert make_plan(study(engines=engines, priors=named).placed(Positions(), 1)).certain == (first, other)


def test_where_the_reference_is_no_prior_another_is_certain(second: None) -> None:
    """With an open memory pool the reference is none of the space, and a search begins with the next engine's defaults."""
    space = {"memory_pool_mib": Range(low=64, high=4096, log=True), "worker_threads": Choices(values=(1, 2))}
    plan = make_plan(study(engines=("fake", "second-fake"), space=space).placed(Positions(), 0))
    assert [c.engine for c in plan.certain] == ["second-fake"]
    priors = ({"worker_threads": 2}, {"precision": "fp16"})
    alone = make_plan(
        study(space=space | {"precision": Choices(values=("fp32", "fp16"))}, priors=priors).placed(Positions(), 0)
    )
    assert [(c.precision, c.worker_threads) for c in alone.certain] == [("fp32", 2)], (
        "the first of the preset's, not a random draw"
    )


def test_the_reference_is_no_prior_where_only_an_open_knob_would_be_closed() -> None:
    """No memory pool and the largest pool are one measurement; one stream that becomes two is another configuration."""
    pool: dict[str, Choices | Range] = {
        "memory_pool_mib": Range(low=64, high=4096, log=True),
        "worker_threads": Choices(values=(1, 2)),
    }
    prior = ({"worker_threads": 2},)
    assert make_plan(study(space=pool, priors=prior)).priors == (candidate(streams=1, worker_threads=2),)
    moved = make_plan(study(space=pool | {"streams": Range(low=2, high=4)}, priors=prior))
    assert moved.priors[0] == moved.reference


class OnGpu(Absent):
    """An engine for NVIDIA GPUs that can run."""

    name = "on-gpu"

    def capabilities(self) -> Any:
        from autotune.engines.protocol import Capabilities

        return Capabilities(available=True, device="cuda", precisions=("fp32",), distributions=("numpy",))

    def defaults(self) -> Any:
        return {"batch_size": 1}


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch, absent: None) -> None:
    ENGINES.add("on-gpu", f"{__name__}:OnGpu")


def test_a_gpu_without_a_driver_stops_the_study(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 3, what is missing and the command that helps, whatever the engines are."""
    install(monkeypatch, init=pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)
    for engines in (None, ("fake",)):
        with pytest.raises(EnvironmentProblem, match=r"no NVIDIA driver.*nvidia-smi.*--gpus all") as caught:
            make_plan(study(device="cuda:0", engines=engines))
        assert caught.value.exit_code == 3


def test_a_gpu_without_an_engine_stops_the_study(monkeypatch: pytest.MonkeyPatch, absent: None) -> None:
    """The GPU is there and named, the engine is not: the line that installs one."""
    install(monkeypatch, FakeGpu())
    with pytest.raises(EnvironmentProblem, match=r"no inference engine can run on this machine's Tesla V100.*autotune\[cuda\]"):
        make_plan(study(device="cuda:0", engines=None))


def test_a_study_takes_the_engines_of_its_device(monkeypatch: pytest.MonkeyPatch, on_gpu: None) -> None:
    """auto is the GPU where an engine can use it; the lock is that of this one GPU, so that two GPUs measure at once."""
    install(monkeypatch, FakeGpu(), FakeGpu(uuid="GPU-bbbb"))
    for device, uuid in (("auto", "GPU-aaaa"), ("cuda:1", "GPU-bbbb")):
        plan = make_plan(study(device=device, engines=None))
        assert list(plan.backends) == ["on-gpu"] and plan.fingerprint.kind == "cuda" and plan.lock_name == f"cuda-{uuid}"
    cpu = make_plan(study(device="cpu", engines=("fake",)))
    assert cpu.fingerprint.kind == "cpu" and cpu.lock_name == "cpu"


def test_on_a_v100_the_priors_in_int8_come_last(monkeypatch: pytest.MonkeyPatch, on_gpu: None) -> None:
    """int8 by DP4A is searched, but after fp16 and without favour, whatever the study's order; on a T4 it stays."""
    monkeypatch.setattr(
        OnGpu, "capabilities", lambda self: replace(Absent().capabilities(), available=True, device="cuda", precisions=FORMATS)
    )
    space = {"precision": Choices(values=FORMATS)}
    priors = ({"precision": "int8", "batch_size": 8}, {"precision": "fp16", "batch_size": 64})
    for card, order in ((FakeGpu(), ["fp16", "int8"]), (FakeGpu(name="Tesla T4", capability=(7, 5)), ["int8", "fp16"])):
        install(monkeypatch, card)
        devices._all_gpus_once.cache_clear()
        data = {"validation": SPLIT, "calibration": SPLIT}
        plan = make_plan(study(device="cuda:0", engines=("on-gpu",), space=space, priors=priors, data=data))
        assert [c.precision for c in plan.priors if c.precision != "fp32"] == order
        doubted = order[-1] == "int8"
        assert ("DP4A" in plan.doubts.get("int8", "")) is doubted
        assert ("int8" in {c.precision for c in favoured_priors(plan)}) is not doubted


def test_an_engine_of_another_device_is_the_studys_fault(monkeypatch: pytest.MonkeyPatch, on_gpu: None) -> None:
    """A study measures on one device: its engines run there, or it is refused with what to change."""
    install(monkeypatch, FakeGpu())
    with pytest.raises(SpecError, match=r"engines\[0\]: found 'fake', which runs on cpu.*device: cpu"):
        make_plan(study(device="cuda:0"))
    with pytest.raises(SpecError, match=r"'on-gpu', which runs on cuda"):
        make_plan(study(device="cpu", engines=("on-gpu",)))


def test_a_named_engine_that_is_missing_stops_the_study(absent: None) -> None:
    """It was asked for, so going on without it would be another study."""
    with pytest.raises(EnvironmentProblem, match=r"absent: the package absent is not installed.*pip install absent"):
        make_plan(study(engines=("fake", "absent")))


def test_without_named_engines_the_fake_is_never_taken(absent: None) -> None:
    """No number of the fake may be shown as a measurement: with nothing else there is no study."""
    with pytest.raises(EnvironmentProblem, match=r"no inference engine can run on this machine.*absent"):
        make_plan(study(engines=None))


def test_a_scheme_that_a_backend_cannot_name_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The backend of somebody else's breaks in its trials, not in the plan of a study with others."""
    fake = ENGINES.load("fake")
    monkeypatch.setattr(fake, "scheme", lambda self, precision: None)
    space = make_plan(
        study(data={"validation": SPLIT, "calibration": SPLIT}, space={"precision": Choices(values=("int8",))})
    ).space
    assert space.graph_of("fake", "int8") == "int8 as fake wants it"


def test_an_unknown_engine_is_the_studys_fault() -> None:
    """The message lists those that are known."""
    with pytest.raises(SpecError, match="onnxruntime"):
        make_plan(study(engines=("tensorflow",)))


def test_energy_needs_a_counter(monkeypatch: pytest.MonkeyPatch) -> None:
    """An objective that cannot be measured here stops the study before it begins, with the counter's own reason."""
    from autotune.study import plan as module
    from autotune.telemetry.host import FunctionProbe

    def unreadable() -> float:
        raise PermissionError("energy_uj: permission denied")

    monkeypatch.setattr(module, "host_probes", lambda: (FunctionProbe("cpu_energy_j", "J", unreadable),))
    with pytest.raises(EnvironmentProblem, match="permission denied"):
        make_plan(study(objectives=("accuracy", "energy")))


def test_a_study_names_the_library_that_drives_its_gpu(monkeypatch: pytest.MonkeyPatch, on_gpu: None) -> None:
    """What it names is used by the trials' processes or refused with the line to install it; on a CPU it means nothing."""
    install(monkeypatch, FakeGpu())
    monkeypatch.setenv(VARIABLE, "host")
    make_plan(study(device="cuda:0", engines=("on-gpu",)))
    assert os.environ[VARIABLE] == "host"  # the study says auto
    monkeypatch.setattr(RUNTIMES, "_paths", {**RUNTIMES._paths, "torch": "assets.absent_runtime:AbsentRuntime"})
    with pytest.raises(EnvironmentProblem, match="the CUDA runtime torch: the package x is not installed") as told:
        make_plan(study(device="cuda:0", engines=("on-gpu",), cuda_runtime="torch"))
    assert told.value.remedy == "pip install x" and os.environ[VARIABLE] == "torch"
    make_plan(study(device="cpu", engines=("fake",), cuda_runtime="torch"))
