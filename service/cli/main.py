"""`oubli`: one command for every role a process can have, and for talking to a running service."""

from __future__ import annotations

import sys

import typer

from service.cli import auditor, centroids, demo, desk, evaluate, heartbeat, keys, restore, roles
from service.errors import ServiceError

app = typer.Typer(
    name="oubli",
    help="Unlearning as a service: a classifier that can take any contribution back, exactly.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(roles.serve)
app.command()(roles.api)
app.command()(roles.worker)
app.command()(roles.beat)
app.command()(heartbeat.heartbeat)
app.command()(roles.migrate)
app.add_typer(keys.keys, name="keys")
app.command()(roles.openapi)
app.command()(roles.settings)
app.command()(desk.ingest)
app.command()(desk.predict)
app.command()(desk.erase)
app.command()(desk.retry)
app.command()(desk.status)
app.command("audit")(auditor.audit_command)
app.command("restore-check")(restore.restore_check)
app.command()(centroids.centroids)
app.command()(evaluate.evaluate)
app.command()(demo.demo)


def main() -> None:
    """Run; a failure that has words for the caller is printed as those words."""
    try:
        app()
    except ServiceError as error:
        print(f"oubli: {error.detail}", file=sys.stderr)
        sys.exit(2 if error.status == 500 else 1)
