"""Cache: artifacts under root/kind/key/, made once, checked before use, bounded in size."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from autotune import errors
from autotune.cache.artifact import (
    MANIFEST,
    Artifact,
    Damaged,
    Manifest,
    digests_of,
    read_manifest,
    require_whole,
    sync,
    write_manifest,
)
from autotune.cache.bound import LOW_WATER, Tally, bound_bytes
from autotune.cache.disk import disk_fault, disk_full, fault_of
from autotune.cache.eviction import make_room
from autotune.cache.inventory import (
    SCRATCH_SUFFIX,
    clear_own_leftovers,
    kind_folders,
    lock_path,
    scratch_prefix,
    size_of,
    sweep,
)
from autotune.cache.locks import locked, use
from autotune.cache.remote import SharedArtifacts
from autotune.cache.remote_state import RemoteState
from autotune.cache.trial_logs import everything

_log = logging.getLogger(__name__)
_ROOM_BYTES = (2 << 30, 1 << 62)
"""Freed where the disk is full, before the maker tries again: first what most artifacts need, then all that may go."""
ARTIFACT_REBUILT = "artifact_rebuilt"
"""Flag of a trial for which a damaged artifact was made again."""
REMOTE_FAILED = "shared_artifacts_failed"
"""Flag of a trial that could not reach the shared artifacts, or found damaged ones there."""
_NOT_SHARED = frozenset({"samples", "overlap", "accuracy-part"})
"""Kinds that every host makes from the data that it has anyway, or that are renewed."""

Make = Callable[[Path], Mapping[str, Any]]


class Cache:
    """Artifacts under `root/kind/key/`. Any number of processes may use one root; a key is made by one of them at a time.

    `max_gib`: the bound that is kept after each artifact that is made (default: see `cache.bound`). `artifacts`: the URL of a
    second tier, where an artifact is looked for before it is made; what was made here waits in `unshared` for `share`. `flags`:
    what happened to artifacts that this object gave out and their trial should tell.
    """

    def __init__(self, root: Path, *, max_gib: float | None = None, artifacts: str | None = None) -> None:
        self.root = root
        self.flags: dict[str, None] = {}
        self.unshared: list[tuple[Artifact, Manifest]] = []
        self._max_gib = max_gib
        self._remote = SharedArtifacts(artifacts, RemoteState(root=root, url=artifacts)) if artifacts else None

    def get_or_make(self, kind: str, key: str, make: Make, *, needs: Sequence[str] = ()) -> Artifact:
        """The artifact `key`, made by `make(folder)` if it is not there or is damaged.

        `make` fills an empty folder and returns JSON facts; `needs` names the artifacts that it makes it from, which stay as
        long as a front needs this one. A deterministic CandidateRejected is remembered and raised again for the same key, and
        its log, if it names one in the folder, is kept; any other exception leaves nothing behind. Files are replaced by rename
        after an fsync, so a reader never sees half of one, and their digests are compared on every hit. An artifact that was
        given out is not evicted before this process ends. Raises DiskFull where nothing more can be freed on a full disk.
        """
        target = self.root / kind / key
        self._require_folder(target.parent)
        with self._alone(target):
            found, damaged = self._whole(kind, key), target.exists()
            if found is not None:
                return found
            clear_own_leftovers(target)
            if damaged:
                shutil.rmtree(target, ignore_errors=True)
            fetched = self._fetched(kind, key)
            if not fetched:
                self._made(kind, key, make, tuple(needs))
            made = self._whole(kind, key)
        if made is None:
            raise errors.EnvironmentProblem(
                f"the artifact {target} was written but cannot be read back.", remedy=f"check the disk that holds {self.root}"
            )
        if damaged:
            self.flags[ARTIFACT_REBUILT] = None
        self.keep_bound(size_of(target))
        return replace(made, hit=fetched, rebuilt=damaged)

    def renew(self, kind: str, key: str, make: Make) -> None:
        """The artifact `key` is what `make(folder)` gives now, whatever it was: for knowledge that grows, such as a part of a
        measurement. Otherwise as `get_or_make`; a kill in the moment of the exchange loses it.
        """
        target = self.root / kind / key
        self._require_folder(target.parent)
        with self._alone(target):
            clear_own_leftovers(target)
            self._made(kind, key, make, ())
        self.keep_bound(size_of(target))

    def find(self, kind: str, key: str) -> Artifact | None:
        """The finished artifact `key`, also from the second tier; None where there is none, or it is damaged.

        Raises the CandidateRejected that is remembered for it.
        """
        target = self.root / kind / key
        if not target.exists():
            if self._remote is None or kind in _NOT_SHARED:
                return None
            self._require_folder(target.parent)
        with self._alone(target):
            found = self._whole(kind, key)
            if found is None and not target.exists() and self._fetched(kind, key):
                found = self._whole(kind, key)
        return found

    def has(self, kind: str, key: str) -> bool:
        """True when the artifact is finished, or known to be impossible."""
        return (self.root / kind / key / MANIFEST).exists()

    def share(self) -> None:
        """What was made here since the last call is in the second tier, as far as that can be reached."""
        waiting, self.unshared = self.unshared, []
        if self._remote is None:
            return
        for artifact, manifest in waiting:
            self._remote.push(artifact.name, artifact.folder, manifest)
        if self._remote.failures:
            self.flags[REMOTE_FAILED] = None

    # Reading

    def _whole(self, kind: str, key: str) -> Artifact | None:
        """The artifact if it is whole, now in use by this process. Raises the remembered CandidateRejected."""
        folder = self.root / kind / key
        try:
            manifest = read_manifest(folder)
            if manifest is None:
                return None
            require_whole(folder, manifest)
        except Damaged as exc:
            _log.warning("artifact=%s/%s damaged: %s; it is made again", kind, key, exc)
            return None
        use(folder / MANIFEST)
        with suppress(OSError):  # last use, also where the file system keeps no access times; a shared cache may be read-only
            os.utime(folder / MANIFEST)
        manifest.raise_if_rejected()
        return Artifact(kind=kind, key=key, folder=folder, facts=manifest.facts, hit=True)

    def _fetched(self, kind: str, key: str) -> bool:
        """True when the artifact came from the second tier; it lies where one that was made here would."""
        if self._remote is None or kind in _NOT_SHARED:
            return False
        target = self.root / kind / key
        try:
            with _scratch(target) as scratch:
                manifest = self._remote.fetch(f"{kind}/{key}", scratch)
                if manifest is None:
                    return False
                write_manifest(scratch, manifest)
                _exchange(scratch, target)
        except OSError as exc:
            _log.info("artifact=%s/%s could not be stored as it was fetched: %s", kind, key, exc)
            return False
        return True

    # Making

    def _made(self, kind: str, key: str, make: Make, needs: tuple[str, ...]) -> None:
        """What `make` gives is in place of whatever was there. Where the disk is full, others make room and it tries again."""
        for attempt in range(len(_ROOM_BYTES) + 1):
            try:
                self._make_once(kind, key, make, needs)
                return
            except errors.DiskFull:
                if attempt == len(_ROOM_BYTES) or not self._freed(_ROOM_BYTES[attempt]):
                    raise
                _log.warning("cache=%s is on a full disk; artifacts that nothing needs were removed, once more", self.root)

    def _make_once(self, kind: str, key: str, make: Make, needs: tuple[str, ...]) -> None:
        target = self.root / kind / key
        try:
            with _scratch(target) as scratch:
                manifest = _filled(scratch, make, needs)
                _exchange(scratch, target)
        except OSError as exc:
            if (number := disk_fault(exc)) is None:
                raise
            raise disk_full(target.parent, number) from exc
        if self._remote is not None and kind not in _NOT_SHARED:
            artifact = Artifact(kind=kind, key=key, folder=target, facts=manifest.facts, hit=False)
            self.unshared.append((artifact, manifest))

    def _freed(self, n_bytes: int) -> bool:
        """True when artifacts that nothing needs, and old logs, made room for so many bytes, or all of them did for less."""
        found = everything(self.root)
        room = make_room(self.root, max(0, sum(e.size_bytes for e in found) - n_bytes), found)
        Tally(self.root).set(room.left_bytes)
        return bool(room.gone)

    def keep_bound(self, made_bytes: int) -> None:
        """The cache is within its bound now that so many bytes were added to it, as far as anything may go."""
        tally = Tally(self.root)
        counted = tally.add(made_bytes)
        with suppress(OSError):
            if counted is not None and counted <= bound_bytes(self.root, self._max_gib, counted):
                return
            for folder in kind_folders(self.root):
                sweep(folder)
            found = everything(self.root)
            used = sum(e.size_bytes for e in found)
            bound = bound_bytes(self.root, self._max_gib, used)
            left = make_room(self.root, int(LOW_WATER * bound), found).left_bytes if used > bound else used
            tally.set(left)

    # Folders and locks

    @contextmanager
    def _alone(self, target: Path) -> Iterator[None]:
        """Inside the block no other process makes, reads or removes the artifact."""
        try:
            lock = locked(lock_path(target))
            lock.__enter__()
        except OSError as exc:
            raise self._unusable(target.parent, exc) from exc
        try:
            yield
        finally:
            lock.__exit__(None, None, None)

    def _require_folder(self, folder: Path) -> None:
        """The folder is there and can be written to. Raises EnvironmentProblem where it cannot be."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as exc:
            raise self._unusable(folder, exc) from exc

    def _unusable(self, folder: Path, exc: OSError) -> errors.EnvironmentProblem:
        if (number := disk_fault(exc)) is not None:
            return disk_full(folder, number)
        return errors.EnvironmentProblem(
            f"the cache {self.root} cannot be written: {exc.strerror or exc} ({folder}).",
            remedy="another folder as `cache:` of the study or in $AUTOTUNE_CACHE, or free space there",
        )


@contextmanager
def _scratch(target: Path) -> Iterator[Path]:
    """A new folder beside the artifact's, gone after the block unless it was moved to its place."""
    scratch = Path(tempfile.mkdtemp(prefix=scratch_prefix(target.name), suffix=SCRATCH_SUFFIX, dir=target.parent))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _exchange(scratch: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    scratch.replace(target)
    sync(target.parent)


def _filled(folder: Path, make: Make, needs: tuple[str, ...]) -> Manifest:
    """The manifest of what `make` left in the folder, which with it is on the disk.

    Raises DiskFull for whatever a maker raises when its disk takes no more: a rejection would be remembered for ever.
    """
    try:
        try:
            facts = dict(make(folder))
            manifest = Manifest(facts=facts, files=digests_of(folder), needs=needs)
        except errors.CandidateRejected as exc:
            if not exc.deterministic:
                raise
            if (number := fault_of(folder)) is not None:
                raise disk_full(folder.parent, number) from exc
            _clear(folder, exc.log_path)
            said = {"kind": type(exc).__name__, "stage": exc.stage, "message": str(exc)}
            manifest = Manifest(files={}, rejected=said, needs=needs)
        write_manifest(folder, manifest)
        return manifest
    except errors.AutotuneError:
        raise
    except Exception as exc:
        number = disk_fault(exc) or fault_of(folder)
        if number is None:
            raise
        raise disk_full(folder.parent, number) from exc


def _clear(folder: Path, kept: Path | None) -> None:
    """Nothing is in the folder but the file `kept`, if it was there."""
    for path in folder.iterdir():
        if path == kept:
            continue
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def default_cache_root() -> Path:
    """$AUTOTUNE_CACHE, or the user's cache folder of the platform's convention (XDG)."""
    if explicit := os.environ.get("AUTOTUNE_CACHE"):
        return Path(explicit)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "autotune"
