"""From what a person typed to a store, a study and its specification."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from autotune.errors import SpecError
from autotune.fingerprint import DeviceFingerprint
from autotune.records import FINISHED, TrialRecord
from autotune.spec.model import StudySpec
from autotune.store.repository import SEARCHED, Store
from autotune.store.studies import StudyRow

if TYPE_CHECKING:
    from autotune.study.standing import Standing

_LONGEST_NUMBER = 10
"""Digits of what the database's 32 bits no longer hold."""
DEFAULT_STORAGE = "sqlite:///autotune.db"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenStudy:
    """A study in its database. `spec` is the file's where a file was named, else the one stored with the study."""

    store: Store
    row: StudyRow
    spec: StudySpec

    def records(self) -> list[TrialRecord]:
        """The finished trials of the search, by number: read whole, so only for who needs all of them."""
        return self.store.trials(self.row.id, FINISHED, SEARCHED)

    def standing(self, prefer: str = "") -> Standing:
        """Front, ties and best. `prefer`: an objective beyond the study's own that is asked for."""
        from autotune.study.standing import Standing

        return Standing(self.store, self.row.id, self.spec, prefer)

    def environment(self) -> DeviceFingerprint | None:
        """The device and versions with which the study began; None where another version wrote the database without them."""
        return self.store.known_environment(self.row.environment_key)

    def reference(self) -> TrialRecord | None:
        """The reference's record, or None before it was measured."""
        found = self.store.trials(self.row.id, ["complete"], ["reference"])
        return found[-1] if found else None

    def trial(self, which: str) -> TrialRecord:
        """The trial of that number, or the reference for "ref". Raises SpecError naming the numbers there are."""
        found = None
        if which in ("ref", "reference"):
            found = self.reference()
        elif which.isascii() and which.isdigit() and len(which) < _LONGEST_NUMBER:
            found = next((r for r in self.store.numbered(self.row.id, [int(which)]) if r.state in FINISHED), None)
        if found is None:
            numbers = [number for number, _ in self.store.digests(self.row.id)]
            known = f"{numbers[0]} to {numbers[-1]} and ref" if numbers else "none yet"
            raise SpecError(f"trial {which!r} is not in the study {self.row.name!r}; its trials: {known}")
        return found


def open_study(study: str, storage: str | None) -> OpenStudy:
    """The study named by its name or its file. Raises SpecError listing the studies that are there."""
    from autotune.store.repository import open_store

    spec = _spec_if_file(study)
    store = open_store(storage or (spec.storage if spec else storage_from_environment()), create=False)
    rows = _rows(study, spec, store)
    if len(rows) > 1:
        names = ", ".join(row.name for row in rows)
        raise SpecError(
            f"{study} is in parts, one for each kind of device: {names}. Name one; all of them: autotune compare {study}"
        )
    return opened(store, rows[0], spec)


def open_studies(study: str, storage: str | None) -> list[OpenStudy]:
    """The study as `open_study`, or its parts where it is over several kinds of devices."""
    from autotune.store.repository import open_store

    spec = _spec_if_file(study)
    store = open_store(storage or (spec.storage if spec else storage_from_environment()), create=False)
    return [opened(store, row, spec) for row in _rows(study, spec, store)]


def _rows(study: str, spec: StudySpec | None, store: Store) -> list[StudyRow]:
    from autotune.study.kinds import parts_of

    name = spec.study if spec else study
    rows = parts_of(name, store)
    if not rows:
        known = ", ".join(s.name for s in store.studies()) or "none"
        raise SpecError(f"no study {name!r} in {store.shown_url}; studies there: {known}. Begin one: autotune start STUDY.yaml")
    return rows


def opened(store: Store, row: StudyRow, spec: StudySpec | None = None) -> OpenStudy:
    """The study of that row; `spec`: of a file, if one was named, to which a worker on the device added what no file says."""
    stored = StudySpec.model_validate(row.spec)
    if spec is None:
        return OpenStudy(store=store, row=row, spec=stored)
    price = spec.price_per_hour if spec.prices is None else stored.price_per_hour
    return OpenStudy(store=store, row=row, spec=spec.model_copy(update={"study": row.name, "price_per_hour": price}))


def storage_from_environment() -> str:
    """$AUTOTUNE_STORAGE, or the database file in the current folder."""
    return os.environ.get("AUTOTUNE_STORAGE", DEFAULT_STORAGE)


def _spec_if_file(study: str) -> StudySpec | None:
    path = Path(study)
    if path.suffix not in (".yaml", ".yml") and not path.is_file():
        return None
    from autotune.spec.load import load_spec

    return load_spec(path)
