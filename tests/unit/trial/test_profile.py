"""profile_trial and TrialProcess.profile: an engine under its profiler, whose end is not the caller's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from faulty_study import fake_candidate, fake_spec, request

from autotune.engines import fake
from autotune.errors import BuildFailed, DeadlineExceeded, Unsupported, WorkerCrashed
from autotune.spec.model import LimitsSpec, StudySpec
from autotune.trial import profile as profiles
from autotune.trial.isolation import TrialProcess
from autotune.trial.profile import one_stream, profile_trial


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> StudySpec:
    """One study for all tests of this file."""
    return fake_spec(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def process(spec: StudySpec) -> Iterator[TrialProcess]:
    """One TrialProcess for all tests, so that each also shows that the one before left it usable."""
    with TrialProcess() as opened:
        yield opened


def test_a_profile_holds_the_layers_the_graph_and_the_plain_time(process: TrialProcess, spec: StudySpec) -> None:
    """The fake's service time is a formula; slept, it can only be longer."""
    asked = request(spec, fake_candidate())
    stages: list[str] = []
    found = process.profile(asked, 3, on_stage=stages.append)
    assert stages == ["data", "variant", "engine", "open", "profile"]
    assert [n.op for n in found.outline] == ["MatMul"]
    assert [layer.nodes for layer in found.report.layers] == [tuple(n.name for n in found.outline)]
    assert found.plain_us is not None and found.report.n_runs == found.plain_us.n == 3
    assert found.plain_us.value >= fake.service_s(found.candidate) * 1e6


def test_the_engine_is_the_trials_own(process: TrialProcess, spec: StudySpec) -> None:
    """A trial that ran before left its engine in the cache, and that is what is profiled."""
    record = process.run(request(spec, fake_candidate()))
    found = process.profile(request(spec, fake_candidate()), 2)
    assert record.variant is not None
    assert (found.engine_key, found.variant_key) == (record.engine_key, record.variant.key)


def test_one_stream_keeps_its_share_of_the_threads() -> None:
    """4 threads among 2 streams are 2 each; what the engine lacks, or is left to it, stays so."""
    asked = fake_candidate(streams=2, worker_threads=4)
    assert one_stream(asked) == replace(asked, streams=1, worker_threads=2)
    assert one_stream(replace(asked, worker_threads=1)).worker_threads == 1
    assert one_stream(replace(asked, worker_threads=None)).worker_threads is None
    assert one_stream(replace(asked, streams=None)) == replace(asked, streams=None)


@pytest.mark.parametrize(("fault", "sign"), [("segv", "SIGSEGV"), ("exit", "exit code 7"), ("exception", "ZeroDivisionError")])
def test_an_engine_that_dies_is_told_with_its_stage(process: TrialProcess, spec: StudySpec, fault: str, sign: str) -> None:
    """The process that asked lives on, and so does the one that forks."""
    with pytest.raises(WorkerCrashed, match=sign) as caught:
        process.profile(request(spec, fake_candidate(fault)), 2)
    assert caught.value.stage == "open"
    assert process.profile(request(spec, fake_candidate()), 2).report.n_runs == 2


def test_an_engine_that_hangs_ends_at_the_deadline(process: TrialProcess, spec: StudySpec) -> None:
    """limits.deadline_s holds for profiles too."""
    impatient = spec.model_copy(update={"limits": LimitsSpec.model_validate({"deadline_s": 2.0})})
    with pytest.raises(DeadlineExceeded, match=r"limits\.deadline_s 2"):
        process.profile(request(impatient, fake_candidate("hang")), 2)
    assert process.profile(request(spec, fake_candidate()), 2).report.n_runs == 2


def test_a_rejection_comes_back_as_what_it_is(process: TrialProcess, spec: StudySpec) -> None:
    """A class, a stage and a message cross the process's border."""
    with pytest.raises(BuildFailed, match="told not to build") as caught:
        process.profile(request(spec, fake_candidate("build", batch_size=3)), 2)
    assert caught.value.stage == "engine"


def test_an_engine_without_layers_is_refused_before_it_is_built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A backend need not explain itself; then nothing is built in vain."""

    class Silent:
        name = "silent"

        def __getattr__(self, wanted: str) -> object:
            if wanted == "layers":
                raise AttributeError(wanted)
            return getattr(fake.FakeBackend(), wanted)

    monkeypatch.setattr(profiles, "load_backend", lambda name: Silent())
    spec = fake_spec(tmp_path)
    with pytest.raises(Unsupported, match="silent does not tell its layers"):
        profile_trial(request(spec, fake_candidate()), 2)
    assert spec.cache.folder is not None and not (spec.cache.folder / "engines").exists()
