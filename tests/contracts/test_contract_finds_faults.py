"""The contract is worth something only if it fails for engines that break it: one fault each, planted in a small engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from autotune.candidate import Candidate, Scalar
from autotune.engines.fake import FakeBackend
from autotune.engines.protocol import Backend, Capabilities, Engine, Inputs, Outputs
from autotune.errors import Unstable
from autotune.testing import EngineContract
from autotune.variants.variant import ModelVariant


class Session:
    """Answers with the sum of each sample, and checks its inputs; `fault` names what it does wrong."""

    def __init__(self, slots: int, fault: str) -> None:
        self.slots, self._fault = slots, fault
        self._pending: list[Any] = [None] * slots
        self._buffer: Any = None
        self._closed = False

    def submit(self, inputs: Inputs, slot: int) -> None:
        if set(inputs) != {"input"} or inputs["input"].shape[1:] != (1, 8, 8):
            if self._fault == "KeyError for a wrong input":
                raise KeyError("input")
            raise Unstable("wrong input", stage="load")
        if self._fault == "writes into its inputs":
            inputs["input"][...] = np.tanh(inputs["input"])
        self._pending[0 if self._fault == "one slot for all" else slot] = inputs["input"]

    def wait(self, slot: int) -> Outputs:
        values = self._pending[0 if self._fault == "one slot for all" else slot]
        sums = values.reshape(len(values), -1).sum(axis=1, keepdims=True)
        if self._fault == "wrong beyond batch 1" and len(values) > 1:
            sums = sums[::-1]
        if self._fault == "one buffer for all":
            self._buffer = np.zeros_like(sums) if self._buffer is None else self._buffer
            self._buffer[...] = sums
            sums = self._buffer
        return {"other" if self._fault == "renames its outputs" else "sum": sums}

    def close(self) -> None:
        if self._closed and self._fault == "closes once":
            raise RuntimeError("closed twice")
        self._closed = True

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Small(FakeBackend):
    """The fake's knobs and capabilities over a session that looks at its inputs."""

    def __init__(self, fault: str = "") -> None:
        self.fault = fault
        if fault == "a knob nobody knows":
            self.run_knobs = frozenset({*self.run_knobs, "colour"})
        if fault == "a knob of both moments":
            self.run_knobs = frozenset({*self.run_knobs, "batch_size"})

    def capabilities(self) -> Capabilities:
        able = super().capabilities()
        if self.fault == "offers what it refuses":
            return replace(able, precisions=(*able.precisions, "bf16"))
        if self.fault == "says not what is missing":
            return Capabilities(available=False)
        return replace(able, precisions=("fp32",))

    def defaults(self) -> Mapping[str, Scalar | None]:
        beyond = {"worker_threads": 99} if self.fault == "defaults beyond its limits" else {}
        return {**super().defaults(), **beyond}

    def build(self, variant: ModelVariant, candidate: Candidate, folder: Path) -> None:
        if self.fault != "builds nothing":
            super().build(variant, candidate, folder)
        if self.fault == "changes the variant":
            variant.path.write_bytes(variant.path.read_bytes() + b"\n")

    def open(self, engine: Engine, candidate: Candidate) -> Any:
        if self.fault == "needs every knob" and candidate.worker_threads is None:
            raise TypeError("worker_threads is None")
        slots = 1 if self.fault == "ignores streams" else candidate.streams or 1
        return Session(slots, self.fault)

    def deployment(self, candidate: Candidate) -> dict[str, Any]:
        return {"path": Path("x")} if self.fault == "deployment is no JSON" else super().deployment(candidate)


class SmallContract(EngineContract):
    """The contract over Small."""

    needs_library = False
    fault: ClassVar[str] = ""

    def backend(self) -> Backend:
        return Small(self.fault)

    def expected(self, variant: ModelVariant, inputs: Inputs, candidate: Candidate) -> Outputs:
        values = inputs["input"]
        return {"sum": values.reshape(len(values), -1).sum(axis=1, keepdims=True)}


CLAUSES = {
    "offers what it refuses": "test_capabilities_are_consistent",
    "says not what is missing": "test_capabilities_are_consistent",
    "a knob nobody knows": "test_knobs_are_known_and_belong_to_one_moment",
    "a knob of both moments": "test_knobs_are_known_and_belong_to_one_moment",
    "defaults beyond its limits": "test_defaults_name_only_its_own_knobs",
    "deployment is no JSON": "test_scheme_and_deployment_are_values",
    "builds nothing": "test_build_is_repeatable",
    "changes the variant": "test_build_is_repeatable",
    "wrong beyond batch 1": "test_results_match_the_reference",
    "renames its outputs": "test_results_match_the_reference",
    "needs every knob": "test_opens_with_every_run_knob_and_with_none",
    "ignores streams": "test_slots_are_in_flight_together",
    "one buffer for all": "test_slots_are_in_flight_together",
    "one slot for all": "test_slots_do_not_mix",
    "writes into its inputs": "test_inputs_stay_unchanged",
    "closes once": "test_closing_twice_is_safe",
    "KeyError for a wrong input": "test_wrong_inputs_reject_the_candidate",
}


def clause(fault: str, name: str, tmp_path: Path) -> Callable[[], None]:
    """A test of the contract, bound to an engine with this fault."""
    test = getattr(type("Faulty", (SmallContract,), {"fault": fault})(), name)
    return (lambda: test(tmp_path)) if "tmp_path" in test.__code__.co_varnames else test


@pytest.mark.parametrize("name", sorted(set(CLAUSES.values())))
def test_the_engine_without_a_fault_passes(name: str, tmp_path: Path) -> None:
    """So that what follows fails for its fault and nothing else."""
    clause("", name, tmp_path)()


@pytest.mark.parametrize(("fault", "name"), CLAUSES.items())
def test_the_contract_finds(fault: str, name: str, tmp_path: Path) -> None:
    """Each broken promise fails the test that states it."""
    with pytest.raises((AssertionError, TypeError, KeyError, RuntimeError)):
        clause(fault, name, tmp_path)()
