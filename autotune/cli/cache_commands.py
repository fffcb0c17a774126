"""cache, cache clean: what the artifacts take, what keeps them, and room where it is wanted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autotune.cli.options import FiniteNumber, json_option

if TYPE_CHECKING:
    from autotune.cache.inventory import Entry

_folder = click.option(
    "--folder", type=click.Path(path_type=Path), help="The cache; default: $AUTOTUNE_CACHE, else ~/.cache/autotune."
)


@click.group(invoke_without_command=True)
@_folder
@json_option
@click.pass_context
def cache(context: click.Context, folder: Path | None, as_json: bool) -> None:
    """What the cache holds, how large it may become where a study names no bound, and which studies keep what."""
    from autotune.cache import default_cache_root
    from autotune.cli.render import emit_json

    root = (folder or default_cache_root()).expanduser().absolute()
    context.obj = root
    if context.invoked_subcommand is not None:
        return
    document = cache_document(root)
    if as_json:
        emit_json(document)
        return
    _print(document)


@cache.command()
@_folder
@click.option("--all", "everything", is_flag=True, help="Also what the front of a study needs, and the newest logs.")
@click.option(
    "--max-gib",
    type=FiniteNumber("a number of GiB from 0 to 1e9", 0, 1e9),
    help="Keep so much, the most recently used; default: nothing.",
)
@click.option("--unpin", metavar="STUDY", help="First forget what that study keeps.")
@click.option("--dry-run", is_flag=True, help="Say what would go; remove nothing.")
@json_option
@click.pass_obj
def clean(
    root: Path,
    folder: Path | None,
    everything: bool,
    max_gib: float | None,
    unpin: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Remove artifacts that no front needs, and old logs of trials. What a process uses or makes stays, whatever is asked."""
    from autotune.cache.bound import Tally
    from autotune.cache.disk import shown_bytes
    from autotune.cache.eviction import remove
    from autotune.cache.inventory import kind_folders, leftovers, size_of, sweep
    from autotune.cache.pins import unpin as forget
    from autotune.cache.trial_logs import everything as all_of
    from autotune.cache.trial_logs import newest_logs
    from autotune.cli.render import emit_json
    from autotune.errors import SpecError

    root = folder.expanduser().absolute() if folder is not None else root
    if unpin is not None and not _studies(root).get(unpin):
        raise SpecError(f"--unpin {unpin}: found no such study in {root}; allowed: {', '.join(_studies(root)) or 'none'}")
    if unpin is not None and not dry_run:
        forget(root, unpin)
    kinds = kind_folders(root)
    left_behind = sum(size_of(p) for kind in kinds for p in leftovers(kind)) if dry_run else sum(map(sweep, kinds))
    found = all_of(root)
    kept = {} if everything else _kept(root, without=unpin)
    staying = {*kept, *(() if everything else newest_logs(found))}
    wanted = _going(found, staying, int((max_gib or 0) * 2**30))
    gone = wanted if dry_run else [entry for entry in wanted if remove(entry)]
    left = sum(e.size_bytes for e in found) - sum(e.size_bytes for e in gone)
    if not dry_run and root.is_dir():
        Tally(root).set(left)
    document = {
        "folder": str(root),
        "dry_run": dry_run,
        "removed": len(gone),
        "freed_bytes": sum(e.size_bytes for e in gone) + left_behind,
        "in_use": len(wanted) - len(gone),
        "left_bytes": left,
        "pinned": len([e for e in found if e.name in kept]),
    }
    if as_json:
        emit_json(document)
        return
    does = "would remove" if dry_run else "removed"
    freed = shown_bytes(sum(e.size_bytes for e in gone) + left_behind)
    click.echo(f"{does} {len(gone)} artifacts and logs, {freed}; {shown_bytes(left)} are left in {root}")
    if document["in_use"]:
        click.echo(f"{document['in_use']} are in use and stay")
    if document["pinned"]:
        click.echo(f"{document['pinned']} are needed by fronts and stay; --unpin STUDY or --all gives them up")


def cache_document(root: Path) -> dict[str, Any]:
    """Size, bound of studies without one, artifacts by kind, pins by study, the second tier, as `cache --json` prints it."""
    from autotune.cache.bound import bound_bytes
    from autotune.cache.inventory import NOT_KINDS, size_of
    from autotune.cache.remote_state import RemoteState
    from autotune.cache.trial_logs import KIND, everything

    found = everything(root)
    kept = _kept(root, without=None)
    used = sum(e.size_bytes for e in found)
    numbers, sizes, pinned = Counter[str](), Counter[str](), Counter[str]()
    for entry in found:
        numbers[entry.kind] += 1
        sizes[entry.kind] += entry.size_bytes
        pinned[entry.kind] += entry.size_bytes if entry.name in kept else 0
    counts = RemoteState(root=root, url="").read()
    other = {name: size_of(root / name) - (sizes[KIND] if name == "logs" else 0) for name in sorted(NOT_KINDS)}
    return {
        "folder": str(root),
        "size_bytes": used,
        "bound_bytes": bound_bytes(root, None, used) if root.is_dir() else None,
        "pinned_bytes": sum(pinned.values()),
        "kinds": {
            kind: {"artifacts": numbers[kind], "size_bytes": sizes[kind], "pinned_bytes": pinned[kind]}
            for kind in sorted(numbers)
        },
        "other_bytes": {name: size for name, size in other.items() if size > 0},
        "pins": _studies(root),
        "shared": {
            "fetched": counts.fetched,
            "pushed": counts.pushed,
            "failures": counts.failures,
            "last_failure": counts.last_failure,
        },
    }


def _print(document: dict[str, Any]) -> None:
    from autotune.cache.disk import shown_bytes

    click.echo(document["folder"])
    used, pinned = shown_bytes(document["size_bytes"]), shown_bytes(document["pinned_bytes"])
    bound = (
        "no such folder yet"
        if document["bound_bytes"] is None
        else f"may take {shown_bytes(document['bound_bytes'])}, or what a study's cache: {{max_gib}} says while it runs"
    )
    click.echo(f"  {used} in artifacts and logs of trials, of which fronts need {pinned}; {bound}")
    for kind, of in document["kinds"].items():
        click.echo(
            f"  {kind:<14} {of['artifacts']:>6}  {shown_bytes(of['size_bytes']):>9}  pinned {shown_bytes(of['pinned_bytes'])}"
        )
    for name, size in document["other_bytes"].items():
        click.echo(f"  {name:<14}         {shown_bytes(size):>9}  not counted")
    for study, storages in document["pins"].items():
        for storage, n in storages.items():
            click.echo(f"  {study} keeps {n} artifacts and what they were made from ({storage})")
    shared = document["shared"]
    if any(shared[k] for k in ("fetched", "pushed", "failures")):
        click.echo(f"  shared artifacts: {shared['fetched']} fetched, {shared['pushed']} pushed, {shared['failures']} failures")
        if shared["last_failure"]:
            click.echo(f"    the last one: {shared['last_failure']}")


def _studies(root: Path) -> dict[str, dict[str, int]]:
    """Study → its database → how many artifacts it keeps."""
    from autotune.cache.pins import pins

    found: dict[str, dict[str, int]] = {}
    for pin in pins(root):
        found.setdefault(pin.study, {})[pin.storage] = len(pin.artifacts)
    return found


def _kept(root: Path, without: str | None) -> dict[str, tuple[str, ...]]:
    from autotune.cache.pins import pinned, pins

    return dict(pinned(root, [pin for pin in pins(root) if pin.study != without]))


def _going(found: list[Entry], kept: Container[str], keep_bytes: int) -> list[Entry]:
    """The artifacts and logs to remove, least recently used first, until the rest takes at most `keep_bytes`."""
    left = sum(e.size_bytes for e in found)
    going = []
    for entry in sorted(found, key=lambda e: (e.used_at, e.name)):
        if left <= keep_bytes and keep_bytes:
            break
        if entry.name not in kept:
            going.append(entry)
            left -= entry.size_bytes
    return going
