"""metrics: a study for Prometheus, read from its database."""

from __future__ import annotations

import threading

import click

from autotune.cli.options import storage_option, study_argument


@click.command()
@study_argument
@click.option(
    "--listen",
    metavar="[HOST:]PORT",
    default="9464",
    show_default=True,
    help="Where /metrics is served; on 127.0.0.1 unless a host is named; port 0: a free one.",
)
@click.option("--once", is_flag=True, help="Print one scrape instead, as for node_exporter's textfile collector.")
@storage_option
def metrics(study: str, listen: str, once: bool, storage: str | None) -> None:
    """Serve a study's progress as Prometheus metrics, whoever runs it and wherever; Ctrl-C ends."""
    from autotune.cli.context import open_study
    from autotune.cli.metrics_server import StudyWatch, serving
    from autotune.errors import StoreError
    from autotune.report.prometheus import exposition, registry_of

    found = open_study(study, storage)
    if once:
        watch = StudyWatch(found.store, found.row.name, found.spec)
        if (sample := watch.look()) is None:
            raise StoreError(f"the database {found.store.shown_url} went away.")
        click.echo(exposition(registry_of(lambda: sample)), nl=False)
        return
    with serving(listen, found.spec, found.store.url):
        threading.Event().wait()
