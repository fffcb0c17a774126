"""The second tier: artifacts reach other hosts whole, nothing from there is trusted, and its failures cost a build only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from autotune.cache import Cache
from autotune.cache.artifact import Damaged, Manifest
from autotune.cache.plausible import require_plausible
from autotune.cache.remote import SharedArtifacts
from autotune.cache.remote_state import REST_S, RemoteState
from autotune.errors import BuildFailed, EnvironmentProblem

fsspec = pytest.importorskip("fsspec", reason="the second tier needs fsspec")


def making(text: str = "engine") -> Callable[[Path], Mapping[str, Any]]:
    def make(folder: Path) -> Mapping[str, Any]:
        (folder / "sub").mkdir()
        (folder / "sub" / "data").write_text(text)
        (folder / "empty").write_bytes(b"")
        return {"n": 3}

    return make


def refuse(folder: Path) -> Mapping[str, Any]:
    pytest.fail("made although it is shared")


@pytest.fixture(params=["file", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    yield f"file://{tmp_path}/share" if request.param == "file" else "memory://share"
    fsspec.filesystem("memory").store.clear()


def host(tmp_path: Path, name: str, url: str) -> Cache:
    return Cache(tmp_path / name, max_gib=1, artifacts=url)


def shared(cache: Cache, kind: str = "engines", text: str = "engine") -> None:
    cache.get_or_make(kind, "k", making(text), needs=["variant/v"])
    cache.share()


def manifest_path(share: Path) -> Path:
    return share / "artifacts" / "engines" / "k.json"


def test_what_one_host_makes_another_finds(tmp_path: Path, url: str) -> None:
    """Files, facts and what it is made from are the same; it counts as known, and afterwards needs no share."""
    first, second = host(tmp_path, "a", url), host(tmp_path, "b", url)
    shared(first)
    found = second.get_or_make("engines", "k", refuse)
    assert found.hit and found.facts == {"n": 3} and (found.folder / "sub" / "data").read_text() == "engine"
    assert json.loads((found.folder / "artifact.json").read_text())["needs"] == ["variant/v"]
    assert Cache(tmp_path / "b").get_or_make("engines", "k", refuse).hit
    assert (first._remote.state.read().pushed, second._remote.state.read().fetched) == (1, 1)  # type: ignore[union-attr]


def test_find_looks_there_too(tmp_path: Path, url: str) -> None:
    """The reference's answers, measured on another host, are found."""
    shared(host(tmp_path, "a", url), "accuracy")
    assert host(tmp_path, "b", url).find("accuracy", "k") is not None
    assert host(tmp_path, "b", url).find("accuracy", "other") is None


def test_data_is_not_shared(tmp_path: Path, url: str) -> None:
    """Every host has the samples anyway."""
    shared(host(tmp_path, "a", url), "samples")
    assert host(tmp_path, "b", url).find("samples", "k") is None


def test_a_rejection_is_shared(tmp_path: Path, url: str) -> None:
    """What cannot be built for a device is tried on one host only: the key names the device."""

    def fail(folder: Path) -> Mapping[str, Any]:
        raise BuildFailed("no kernel", stage="engine")

    first = host(tmp_path, "a", url)
    with pytest.raises(BuildFailed):
        first.get_or_make("engines", "k", fail)
    first.share()
    with pytest.raises(BuildFailed, match="no kernel"):
        host(tmp_path, "b", url).get_or_make("engines", "k", refuse)


def test_no_temporary_names_are_left(tmp_path: Path) -> None:
    """Objects are uploaded beside their place and moved there."""
    shared(host(tmp_path, "a", f"file://{tmp_path}/share"))
    names = sorted(p.relative_to(tmp_path / "share").as_posix() for p in (tmp_path / "share").rglob("*") if p.is_file())
    digests = sorted(hashlib.sha256(text).hexdigest() for text in (b"engine", b""))
    assert names == ["artifacts/engines/k.json", *(f"objects/{d[:2]}/{d}" for d in digests)]


Damaging = Callable[[Path], None]


def edited(change: Callable[[dict[str, Any]], None]) -> Damaging:
    def damage(share: Path) -> None:
        document = json.loads(manifest_path(share).read_text())
        change(document)
        manifest_path(share).write_text(json.dumps(document))

    return damage


def renamed(to: str) -> Damaging:
    def change(document: dict[str, Any]) -> None:
        for section in ("files", "sizes"):
            document[section][to] = document[section].pop("empty")

    return edited(change)


def objects(change: Callable[[Path], object]) -> Damaging:
    def damage(share: Path) -> None:
        for path in (share / "objects").rglob("*"):
            if path.is_file() and path.stat().st_size:
                change(path)

    return damage


DAMAGES: dict[str, Damaging] = {
    "another content": objects(lambda p: p.write_text("enginE")),
    "longer than said": objects(lambda p: p.write_text("engine" * 1000)),
    "cut": objects(lambda p: p.write_text("eng")),
    "no object": objects(lambda p: p.unlink()),
    "path out of the folder": renamed("../../../../escaped"),
    "absolute path": renamed("/etc/escaped"),
    "hidden manifest": renamed("a/../artifact.json"),
    "manifest over ours": renamed("artifact.json"),
    "another artifact's manifest": edited(lambda d: d.update(name="engines/other")),
    "no sizes": edited(lambda d: d.pop("sizes")),
    "size as text": edited(lambda d: d["sizes"].update(empty="0")),
    "huge size": edited(lambda d: d["sizes"].update(empty=1 << 60)),
    "an exception of its choice": edited(lambda d: d.update(rejected={"kind": "SystemExit", "stage": "", "message": ""})),
    "needs out of the folder": edited(lambda d: d.update(needs=["../../x"])),
    "no files": edited(lambda d: d.update(files={}, sizes={})),
    "facts without end": edited(lambda d: d.update(facts={"n": float("inf")})),
    "facts of no size": edited(lambda d: d.update(facts={"n": 10**400})),
    "no JSON": lambda share: manifest_path(share).write_text("{") and None,
    "a list": lambda share: manifest_path(share).write_text("[]") and None,
    "deep JSON": lambda share: manifest_path(share).write_text("[" * 200_000) and None,
    "too large": lambda share: manifest_path(share).write_text(" " * (5 << 20)) and None,
}


MODEL = {"params": 3, "macs": None, "bytes": 9, "digest": "a" * 64, "attention": False}


@pytest.mark.parametrize(
    "wrong", [{"params": [1]}, {"macs": 1.5}, {"digest": 3}, {"attention": None}, {"notes": "x"}, {"bytes": -1}]
)
def test_a_model_has_the_facts_of_one(wrong: dict[str, Any]) -> None:
    """Who uses them computes with them, in the study's own process."""
    files = {"model.onnx": "b" * 64}
    require_plausible("base", Manifest(files=files, facts=MODEL))
    with pytest.raises(Damaged, match=next(iter(wrong))):
        require_plausible("base", Manifest(files=files, facts=MODEL | wrong))
    with pytest.raises(Damaged, match="file"):
        require_plausible("base", Manifest(files={"other": "b" * 64}, facts=MODEL))


@pytest.mark.parametrize("name", DAMAGES)
def test_whatever_lies_there_the_artifact_is_made_here(name: str, tmp_path: Path) -> None:
    """Damaged or hostile, it is passed over with a count and a flag; nothing is written outside the artifact's folder."""
    share, root = tmp_path / "share", tmp_path / "deep" / "er" / "b"
    shared(host(tmp_path, "a", f"file://{share}"))
    DAMAGES[name](share)
    cache = Cache(root, max_gib=1, artifacts=f"file://{share}")
    made = cache.get_or_make("engines", "k", making("mine"))
    cache.share()
    assert not made.hit and (made.folder / "sub" / "data").read_text() == "mine"
    assert sorted(p.name for p in made.folder.iterdir()) == ["artifact.json", "empty", "sub"]
    assert list(cache.flags) == ["shared_artifacts_failed"] and cache._remote.state.read().failures == 1  # type: ignore[union-attr]
    assert not [p for p in tmp_path.rglob("*escaped*")] and not Path("/etc/escaped").exists()
    assert not list((root / "engines").glob(".*"))


def test_with_a_key_only_what_was_signed_with_it_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who can write to the share, but has no key, cannot have this host run their engine."""
    url = f"file://{tmp_path}/share"
    monkeypatch.setenv("AUTOTUNE_ARTIFACTS_KEY", "ours")
    shared(host(tmp_path, "a", url))
    assert host(tmp_path, "b", url).get_or_make("engines", "k", refuse).hit
    edited(lambda d: d["facts"].update(n=4))(tmp_path / "share")
    assert not host(tmp_path, "c", url).get_or_make("engines", "k", making()).hit
    monkeypatch.setenv("AUTOTUNE_ARTIFACTS_KEY", "theirs")
    assert not host(tmp_path, "d", url).get_or_make("engines", "k", making()).hit


class Away:
    """A file system that cannot be reached."""

    def __getattr__(self, name: str) -> Any:
        def fail(*_: object, **__: object) -> None:
            raise ConnectionError("no route to ftp://me:hush@host")

        return fail


def test_a_share_that_is_away_rests_and_fails_no_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One failure, one warning, and for a minute nobody asks again; no password is shown."""
    now = [5000.0]
    state = RemoteState(root=tmp_path, url="ftp://me:hush@host/x", clock=lambda: now[0])
    opened: list[str] = []
    monkeypatch.setattr("autotune.cache.remote.opened", lambda url: (opened.append(url), (Away(), "x"))[1])
    for _ in range(3):
        remote = SharedArtifacts(state.url, state)
        assert remote.fetch("engines/k", tmp_path) is None
    assert len(opened) == 1 and state.read().failures == 1 and len(caplog.records) == 1
    assert "hush" not in caplog.text + state.path.read_text() and "***" in state.read().last_failure
    now[0] += REST_S + 1
    assert SharedArtifacts(state.url, state).fetch("engines/k", tmp_path) is None and len(opened) == 2
    now[0] -= 3600  # a clock that was set back does not make the rest longer
    assert not state.is_resting()


def test_a_share_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trial goes on although the share never answers."""
    import threading

    never = threading.Event()
    monkeypatch.setattr("autotune.cache.remote.opened", lambda url: never.wait())
    monkeypatch.setattr("autotune.cache.remote._LOOK_S", 0.05)
    cache = host(tmp_path, "a", "file:///nowhere")
    assert not cache.get_or_make("engines", "k", making()).hit
    never.set()


def test_a_scheme_without_its_library_is_told(tmp_path: Path) -> None:
    """Before the study starts, with what to install."""
    from autotune.cache.remote import opened

    with pytest.raises(EnvironmentProblem, match="artifacts: nosuch://"):
        opened("nosuch://bucket/x")
