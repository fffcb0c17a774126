"""Warm start: what earlier studies of the same database found best is tried first, and measured anew.

Only configurations travel, never values: copied measurements of another device or model mislead a search (decision 0020).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from autotune.candidate import Candidate
from autotune.fingerprint import DeviceFingerprint
from autotune.records import TrialRecord
from autotune.space.capability import SearchSpace
from autotune.space.sampling import nearest_in
from autotune.spec.model import StudySpec
from autotune.store.repository import Store
from autotune.store.studies import StudyRow
from autotune.study.plan import StudyPlan
from autotune.study.scoring import best, is_feasible

FLAG = "warm_start:"
"""Begins the flag of a trial whose candidate came from another study; that study's name follows."""
_MOST_KIN = 100
"""As many as candidates can be taken over: the best of the nearest come first, and a database may hold thousands of studies."""
KINSHIPS = ("the same model on this device", "the same model on another device", "another model on this device")
"""How an earlier study may be related, nearest first. Another model on another device says too little."""
_ANOTHER_MODEL = 2
"""The kinship from which on the model is another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kin:
    """An earlier study that is related to this one, and its configurations, the best first. `kinship`: an index of KINSHIPS."""

    study: StudyRow
    kinship: int
    device: str
    candidates: tuple[Candidate, ...]

    def __str__(self) -> str:
        where = f", {self.device}" if self.kinship == 1 else ""
        return f"{self.study.name} ({KINSHIPS[self.kinship]}{where})"


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmStartGain:
    """What a warm start gave. `share_of_best`: the fastest feasible of its trials against the fastest of all, in items/s.

    `others_caught_up_after`: how many trials that came from elsewhere it took until one was as fast; None where none was.
    """

    studies: tuple[str, ...]
    n_trials: int
    share_of_best: float | None
    others_caught_up_after: int | None
    n_others: int

    def __str__(self) -> str:
        found = f"{self.n_trials} first {'trial' if self.n_trials == 1 else 'trials'} from {', '.join(self.studies)}"
        if self.share_of_best is None:
            return f"warm start: {found}; none of them kept to the constraints"
        caught = self.others_caught_up_after
        others = (
            f"none of the {self.n_others} others was as fast" if caught is None else f"the others were so at their {caught}."
        )
        return f"warm start: {found} reached {self.share_of_best:.0%} of the best throughput; {others}"


def taken_over(store: Store, study: StudyRow, plan: StudyPlan, note: Callable[[str], None]) -> dict[Candidate, str]:
    """What a study that begins now takes over from earlier ones, with the study that each came from; `note` is told."""
    at_most = plan.spec.warm_start.at_most
    kin = kin_of(store, study, plan.fingerprint) if at_most else []
    warm = warm_candidates(kin, plan.space, at_most)
    if warm:
        counted = "1 candidate" if len(warm) == 1 else f"{len(warm)} candidates"
        sources = "; ".join(str(k) for k in kin if k.study.name in warm.values())
        note(f"warm start: {counted}, to be measured anew, from {sources}")
    return warm


def kin_of(store: Store, study: StudyRow, device: DeviceFingerprint) -> list[Kin]:
    """The earlier studies whose best is worth trying in `study`, nearest first, of equal ones the newest first."""
    related = []
    environments: dict[str, DeviceFingerprint | None] = {}
    for other in store.studies():
        if other.environment_key not in environments:
            environments[other.environment_key] = store.known_environment(other.environment_key)
        there = environments[other.environment_key]
        same_device = there is not None and there.is_same_device(device)
        kinship = _kinship(other.model_digest == study.model_digest, same_device)
        if other.id != study.id and kinship is not None:
            related.append((kinship, other, there.device if there is not None else "an unknown device"))
    related.sort(key=lambda kin: kin[1].created_at, reverse=True)
    found: list[Kin] = []
    for kinship, other, name in sorted(related, key=lambda kin: kin[0]):
        front = store.front(other.id) if len(found) < _MOST_KIN else []
        if front:
            found.append(Kin(study=other, kinship=kinship, device=name, candidates=_in_order_of_use(front)))
    return found


def warm_candidates(kin: Sequence[Kin], space: SearchSpace, at_most: int) -> dict[Candidate, str]:
    """At most so many candidates of this space, with the study that each came from: the best of each kin, then its second best…

    Knobs move to the nearest value that this space has; what cannot run here is left out. Where no study was of this model
    there is one candidate: in replays more of them cost more than they gained (docs/search-settings.md).
    """
    same_model = [k for k in kin if k.kinship < _ANOTHER_MODEL]
    found: dict[Candidate, str] = {}
    for earlier, candidate in _in_turns(same_model or kin):
        nearest = nearest_in(candidate, space)
        if nearest is not None and len(found) < (at_most if same_model else min(1, at_most)):
            found.setdefault(nearest, earlier.study.name)
    return found


def _in_turns(kin: Sequence[Kin]) -> Iterator[tuple[Kin, Candidate]]:
    for rank in itertools.zip_longest(*(k.candidates for k in kin)):
        yield from ((earlier, candidate) for earlier, candidate in zip(kin, rank, strict=True) if candidate is not None)


def warm_start_gain(records: Sequence[TrialRecord], spec: StudySpec) -> WarmStartGain | None:
    """What the warm start of a study gave so far; None where no trial came from one."""
    rates = {r.number: r.throughput_items_per_s.value for r in records if is_feasible(r, spec) and r.throughput_items_per_s}
    top = best(records, spec)
    fastest = top.throughput_items_per_s.value if top is not None and top.throughput_items_per_s else None
    return gain_of(origins_in(records), [r.number for r in records], rates, fastest)


def gain_of(
    origins: Mapping[int, str], numbers: Iterable[int], rates: Mapping[int, float], fastest: float | None
) -> WarmStartGain | None:
    """As `warm_start_gain`, from what it takes of the records.

    `origins`: the study that a trial's candidate came from, by the trial's number, of those that came from one. `numbers`: of
    all finished trials. `rates`: items/s of the feasible ones. `fastest`: items/s of the best.
    """
    if not origins:
        return None
    ours = max((rate for number, rate in rates.items() if number in origins), default=None)
    others = sorted(n for n in numbers if n not in origins)
    as_fast = (i for i, number in enumerate(others, start=1) if ours is not None and rates.get(number, 0.0) >= ours)
    return WarmStartGain(
        studies=tuple(dict.fromkeys(origins[n] for n in sorted(origins))),
        n_trials=len(origins),
        share_of_best=None if ours is None or not fastest else ours / max(fastest, ours),
        others_caught_up_after=next(as_fast, None),
        n_others=len(others),
    )


def origins_in(records: Iterable[TrialRecord]) -> dict[int, str]:
    """The study that each trial's candidate came from, by number, of those that came from one."""
    return {r.number: _origin(r) for r in records if _origin(r)}


def warm_flags(origin: Mapping[Candidate, str], candidate: Candidate) -> tuple[str, ...]:
    """The flag of a trial whose candidate came from another study; nothing for any other."""
    return (f"{FLAG}{origin[candidate]}",) if candidate in origin else ()


def _origin(record: TrialRecord) -> str:
    return next((flag.removeprefix(FLAG) for flag in record.flags if flag.startswith(FLAG)), "")


def _kinship(same_model: bool, same_device: bool) -> int | None:
    if same_model:
        return 0 if same_device else 1
    return 2 if same_device else None


def _in_order_of_use(front: Sequence[TrialRecord]) -> tuple[Candidate, ...]:
    """The fastest first, then the others from the fast end of the front to the accurate one."""
    ordered = sorted(front, key=lambda r: -(r.throughput_items_per_s.value if r.throughput_items_per_s else 0.0))
    return tuple(dict.fromkeys(r.candidate for r in ordered))
