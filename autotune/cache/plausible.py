"""Whether an artifact that others made says what its kind says: who trusts its facts must not fall over them."""

from __future__ import annotations

import math
from typing import Any

from autotune.cache.artifact import Damaged, Manifest
from autotune.cache.names import is_digest

_LARGEST = 2**53
_MODELS = ("base", "prune", "sparse", "variant")
"""Kinds that are a model, with its digest, parameters, operations and bytes as facts."""


def require_plausible(kind: str, manifest: Manifest) -> None:
    """The artifact has files and facts as artifacts of the kind have. Raises Damaged with what it lacks."""
    if manifest.rejected is not None:
        return
    if not manifest.files:
        raise Damaged("its manifest names no files")
    if not _is_plain(manifest.facts):
        raise Damaged("its facts hold numbers that cannot be")
    if kind not in _MODELS:
        return
    facts = manifest.facts
    wrong = [] if "model.onnx" in manifest.files else ["its file"]
    wrong += [name for name in ("params", "bytes") if not _is_count(facts.get(name))]
    wrong += [] if facts.get("macs") is None or _is_count(facts["macs"]) else ["macs"]
    wrong += [] if is_digest(facts.get("digest")) else ["digest"]
    wrong += [] if kind != "base" or isinstance(facts.get("attention"), bool) else ["attention"]
    notes = facts.get("notes", [])
    wrong += [] if isinstance(notes, list) and all(isinstance(n, str) for n in notes) else ["notes"]
    if wrong:
        raise Damaged(f"its facts are not those of a model: {', '.join(wrong)}")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return not isinstance(value, int | float) or (math.isfinite(value) if isinstance(value, float) else abs(value) <= _LARGEST)
