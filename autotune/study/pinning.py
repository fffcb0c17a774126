"""What the front and the reference were measured with stays in the cache, whatever is evicted."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from autotune.cache.pins import Pin, set_pin
from autotune.errors import DiskFull
from autotune.records import TrialRecord
from autotune.study.session import StudySession

_log = logging.getLogger(__name__)


def pin_front(run: StudySession, kept: Sequence[TrialRecord]) -> None:
    """The variants, engines and answers of these trials, with all that they were made from, are pinned for the study.

    A pin that cannot be written is logged: the front is in the database, and what is evicted can be made again.
    """
    names = [name for record in kept for name in artifacts_of(record)]
    pin = Pin(study=run.study.name, storage=run.store.shown_url, artifacts=tuple(names))
    try:
        set_pin(run.plan.cache_root, pin)
    except (OSError, DiskFull) as exc:
        _log.warning("study=%s its front could not be pinned in %s: %s", run.study.name, run.plan.cache_root, exc)


def artifacts_of(record: TrialRecord) -> list[str]:
    """The names of the artifacts that the trial was measured with."""
    found = {
        "variant": record.variant.key if record.variant else None,
        "engines": record.engine_key,
        "accuracy": record.scores_key,
    }
    return [f"{kind}/{key}" for kind, key in found.items() if key is not None]
