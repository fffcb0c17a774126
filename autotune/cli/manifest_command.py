"""manifest: what makes systemd, Kubernetes or Slurm start a study."""

from __future__ import annotations

from pathlib import Path

import click

from autotune.cli.options import file_argument, storage_option, writing_whole


@click.command()
@file_argument
@click.option("--target", required=True, help="systemd, kubernetes or slurm.")
@click.option("--out", type=click.Path(path_type=Path), help="A file; default: stdout.")
@click.option("--device", "devices", multiple=True, help="One worker on each, such as cuda:0; default: the study file's.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes per device.")
@click.option("--image", help="The container image, for targets that need one.")
@click.option("--option", "-o", "options", multiple=True, metavar="NAME=VALUE", help="An option of the target's own.")
@storage_option
def manifest(
    study_file: str,
    target: str,
    out: Path | None,
    devices: tuple[str, ...],
    workers: int,
    image: str | None,
    options: tuple[str, ...],
    storage: str | None,
) -> None:
    """Print or write what makes another system start a study: a systemd unit, a Kubernetes Job, a Slurm script."""
    from autotune.fleet.manifests import ManifestRequest, make_manifest
    from autotune.spec.load import load_spec

    path = Path(study_file).absolute()
    request = ManifestRequest(
        study=load_spec(path).study,
        study_file=path,
        storage=storage,
        devices=devices,
        image=image,
        workers=workers,
        options=options,
    )
    text = make_manifest(target, request)
    if out is None:
        click.echo(text, nl=False)
        return
    with writing_whole(out) as whole:
        whole.write_text(text)
    click.echo(f"wrote {out}", err=True)
