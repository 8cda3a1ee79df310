"""The roles a process can have: serve (all of them), api, worker, beat; and the operator's chores.

What takes long to import (SQLAlchemy, FastAPI, torch) is imported by the command that needs it: `oubli --help` and the
commands that only talk to a running service wait for none of it.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated

import typer

from service import log
from service.cli.edge import edge_command, share_cores
from service.cli.folder import DataOption, require_registry, settings_of
from service.cli.printing import JsonOption, plain, print_json
from service.errors import Invalid
from service.loading import loading
from service.messaging.queues import QUEUES
from service.settings import describe, load_settings

PortOption = Annotated[int, typer.Option(help="Port of the API.", min=1, max=65535)]
HostOption = Annotated[str, typer.Option(help="Address to listen at.")]


def serve(data: DataOption = None, port: PortOption = 8000, host: HostOption = "127.0.0.1") -> None:
    """Run everything: API, workers and their timer, started and supervised here."""
    chosen = settings_of(data)
    from service.cli.supervisor import Supervisor

    log.configure(chosen.log_level, chosen.log_format)
    sys.exit(Supervisor(chosen, host=host, port=port).run())


def api(data: DataOption = None, port: PortOption = 8000, host: HostOption = "127.0.0.1") -> None:
    """Run the API alone."""
    share_cores()
    from service.core.access import require_guarded
    from service.core.privacy import keep_private

    chosen = settings_of(data)

    log.configure(chosen.log_level, chosen.log_format)
    require_guarded(chosen, host)
    if chosen.tracing:
        from service import tracing

        tracing.start("api")
    require_registry(chosen)
    keep_private(chosen)
    with loading():  # last, with torch: whatever is refused is refused at once
        from service.api.server import serve as serve_http

    serve_http(chosen, host=host, port=port)


def worker(
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N.")] = None,
    name: Annotated[str | None, typer.Option(help="Unique name; default: host and process id.")] = None,
    queues: Annotated[str, typer.Option(help="Queues to consume: deletions, additions or both.")] = ",".join(QUEUES),
) -> None:
    """Run one training worker; one process a device. With `--queues deletions` it trains what erasures changed."""
    require_registry(settings_of(None, device=device))
    chosen = [*(["--device", device] if device else []), *(["--name", name] if name else [])]
    _become("worker", [*chosen, "--queues", ",".join(_queues(queues))])


def _queues(given: str) -> list[str]:
    """The queues in the order in which a worker consumes them. Raises Invalid for an unknown name."""
    names = {name.strip() for name in given.split(",") if name.strip()}
    if not names or names - set(QUEUES):
        raise Invalid(f"--queues: {plain(given)!r} is not made of {' and '.join(QUEUES)}.")
    return [queue for queue in QUEUES if queue in names]


def beat() -> None:
    """Run the timer that notifies workers of pending work whose notification was lost."""
    load_settings()
    _become("beat", [])


def _become(role: str, arguments: list[str]) -> None:
    """This process turns into the Celery edge."""
    share_cores()
    os.execv(sys.executable, edge_command(role, *arguments))


def migrate(data: DataOption = None) -> None:
    """Bring the registry's schema up to this release; refuse one that a newer release made."""
    chosen = settings_of(data)
    from service.registry import engine

    engine.migrate(chosen.database)
    typer.echo("The registry is up to date.")


def openapi() -> None:
    """Print the OpenAPI description, as committed in openapi.json."""
    from service.api.app import create_app

    typer.echo(json.dumps(create_app(load_settings()).openapi(), indent=2, ensure_ascii=False))


def settings(as_json: JsonOption = False) -> None:
    """Print every setting with its default, as a Markdown table."""
    if as_json:
        names = ("variable", "default", "description")
        print_json([dict(zip(names, row, strict=True)) for row in describe()])
        return
    typer.echo("| Variable | Default | |\n|---|---|---|")
    for variable, default, description in describe():
        typer.echo(f"| `{variable}` | {f'`{default}`' if default else ''} | {description} |")
