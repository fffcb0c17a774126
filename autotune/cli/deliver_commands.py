"""export, report and dashboard: the commands that hand results on."""

from __future__ import annotations

from pathlib import Path

import click

from autotune.cli.options import storage_option, study_argument, writing, writing_whole


@click.command()
@study_argument
@click.option("--trial", metavar="N", help="The trial to export; default: the best one.")
@click.option("--target", help="onnxruntime or openvino; default: the trial's engine.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="A new folder.")
@storage_option
def export(study: str, trial: str | None, target: str | None, out: Path, storage: str | None) -> None:
    """Write a deployment bundle: model, settings, manifest with checksums and intervals, and a script that runs it."""
    from autotune.cli.context import open_study
    from autotune.cli.query_commands import best_in
    from autotune.engines.build import load_backend
    from autotune.errors import CandidateRejected, ExportError
    from autotune.export.bundle import BundleSource, export_bundle
    from autotune.spec.model import see_users_modules
    from autotune.trial.artifacts import cache_of, cache_root_of
    from autotune.trial.materialize import materialize

    found = open_study(study, storage)
    see_users_modules(found.spec)
    record = found.trial(trial) if trial else best_in(found, None)
    try:
        materials = materialize(found.spec, record.candidate, cache_of(found.spec, cache_root_of(found.spec)))
    except CandidateRejected as exc:
        raise ExportError(f"trial {record.number} cannot be made again: {exc}") from exc
    preprocess, began = found.spec.data.preprocess, found.environment()
    source = BundleSource(
        record=record,
        materials=materials,
        settings=load_backend(record.candidate.engine).deployment(record.candidate),
        preprocess=preprocess.model_dump(mode="json") if preprocess else None,
        instructions=began.instructions if began else (),
    )
    with writing(out):
        folder = export_bundle(source, target or record.candidate.engine, out)
    click.echo(f"wrote {folder}: trial {record.number} [{record.candidate}]. Run it: python {folder}/run.py", err=True)


@click.command()
@study_argument
@click.option("--out", required=True, type=click.Path(path_type=Path), help="A page, .html, or a picture: .png, .svg, .pdf.")
@storage_option
def report(study: str, out: Path, storage: str | None) -> None:
    """A page with front, ties, knobs, rejections and environment; or the front as a picture."""
    from autotune.cli.context import open_study
    from autotune.cli.report_content import cloud_from, report_content
    from autotune.errors import SpecError
    from autotune.report.page import report_page
    from autotune.report.plot import draw_front

    if out.suffix not in (".html", ".png", ".svg", ".pdf"):
        raise SpecError(f"--out {out}: found the suffix {out.suffix!r}; allowed: .html, .png, .svg, .pdf")
    found = open_study(study, storage)
    with writing_whole(out) as whole:
        if out.suffix == ".html":
            whole.write_text(report_page(report_content(found)), encoding="utf-8")
        else:
            standing = found.standing()
            draw_front(cloud_from(standing), standing.front, found.reference(), whole)
    click.echo(f"wrote {out}", err=True)


@click.command()
@study_argument
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="The dashboard has no login: other addresses are at your own risk."
)
@click.option("--port", default=8080, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one.")
@storage_option
def dashboard(study: str, host: str, port: int, storage: str | None) -> None:
    """Serve optuna-dashboard for a study, on loopback unless told otherwise."""
    from autotune.cli.context import open_study
    from autotune.report.dashboard import serve_dashboard

    found = open_study(study, storage)
    if host not in ("127.0.0.1", "::1", "localhost"):
        click.echo(f"warning: whoever reaches {host}:{port} can change and delete studies", err=True)
    serve_dashboard(
        found.store.url, host, port, lambda address: click.echo(f"{found.row.name}: {address}  (Ctrl-C ends)", err=True)
    )
