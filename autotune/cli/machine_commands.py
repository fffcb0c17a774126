"""doctor, schema, presets, db: the commands about the machine and the installation."""

from __future__ import annotations

from typing import Any

import click

from autotune.cli.options import json_option, storage_option


@click.command()
@json_option
def doctor(as_json: bool) -> int:
    """What this machine can do, and the fix for each gap. Exit code 3 when no engine can run."""
    from autotune.cli.doctor import doctor_document, print_doctor
    from autotune.cli.render import emit_json

    document = doctor_document()
    if as_json:
        emit_json(document)
    else:
        print_doctor(document)
    return 0 if any(e["available"] for e in document["engines"]) else 3


@click.command()
def schema() -> None:
    """The JSON schema of study.yaml, for editors and validators."""
    from autotune.cli.render import emit_json
    from autotune.spec.schema import json_schema

    emit_json(json_schema())


@click.command()
@json_option
def presets(as_json: bool) -> None:
    """The search spaces that a study's `space: {extends: …}` can name."""
    import yaml

    from autotune.assets import asset
    from autotune.cli.render import emit_json

    found: list[dict[str, Any]] = []
    for path in sorted(asset("search_spaces").glob("*.yaml")):
        document = yaml.safe_load(path.read_text())
        found.append({"name": path.stem, "description": document.get("description", ""), "knobs": document.get("knobs", {})})
    if as_json:
        emit_json(found)
        return
    for preset in found:
        click.echo(f"{preset['name']}: {' '.join(preset['description'].split())}")
        for knob, domain in preset["knobs"].items():
            click.echo(f"  {knob}: {domain}")


@click.group()
def db() -> None:
    """Look after the database."""


@db.command()
@storage_option
def upgrade(storage: str | None) -> None:
    """Bring the tables of a database to the schema of this version; nothing is lost."""
    from autotune.cli.context import storage_from_environment
    from autotune.store.repository import upgrade as upgrade_store

    before, after = upgrade_store(storage or storage_from_environment())
    click.echo(f"schema {before or 'none'} → {after}" if before != after else f"schema {after}: nothing to do", err=True)
