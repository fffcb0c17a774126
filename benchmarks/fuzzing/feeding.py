"""The product's own loading paths, fed with one input, and what came of it."""

from __future__ import annotations

import os
import shutil
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from autotune.bench.memory import peak_mib
from fuzzing import corpus
from fuzzing.guard import Guard, listing
from fuzzing.mutations import LINK, Files, mutated


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """`kind`: accepted, refused (with an error of ours, `what` is its class), or the failure: traceback, wrote, memory."""

    kind: str
    what: str = ""
    cpu_s: float = 0.0
    peak_mib: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """For the pipe to the parent and for the results."""
        return asdict(self)


class Feeder:
    """A box of folders: `case` for the input, `cache` that may be written, `outside` with a secret that nobody may read."""

    def __init__(self, box: Path, limit_mib: int) -> None:
        self.case, self.cache, self.outside = box / "case", box / "cache", box / "outside"
        self._limit_mib, self._guard = limit_mib, Guard()
        for folder in (self.case, self.cache, self.outside):
            folder.mkdir(parents=True, exist_ok=True)
        (self.outside / "secret").write_bytes(b"secret" * 20)
        corpus.write_good(self.case)
        self._good = {p.relative_to(self.case).as_posix(): p.read_bytes() for p in self.case.rglob("*") if p.is_file()}

    def feed(self, kind: str, seed: str, only: list[int] | None = None) -> Outcome:
        """The outcome of the input that the seed names."""
        study, files, _ = mutated(kind, seed, only)
        if kind in ("bundle", "artifact"):
            folder = self.case / kind
            write_files(folder, files)
            load = _opened_bundle if kind == "bundle" else _shared_artifact
        else:
            folder = self.case
            write_files(folder, ({"study.yaml": study.encode()} if study else {}) | files)
            load = _base_model if kind == "onnx" else _study
        try:
            return self._outcome(folder, load)
        finally:
            self._restore(folder, files)

    def _outcome(self, folder: Path, load: Callable[[Path, Path], object]) -> Outcome:
        from autotune.errors import AutotuneError, CandidateRejected

        before, began = listing(self.case) | listing(self.outside), time.process_time()
        kind, what = "accepted", ""
        with self._guard.watching((self.cache,), self.outside) as broken:
            try:
                load(folder, self.cache)
            except (AutotuneError, CandidateRejected) as exc:
                kind, what = "refused", type(exc).__name__
                if "hush" in str(exc):
                    kind, what = "traceback", f"a password in the message: {exc}"
            except MemoryError:
                kind, what = "memory", "MemoryError: " + _where()
            except BaseException:
                kind, what = "traceback", _where()
        cpu_s = time.process_time() - began
        if kind in ("accepted", "refused"):
            if broken:
                kind, what = "wrote", broken[0]
            elif listing(self.case) | listing(self.outside) != before:
                kind, what = "wrote", "files of the study's folder changed"
            elif leftovers := [p.name for p in self.cache.rglob("*") if p.name.endswith(".part")]:
                kind, what = "wrote", f"half an artifact was left: {leftovers[0]}"
        # Not getrusage's peak, which is also that of whoever started this program, as it was when it forked.
        peak = peak_mib()
        if kind in ("accepted", "refused") and peak > self._limit_mib:
            kind, what = "memory", f"{peak:.0f} MiB resident"
        return Outcome(kind=kind, what=what, cpu_s=round(cpu_s, 4), peak_mib=round(peak, 1))

    def _restore(self, folder: Path, files: Files) -> None:
        shutil.rmtree(self.cache, ignore_errors=True)
        self.cache.mkdir(exist_ok=True)
        _end_uses()
        if folder != self.case:
            shutil.rmtree(folder, ignore_errors=True)
            return
        for name in {"study.yaml", *files}:
            if name in self._good:
                (self.case / name).write_bytes(self._good[name])


def write_files(folder: Path, files: Files) -> None:
    """The files are in the folder; names that lead out of it are not written, for they are the product's to refuse."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink():
            path.unlink()
        if content.startswith(LINK):
            path.unlink(missing_ok=True)
            path.symlink_to(os.fsdecode(content[len(LINK) :].replace(b"\0", b"")[:200] or b"x"))
        else:
            path.write_bytes(content)


def _study(folder: Path, cache: Path) -> object:
    """What every command does before it runs a trial."""
    from autotune.cache import Cache
    from autotune.data.study_data import load_study_data
    from autotune.spec.check import check_load, check_model
    from autotune.spec.load import load_spec

    spec = load_spec(folder / "study.yaml")
    check_load(spec.load)
    if spec.model.torch is not None:
        return spec  # code that the study names is the user's own and would run
    return load_study_data(spec, check_model(spec), Cache(cache, max_gib=1))


def _base_model(folder: Path, cache: Path) -> object:
    """The same, and then the model is made the one that every variant starts from, which runs it."""
    from autotune.cache import Cache
    from autotune.spec.load import load_spec
    from autotune.variants.base import base_model

    _study(folder, cache)
    return base_model(load_spec(folder / "study.yaml").model, Cache(cache, max_gib=1))


def _opened_bundle(folder: Path, cache: Path) -> object:
    """The bundle is read by us, and its files are checked by the script that travels with it; what it refuses, we do, too."""
    from autotune.export import run_onnxruntime as script
    from autotune.export.reader import open_bundle

    script.HERE = folder.resolve()
    refused = ""
    try:
        script._check_files()
        script._document("settings.json")
    except SystemExit as exc:
        refused = str(exc)
    found = open_bundle(folder)
    if refused:
        raise AssertionError(f"the bundle's script refuses what we accept: {refused}")
    return found


def _shared_artifact(folder: Path, cache: Path) -> object:
    """The artifact is fetched, or made here, but never anything else."""
    from autotune.cache import Cache

    found = Cache(cache, max_gib=1, artifacts=f"file://{folder}").get_or_make("engines", "k", lambda folder: {"n": 2})
    if found.facts.get("n") is None and found.hit is False:
        raise AssertionError("the artifact that was made here is not the one that was given out")
    return found


def _end_uses() -> None:
    from autotune.cache import locks

    for descriptor in locks._in_use.values():
        os.close(descriptor)
    locks._in_use.clear()


def _where() -> str:
    """The traceback's last lines, which name the culprit."""
    lines = traceback.format_exc().strip().splitlines()
    ours = [line.strip() for line in lines if "/autotune/" in line]
    return f"{lines[-1][:300]} at {ours[-1] if ours else lines[-3].strip() if len(lines) > 2 else '?'}"
