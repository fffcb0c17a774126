"""SharedArtifacts: a second tier behind the local cache, in a shared folder or behind any URL that fsspec opens.

    URL/objects/ab/abcd…          a file, called by its SHA-256
    URL/artifacts/KIND/KEY.json   which files an artifact has, written last

Every object is uploaded under a temporary name and then moved, so that others see it whole or not at all. Nothing that comes
from there is trusted: names are checked, sizes bounded, every digest compared, nothing unpickled; with $AUTOTUNE_ARTIFACTS_KEY
set, only what was signed with the same key is taken at all. Whatever fails there costs a build, never a trial.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import shutil
import threading
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from autotune import __version__
from autotune.cache.artifact import MAX_MANIFEST_BYTES, Damaged, Manifest, manifest_from_json
from autotune.cache.names import is_artifact_name
from autotune.cache.plausible import require_plausible
from autotune.cache.remote_state import RemoteState
from autotune.errors import EnvironmentProblem
from autotune.fingerprint import canonical_json, file_digest
from autotune.redact import without_password

_log = logging.getLogger(__name__)
KEY_VARIABLE = "AUTOTUNE_ARTIFACTS_KEY"
_MAX_BYTES = 64 << 30
_CHUNK = 1 << 20
_LOOK_S = 30.0
_LEAST_BYTES_PER_S = 1 << 20
_LONGEST_S = 300.0
"""A transfer may take 30 s and a second per MiB, at most five minutes: a share that hangs must not end the trial."""


class _Unusable(Exception):
    """The remote artifact is not taken; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """A file of a remote artifact."""

    digest: str
    size_bytes: int


_Found = tuple[Manifest, dict[str, RemoteFile]]


class SharedArtifacts:
    """The remote tier at `url`. Its failures are counted in `state` and warned of once in a process."""

    def __init__(self, url: str, state: RemoteState, signing_key: bytes | None = None) -> None:
        self.url, self.state = url, state
        self._key = signing_key if signing_key is not None else os.environ.get(KEY_VARIABLE, "").encode() or None
        self._opened: tuple[Any, str] | None = None
        self.failures = 0

    def fetch(self, name: str, folder: Path) -> Manifest | None:
        """The artifact's files are in the empty folder, every digest compared; None where that failed, whatever is there."""
        found: _Found | None = self._safely(f"looking for {name}", _LOOK_S, lambda: self._manifest(name))
        if found is None:
            return None
        manifest, files = found
        total = sum(f.size_bytes for f in files.values())
        free = shutil.disk_usage(folder).free
        if total > min(_MAX_BYTES, free):
            self._failed(f"fetching {name}", _Unusable(f"it takes {total >> 20} MiB, and {free >> 20} MiB are free here"))
            return None
        if self._safely(f"fetching {name}", _transfer_s(total), lambda: self._download(files, folder)) is None:
            return None
        self.state.count(fetched=1)
        return manifest

    def push(self, name: str, folder: Path, manifest: Manifest) -> bool:
        """True when the artifact is there for others."""
        total = sum((folder / file).stat().st_size for file in manifest.files)
        done = self._safely(f"sharing {name}", _transfer_s(total), lambda: self._upload(name, folder, manifest))
        if done:
            self.state.count(pushed=1)
        return done is not None

    # What talks to the file system, in a thread that may be given up

    def _manifest(self, name: str) -> _Found | None:
        files, root = self._open()
        path = f"{root}/artifacts/{name}.json"
        if not is_artifact_name(name) or not files.exists(path):
            return None
        with files.open(path, "rb") as handle:
            content = handle.read(MAX_MANIFEST_BYTES + 1)
        if len(content) > MAX_MANIFEST_BYTES:
            raise _Unusable("its manifest is too large")
        document = json.loads(content)
        self._require_signed(document)
        if not isinstance(document, dict) or document.get("name") != name:
            raise _Unusable("its manifest is that of another artifact")
        sizes = document.get("sizes")
        manifest = manifest_from_json(document)
        require_plausible(name.partition("/")[0], manifest)
        if not isinstance(sizes, dict) or set(sizes) != set(manifest.files):
            raise _Unusable("its manifest does not say how large its files are")
        if not all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n <= _MAX_BYTES for n in sizes.values()):
            raise _Unusable("its manifest names sizes that cannot be")
        return manifest, {file: RemoteFile(digest=digest, size_bytes=sizes[file]) for file, digest in manifest.files.items()}

    def _download(self, wanted: Mapping[str, RemoteFile], folder: Path) -> bool:
        files, root = self._open()
        for name, file in wanted.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            seen, left = hashlib.sha256(), file.size_bytes
            with files.open(_object(root, file.digest), "rb") as source, target.open("xb") as handle:
                while chunk := source.read(min(_CHUNK, left + 1)):
                    left -= len(chunk)
                    if left < 0:
                        raise _Unusable(f"its file {name} is larger than its manifest says")
                    seen.update(chunk)
                    handle.write(chunk)
            if left or seen.hexdigest() != file.digest:
                raise _Unusable(f"its file {name} is not the one that its manifest names")
        return True

    def _upload(self, name: str, folder: Path, manifest: Manifest) -> bool:
        files, root = self._open()
        path = f"{root}/artifacts/{name}.json"
        if files.exists(path):
            return False
        for file, digest in manifest.files.items():
            target = _object(root, digest)
            if not files.exists(target):
                # What lies here is compared once more: a damaged file must not spread.
                if file_digest(folder / file) != digest:
                    raise _Unusable(f"its file {file} changed since it was made")
                _put(files, target, partial(files.put_file, str(folder / file)))
        document = {**manifest.as_json(), "name": name, "autotune": __version__}
        document["sizes"] = {file: (folder / file).stat().st_size for file in manifest.files}
        if self._key is not None:
            document["signature"] = _signature(document, self._key)
        content = json.dumps(document, indent=1).encode()
        _put(files, path, partial(files.pipe_file, value=content))
        return True

    def _require_signed(self, document: Any) -> None:
        if self._key is None:
            return
        given = document.get("signature") if isinstance(document, dict) else None
        body = {k: v for k, v in document.items() if k != "signature"} if isinstance(document, dict) else {}
        if not isinstance(given, str) or not hmac.compare_digest(given.encode(), _signature(body, self._key).encode()):
            raise _Unusable(f"it is not signed with this host's ${KEY_VARIABLE}")

    def _open(self) -> tuple[Any, str]:
        if self._opened is None:
            self._opened = opened(self.url)
        return self._opened

    # Failures

    def _safely(self, what: str, limit_s: float, work: Callable[[], Any]) -> Any:
        """What `work` gives; None where it raised or took longer, or where the tier failed a moment ago."""
        if self.state.is_resting():
            return None
        answer: list[Any] = []
        raised: list[BaseException] = []

        def run() -> None:
            try:
                answer.append(work())
            except BaseException as exc:
                raised.append(exc)

        thread = threading.Thread(target=run, name="shared artifacts", daemon=True)
        thread.start()
        thread.join(limit_s)
        if answer:
            return answer[0]
        self._failed(what, raised[0] if raised else TimeoutError(f"no answer within {limit_s:.0f} s"))
        return None

    def _failed(self, what: str, exc: BaseException) -> None:
        """Counted, and told once: the artifact is made here. A tier that is away rests, one bad artifact is passed over."""
        self.failures += 1
        words = without_password(f"{what}: {' '.join(str(exc).split())[:300] or type(exc).__name__}")
        away = not isinstance(exc, _Unusable | Damaged | ValueError)
        self.state.count(failures=1, last_failure=words, rests=away)
        level = logging.WARNING if self.failures == 1 else logging.DEBUG
        _log.log(level, "artifacts=%s failed=%d %s; what is missing is made here", self.state.shown_url, self.failures, words)


def opened(url: str) -> tuple[Any, str]:
    """fsspec's file system for the URL, and the path in it. Raises EnvironmentProblem where a library for it is missing."""
    try:
        from fsspec.core import url_to_fs
    except ImportError as exc:
        raise EnvironmentProblem("artifacts: needs fsspec.", remedy="pip install 'autotune[artifacts]'") from exc
    options = {"auto_mkdir": True} if url.startswith("file:") else {}
    try:
        files, root = url_to_fs(url, **options)
    except ImportError as exc:
        raise EnvironmentProblem(
            f"artifacts: {url.partition('://')[0]}:// needs a library that is not installed: {exc}.",
            remedy="pip install the one it names, beside 'autotune[artifacts]'",
        ) from exc
    except ValueError as exc:
        raise EnvironmentProblem(
            f"artifacts: {url.partition('://')[0]}:// is no scheme that fsspec knows ({exc}).", remedy="file://, s3://, gs:// …"
        ) from exc
    return files, str(root).rstrip("/")


def _put(files: Any, target: str, upload: Callable[[str], Any]) -> None:
    """The object is at `target` as a whole: uploaded beside it first, then moved."""
    temporary = f"{target}.{uuid.uuid4().hex}.part"
    with suppress(Exception):  # object stores have no folders, and some say so by raising
        files.makedirs(target.rpartition("/")[0], exist_ok=True)
    try:
        upload(temporary)
        files.mv(temporary, target)
    except BaseException:
        with suppress(Exception):
            files.rm_file(temporary)
        raise


def _object(root: str, digest: str) -> str:
    return f"{root}/objects/{digest[:2]}/{digest}"


def _signature(document: Mapping[str, Any], key: bytes) -> str:
    return hmac.new(key, canonical_json(document).encode(), "sha256").hexdigest()


def _transfer_s(n_bytes: int) -> float:
    return min(_LONGEST_S, _LOOK_S + n_bytes / _LEAST_BYTES_PER_S)
