"""EngineContract: what every inference engine must keep to, as a pytest class that its author inherits.

    class TestMyEngine(EngineContract):
        def backend(self) -> Backend:
            return MyBackend()

The contract needs pytest and onnx, and onnxruntime for the precisions that are converted with it. Tests skip, with the reason,
where the machine lacks the engine.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from autotune.cache import Cache
from autotune.candidate import KNOBS, Candidate, Scalar
from autotune.data.dataset import Dataset
from autotune.engines.build import engine_key
from autotune.engines.protocol import Backend, Capabilities, Engine, Inputs, Outputs, Session
from autotune.errors import CandidateRejected, EnvironmentProblem, Unsupported
from autotune.fingerprint import canonical_json, file_digest
from autotune.fresh_process import CONSTRUCT, FORK, WITHOUT_LIBRARY, in_fresh_process, vendors_of
from autotune.spec.model import ModelSpec, RecoverySpec
from autotune.variants.make import VariantRequest, make_variant
from autotune.variants.precision import recipe_for
from autotune.variants.variant import ModelVariant, QuantScheme

_BATCHES = (1, 5)
_SAMPLE = (1, 8, 8)
_N_SLOTS = 3
_REPETITIONS = 60
_ENGINE_KNOBS = frozenset(k for k, knob in KNOBS.items() if knob.stage == "engine" and k != "engine")


class EngineContract:
    """Inherit and define `backend`. Override a class attribute only where the engine documents that it differs."""

    tolerance: ClassVar[Mapping[str, float]] = {
        "fp32": 1e-4,
        "tf32": 0.01,
        "fp16": 0.01,
        "amp-fp16": 0.01,
        "bf16": 0.05,
        "amp-bf16": 0.05,
        "int8": 0.1,
        "int8-tensor": 0.1,
        "fp8": 0.2,
        "int4": 0.3,
        "fp16-sparse": 0.01,
        "weak-fp16": 0.01,
        "weak-fp16-int8": 0.1,
    }
    """Largest error of an output, as a share of the largest output of the fp32 model. ONNX Runtime and OpenVINO show 2e-7 in
    fp32, 4e-4 in fp16, 6e-3 in bf16 and 0.02 in int8 on this model; an answer to another question is off by 0.1 to 1."""

    pool_mib: ClassVar[int] = 256
    """One value for all tests: ONNX Runtime, for one, keeps a single arena per process."""

    runs_the_model: ClassVar[bool] = True
    """False for an engine that answers without running the graph; then `expected` is to be overridden, and a wrong input goes
    unnoticed."""

    needs_library: ClassVar[bool] = True
    """False for an engine that can always run, because it is written in Python and numpy."""

    def backend(self) -> Backend:
        """A new instance of the engine under test."""
        raise NotImplementedError("a subclass of EngineContract defines backend()")

    def expected(self, variant: ModelVariant, inputs: Inputs, candidate: Candidate) -> Outputs:
        """What the fp32 model gives, computed with numpy by ONNX's reference implementation."""
        from onnx.reference import ReferenceEvaluator

        evaluator = ReferenceEvaluator(str(variant.path))
        return dict(zip(evaluator.output_names, evaluator.run(None, dict(inputs)), strict=True))

    # What a backend says of itself

    def test_constructing_imports_no_vendor_library(self) -> None:
        """A study that does not use an engine must not pay for its import, nor need it."""
        backend = self.backend()
        found = in_fresh_process(CONSTRUCT, backend, vendors=sorted(vendors_of(backend)))
        assert found["new"] == [], f"constructing {backend.name} imported {found['new']}"

    def test_capabilities_are_consistent(self) -> None:
        """Precisions are offered or refused, not both; refusals have reasons; limits and texts are about its own knobs."""
        backend = self.backend()
        able = backend.capabilities()
        knobs = _knobs_of(backend)
        assert backend.capabilities() == able
        assert not set(able.precisions) & set(able.refused)
        assert all(able.refused.values()), "a refused precision comes with the reason"
        if not able.available:
            assert able.missing and able.remedy, "an engine that cannot run says what is missing and what helps"
            return
        assert able.precisions and able.distributions
        assert set(able.limits) <= knobs
        assert knobs <= set(able.knob_docs) <= knobs | {"precision"}
        assert all(1 <= low <= high for low, high in able.limits.values())

    def test_missing_library_is_told_not_raised(self) -> None:
        """Without its library an engine is unavailable, with a remedy; with a broken one it may say so, but must not raise."""
        backend = self.backend()
        vendors = sorted(vendors_of(backend))
        if not self.needs_library or not vendors:
            pytest.skip(f"{backend.name} needs no library of its own")
        absent = in_fresh_process(WITHOUT_LIBRARY, backend, vendors=vendors, installed=False)
        assert absent["available"] is False and absent["missing"] and absent["remedy"]
        broken = in_fresh_process(WITHOUT_LIBRARY, backend, vendors=vendors, installed=True)
        assert broken["available"] or (broken["missing"] and broken["remedy"])

    def test_knobs_are_known_and_belong_to_one_moment(self) -> None:
        """Every knob is a field of Candidate, set when the engine is built or when it is opened, not both."""
        backend = self.backend()
        assert not backend.build_knobs & backend.run_knobs
        assert _knobs_of(backend) <= _ENGINE_KNOBS
        assert "batch_size" in _knobs_of(backend)

    def test_defaults_name_only_its_own_knobs(self) -> None:
        """What a user gets who sets nothing: values for knobs the engine has, within its own limits."""
        backend, able = self._available()
        defaults = backend.defaults()
        assert set(defaults) <= _knobs_of(backend)
        for knob, value in defaults.items():
            known = KNOBS[knob]
            if known.kind == "choice":
                assert value is None or value in known.choices, f"{knob}={value}, allowed {known.choices}"
                continue
            low, high = able.limits.get(knob, (known.low or 0, 1 << 30))
            assert value is None or (isinstance(value, int) and low <= value <= high), f"{knob}={value}, allowed {low}…{high}"

    def test_scheme_and_deployment_are_values(self) -> None:
        """Every precision has a quantization scheme, and the deployment settings of any candidate are JSON."""
        backend, able = self._available()
        for precision in able.precisions:
            assert isinstance(backend.scheme(precision), QuantScheme)
            for candidate in (self._candidate(precision=precision), self._bare(precision)):
                assert json.loads(canonical_json(backend.deployment(candidate))) is not None

    def test_a_fork_after_preloading_can_run(self, tmp_path: Path) -> None:
        """Trials are children of a process that has imported `preload`; a fork keeps one thread, and must do without others."""
        backend, _ = self._available()
        found = in_fresh_process(FORK, backend, folder=str(tmp_path))
        assert found == {"not_importable": [], "status": 0}, "the child failed, or hung for 60 s"

    # Building

    def test_build_is_repeatable(self, tmp_path: Path) -> None:
        """Two builds into two empty folders give the same files by name and the same results; the variant stays as it was."""
        backend, _ = self._available()
        variant = self._variant(tmp_path)
        digest = file_digest(variant.path)
        candidate = self._candidate()
        engines = [self._engine(backend, variant, candidate, tmp_path / name) for name in ("first", "second")]
        names = [sorted(p.relative_to(e.folder) for p in e.folder.rglob("*")) for e in engines]
        assert names[0] == names[1] and names[0], "a build leaves its files in the folder it is given"
        assert file_digest(variant.path) == digest
        inputs = _inputs(candidate.batch_size)
        first, second = (self._answers(backend, e, candidate, inputs) for e in engines)
        for name, values in first.items():
            np.testing.assert_allclose(second[name], values, rtol=1e-5, atol=1e-6)

    def test_only_build_knobs_enter_the_engine_key(self, tmp_path: Path) -> None:
        """A sweep over run knobs reuses the engine; another value of a build knob, or another variant, does not."""
        backend, _ = self._available()
        variant, base = self._variant(tmp_path), self._candidate()
        key = engine_key(backend, variant, base)
        for knob in sorted(_knobs_of(backend)):
            changed = engine_key(backend, variant, replace(base, **{knob: 7}))  # type: ignore[arg-type]  # whole knobs
            assert (changed != key) == (knob in backend.build_knobs), knob
        assert engine_key(backend, replace(variant, key="other"), base) != key

    # Running

    def test_results_match_the_reference(self, tmp_path: Path) -> None:
        """For every precision it offers and that this model can be made in, for batches of 1 and 5, the engine computes what
        the model says; what the sparse model says, where the precision makes it another model."""
        backend, able = self._available()
        plain = self._variant(tmp_path)
        for precision in able.precisions:
            try:
                variant = self._variant(tmp_path, precision)
            except Unsupported as exc:
                assert precision not in ("fp32", "fp16", "int8"), exc
                continue
            model = variant if recipe_for(precision).sparse else plain
            for batch_size in _BATCHES:
                candidate = self._candidate(precision=precision, batch_size=batch_size, streams=1)
                # An engine that offers it answers fewer samples than its batch size as well.
                inputs = _inputs(max(1, batch_size - 2) if able.partial_batches else batch_size)
                engine = self._engine(backend, variant, candidate, tmp_path / f"{precision}-{batch_size}")
                found = self._answers(backend, engine, candidate, inputs)
                _assert_close(found, self.expected(model, inputs, candidate), self.tolerance[precision], precision)

    def test_opens_with_every_run_knob_and_with_none(self, tmp_path: Path) -> None:
        """All run knobs set, each one set alone, and all left to the engine: each opens and runs."""
        backend, _ = self._available()
        variant, full, bare = self._variant(tmp_path), self._candidate(), self._bare()
        alone = [replace(bare, **{knob: getattr(full, knob)}) for knob in sorted(backend.run_knobs - {"batch_size"})]
        for number, candidate in enumerate((full, bare, *alone)):
            engine = self._engine(backend, variant, candidate, tmp_path / str(number))
            inputs = _inputs(candidate.batch_size)
            found = self._answers(backend, engine, candidate, inputs)
            _assert_close(found, self.expected(variant, inputs, candidate), self.tolerance["fp32"], str(candidate))

    def test_slots_are_in_flight_together(self, tmp_path: Path) -> None:
        """As many slots as streams; all may be submitted before the first is awaited, in any order, and a result stays valid
        until the next submit on its own slot."""
        session, variant, candidate = self._session(tmp_path)
        inputs = [_inputs(candidate.batch_size, seed=slot) for slot in range(_N_SLOTS)]
        with session:
            assert session.slots == _N_SLOTS
            for slot, given in enumerate(inputs):
                session.submit(given, slot)
            found = {slot: session.wait(slot) for slot in reversed(range(_N_SLOTS))}
            for slot, given in enumerate(inputs):
                _assert_close(found[slot], self.expected(variant, given, candidate), self.tolerance["fp32"], f"slot {slot}")

    def test_slots_do_not_mix(self, tmp_path: Path) -> None:
        """A thread per slot, each with inputs of its own, many times over: every answer belongs to its question."""
        session, variant, candidate = self._session(tmp_path)
        inputs = [_inputs(candidate.batch_size, seed=slot) for slot in range(_N_SLOTS)]
        wanted = [self.expected(variant, given, candidate) for given in inputs]
        failed: list[BaseException] = []
        together = threading.Barrier(_N_SLOTS)

        def drive(slot: int) -> None:
            try:
                for turn in range(_REPETITIONS):
                    pick = (slot + turn) % _N_SLOTS
                    session.submit(inputs[pick], slot)
                    if turn % 2:  # all slots are submitted before any is awaited; in other turns each goes as fast as it can
                        together.wait(60)
                    _assert_close(session.wait(slot), wanted[pick], self.tolerance["fp32"], f"slot {slot}, turn {turn}")
            except BaseException as exc:
                failed.append(exc)
                together.abort()

        with session:
            threads = [threading.Thread(target=drive, args=(slot,), daemon=True) for slot in range(_N_SLOTS)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
            assert not any(thread.is_alive() for thread in threads), "slots wait for each other"
        if failed:
            raise failed[0]

    def test_inputs_stay_unchanged(self, tmp_path: Path) -> None:
        """The load loop gives the same arrays again and again; an engine that wrote into them would measure nonsense."""
        session, _, candidate = self._session(tmp_path)
        inputs = _inputs(candidate.batch_size)
        before = {name: array.copy() for name, array in inputs.items()}
        with session:
            for slot in range(session.slots):
                session.submit(inputs, slot)
                session.wait(slot)
        assert all(np.array_equal(inputs[name], array) for name, array in before.items())

    def test_closing_twice_is_safe(self, tmp_path: Path) -> None:
        """`with` closes a session, and so may the caller, before or after."""
        session, _, candidate = self._session(tmp_path)
        with session as entered:
            entered.submit(_inputs(candidate.batch_size), 0)
            entered.wait(0)
            session.close()
        session.close()

    def test_wrong_inputs_reject_the_candidate(self, tmp_path: Path) -> None:
        """An input of another name, rank or size is the candidate's fault and no bug; the next right one may still run."""
        if not self.runs_the_model:
            pytest.skip("this engine does not look at the model's inputs")
        session, variant, candidate = self._session(tmp_path)
        right = _inputs(candidate.batch_size)
        values = right["input"]
        wrong: list[Inputs] = [{"other": values}, {"input": values[:, :, :4]}, {"input": values[:, 0]}, {}]
        with session:
            for inputs in wrong:
                with pytest.raises(CandidateRejected):
                    session.submit(inputs, 0)
                    session.wait(0)
            session.submit(right, 1)
            _assert_close(session.wait(1), self.expected(variant, right, candidate), self.tolerance["fp32"], "after a fault")

    # What the tests above are made of

    def _available(self) -> tuple[Backend, Capabilities]:
        backend = self.backend()
        able = backend.capabilities()
        if not able.available:
            pytest.skip(f"{backend.name}: {able.missing}. Try: {able.remedy}")
        return backend, able

    def _candidate(self, **knobs: Scalar | None) -> Candidate:
        """Every knob that the engine has is set, to a small value."""
        backend = self.backend()
        small: dict[str, Scalar] = {"batch_size": 2, "streams": _N_SLOTS, "worker_threads": 1, "memory_pool_mib": self.pool_mib}
        small |= {"builder_level": 1, "cuda_graph": "on", "layout": "nhwc", "conv_search": "heuristic"}
        small |= {"arena_growth": "as_requested"}
        values = {k: v for k, v in (small | knobs).items() if k in _knobs_of(backend) | {"precision"}}
        return replace(self._bare(), **values)  # type: ignore[arg-type]  # field names are checked when the tests run

    def _bare(self, precision: str = "fp32") -> Candidate:
        """Every knob is left to the engine."""
        unset = dict.fromkeys(_ENGINE_KNOBS - {"batch_size"})
        return Candidate(engine=self.backend().name, precision=precision, pruning_ratio=0.0, batch_size=1, **unset)

    def _variant(self, folder: Path, precision: str = "fp32") -> ModelVariant:
        request = VariantRequest(
            model=ModelSpec(path=tiny_cnn(folder / "tiny.onnx")),
            precision=precision,
            pruning_ratio=0.0,
            scheme=self.backend().scheme(precision),
            recovery=RecoverySpec(),
            seed=0,
        )
        samples = Dataset(arrays=_inputs(64, seed=99), labels=None, preprocess=None, digest="contract")
        try:
            return make_variant(request, samples, None, Cache(folder / "cache"))[0]
        except EnvironmentProblem as exc:
            pytest.skip(f"{precision} cannot be made here: {exc}")

    def _engine(self, backend: Backend, variant: ModelVariant, candidate: Candidate, folder: Path) -> Engine:
        folder.mkdir()
        backend.build(variant, candidate, folder)
        return Engine(key=engine_key(backend, variant, candidate), backend=backend.name, variant=variant, folder=folder)

    def _session(self, folder: Path) -> tuple[Session, ModelVariant, Candidate]:
        """An open session with several slots, and what it was made from."""
        backend, _ = self._available()
        if "streams" not in _knobs_of(backend):
            pytest.skip(f"{backend.name} has no streams")
        variant, candidate = self._variant(folder), self._candidate()
        return backend.open(self._engine(backend, variant, candidate, folder / "engine"), candidate), variant, candidate

    def answer_once(self, folder: Path) -> Outputs:
        """The outputs of one submission, everything made from nothing in the empty `folder`."""
        backend, _ = self._available()
        variant, candidate = self._variant(folder), self._candidate()
        engine = self._engine(backend, variant, candidate, folder / "engine")
        return self._answers(backend, engine, candidate, _inputs(candidate.batch_size))

    def _answers(self, backend: Backend, engine: Engine, candidate: Candidate, inputs: Inputs) -> Outputs:
        with backend.open(engine, candidate) as session:
            session.submit(inputs, 0)
            return {name: values.copy() for name, values in session.wait(0).items()}


def _knobs_of(backend: Backend) -> frozenset[str]:
    return backend.build_knobs | backend.run_knobs


def _inputs(n: int, seed: int = 0) -> dict[str, NDArray[Any]]:
    return {"input": np.random.default_rng(seed).standard_normal((n, *_SAMPLE)).astype(np.float32)}


def _assert_close(found: Outputs, wanted: Outputs, tolerance: float, what: str) -> None:
    assert list(found) == list(wanted), f"{what}: outputs {list(found)}, expected {list(wanted)}"
    for name, values in wanted.items():
        assert found[name].shape == values.shape, f"{what}: {name} has shape {found[name].shape}, expected {values.shape}"
        error = float(np.abs(found[name] - values).max() / np.abs(values).max())
        assert error <= tolerance, f"{what}: {name} is off by {error:.3g} of the largest output; allowed {tolerance:g}"


def tiny_cnn(path: Path) -> Path:
    """8×8 grey images: two convolutions with ReLU, global pooling, 4 classes; seeded He-scaled weights, dynamic batch."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    shapes = {"w1": (8, 1, 3, 3), "b1": (8,), "w2": (16, 8, 3, 3), "b2": (16,), "w3": (4, 16), "b3": (4,)}
    tensors = [
        numpy_helper.from_array((rng.standard_normal(s) * (2 / np.prod(s[1:])) ** 0.5).astype(np.float32), name)
        for name, s in shapes.items()
    ]
    nodes = [
        helper.make_node("Conv", ["input", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("GlobalAveragePool", ["r2"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w3", "b3"], ["logits"], transB=1),
    ]
    ends = [("input", ["batch", *_SAMPLE]), ("logits", ["batch", 4])]
    given, result = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in ends)
    graph = helper.make_graph(nodes, "tiny", [given], [result], tensors)
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path
