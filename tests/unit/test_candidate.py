"""The knobs: everything derives from Candidate's fields, and a candidate is a value."""

from __future__ import annotations

import dataclasses
import json
import pickle

import pytest

from autotune.candidate import KNOBS, Candidate, Choices, Range
from autotune.fingerprint import digest_of

FULL = Candidate(
    engine="openvino", precision="int8", pruning_ratio=0.25, batch_size=8, streams=2, worker_threads=None, memory_pool_mib=None
)


def test_the_engine_and_the_knobs_are_the_fields() -> None:
    """The mission's six knobs in the order in which people read them, then those that few engines have."""
    assert list(KNOBS) == [
        "engine", "precision", "pruning_ratio", "batch_size", "streams", "worker_threads", "memory_pool_mib",
        "builder_level", "cuda_graph", "layout", "conv_search", "arena_growth",
    ]  # fmt: skip
    assert list(KNOBS) == [f.name for f in dataclasses.fields(Candidate)] == list(FULL.as_json())


def test_every_knob_is_documented_and_its_default_is_in_range() -> None:
    """Reports and schemas are made from this."""
    for knob in KNOBS.values():
        assert knob.doc and (knob.kind == "choice") == (knob.low is None)
        if isinstance(knob.default, int | float):
            assert knob.low is not None and knob.high is not None and knob.low <= knob.default <= knob.high
    assert KNOBS["memory_pool_mib"].unit == "MiB"
    assert {k for k, knob in KNOBS.items() if knob.stage == "variant"} == {"precision", "pruning_ratio"}


def test_a_candidate_survives_json_and_pickle() -> None:
    """It travels to the database and to the trial's process."""
    assert Candidate.from_json(json.loads(json.dumps(FULL.as_json()))) == FULL
    assert pickle.loads(pickle.dumps(FULL)) == FULL  # noqa: S301  # our own bytes


@pytest.mark.parametrize("change", [{"colour": "red"}, {"engine": None}])
def test_unknown_and_missing_knobs_are_refused(change: dict[str, str | None]) -> None:
    """A database of another version must not be read as something else."""
    values = {k: v for k, v in {**FULL.as_json(), **change}.items() if k != "engine" or v is not None}
    with pytest.raises(TypeError):
        Candidate.from_json(values)


def test_a_knob_that_came_later_leaves_older_digests_as_they_are() -> None:
    """A database of an earlier version knows its candidates by digest: those without the knob must be found again."""
    before = {k: v for k, v in FULL.as_json().items() if k not in list(KNOBS)[7:]}
    assert FULL.digest == digest_of(before) and Candidate.from_json(before) == FULL
    assert len({FULL.digest, *(dataclasses.replace(FULL, cuda_graph=c).digest for c in ("on", "off"))}) == 3


def test_candidates_are_values() -> None:
    """Equal knobs are one candidate, in sets too, and none can be changed afterwards."""
    twin = dataclasses.replace(FULL)
    assert twin == FULL and len({twin, FULL}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        FULL.streams = 3  # type: ignore[misc]


def test_text_leaves_out_what_is_left_to_the_engine() -> None:
    """As it stands in logs."""
    assert str(FULL) == "engine=openvino precision=int8 pruning_ratio=0.25 batch_size=8 streams=2"


def test_domains_contain_their_ends_and_nothing_else() -> None:
    """Both ends of a range belong to it; text never does."""
    domain = Range(low=1, high=8, log=True)
    assert 1 in domain and 8 in domain and 9 not in domain and "4" not in domain
    assert "int8" in Choices(values=("fp32", "int8")) and "bf16" not in Choices(values=("fp32",))
    assert (str(domain), str(Range(low=0, high=0.5, step=0.1))) == ("1…8, log", "0…0.5, step 0.1")
