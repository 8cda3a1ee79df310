"""The roles a process can have: serve (all of them), api, worker, beat; and the operator's chores.

What takes long to import (SQLAlchemy, FastAPI, torch) is imported by the command that needs it: `oubli --help` and the
commands that only talk to a running service wait for none of it.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from service import log
from service.cli.folder import DataOption, require_registry, settings_of
from service.cli.printing import JsonOption, plain, print_json, show
from service.clock import system_clock
from service.core.queues import QUEUES
from service.errors import Invalid, NotFound
from service.loading import loading
from service.registry.records import SCOPES, ApiKey
from service.settings import describe, load_settings

if TYPE_CHECKING:
    from service.registry.engine import Registry

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
    chosen = settings_of(data)
    require_registry(chosen)
    with loading():
        from service.api.server import serve as serve_http

    log.configure(chosen.log_level, chosen.log_format)
    if chosen.tracing:
        from service import tracing

        tracing.start("api")
    serve_http(chosen, host=host, port=port)


def worker(
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N.")] = None,
    name: Annotated[str | None, typer.Option(help="Unique name; default: host and process id.")] = None,
    queues: Annotated[str, typer.Option(help="Bells to listen to: deletions, additions or both.")] = ",".join(QUEUES),
) -> None:
    """Run one training worker; one process a device. With `--queues deletions`, it trains what deletions wait for."""
    require_registry(settings_of(None, device=device))
    chosen = [*(["--device", device] if device else []), *(["--name", name] if name else [])]
    _become("worker", [*chosen, "--queues", ",".join(_queues(queues))])


def _queues(given: str) -> list[str]:
    """In the order in which a worker listens to them. Raises Invalid for a name that is none of them."""
    names = {name.strip() for name in given.split(",") if name.strip()}
    if not names or names - set(QUEUES):
        raise Invalid(f"--queues: {plain(given)!r} is not made of {' and '.join(QUEUES)}.")
    return [queue for queue in QUEUES if queue in names]


def beat() -> None:
    """Run the timer that rings for work which nobody rang for."""
    load_settings()
    _become("beat", [])


def share_cores() -> None:
    """Let OpenMP threads sleep while they wait for each other; to be called before torch is imported.

    They spin by default. Two processes of two threads on two cores then train 15 times slower than with one thread
    each (measured: 6 images/s against 95; 65 with threads that sleep).
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def edge_command(role: str, *arguments: str) -> list[str]:
    """The command of a worker or of beat: the Celery edge, which the service itself never imports."""
    return [sys.executable, "-m", "workers", role, *arguments]


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
    """Print every setting with its default, as the Markdown table of README."""
    if as_json:
        names = ("variable", "default", "description")
        print_json([dict(zip(names, row, strict=True)) for row in describe()])
        return
    typer.echo("| Variable | Default | |\n|---|---|---|")
    for variable, default, description in describe():
        typer.echo(f"| `{variable}` | {f'`{default}`' if default else ''} | {description} |")


keys = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True)


def _registry(data: Path | None) -> Registry:
    chosen = settings_of(data)
    require_registry(chosen)
    from service.registry.engine import Registry

    return Registry(chosen.database)


@keys.command("create")
def create_key(
    scopes: Annotated[str, typer.Option(help=f"Comma-separated: {', '.join(SCOPES)}.")],
    name: Annotated[str, typer.Option(help="What it is for.")] = "",
    data: DataOption = None,
) -> None:
    """Make a key and print its secret, once."""
    from service.core import access

    wanted = [scope.strip() for scope in scopes.split(",") if scope.strip()]
    key, secret = access.create_key(_registry(data), system_clock, scopes=wanted, name=name)
    typer.echo(f"{key.id}  {', '.join(key.scopes)}", err=True)
    typer.echo(secret)


@keys.command("list")
def list_keys(as_json: JsonOption = False, data: DataOption = None) -> None:
    """List keys; secrets are not kept."""
    from service.core import access

    found = access.list_keys(_registry(data))
    if as_json:
        print_json([{**asdict(key), **_times(key)} for key in found])
        return
    table = Table("id", "name", "scopes", "made", "revoked")
    for key in found:
        revoked = f"{key.revoked_at:%Y-%m-%d %H:%M}" if key.revoked_at else ""
        table.add_row(key.id, plain(key.name), ", ".join(key.scopes), f"{key.created_at:%Y-%m-%d %H:%M}", revoked)
    show(table)


def _times(key: ApiKey) -> dict[str, str | None]:
    """Of RFC 3339, as the API writes them."""
    moments = {field: value for field, value in vars(key).items() if field.endswith("_at")}
    return {field: value.isoformat() if value is not None else None for field, value in moments.items()}


@keys.command("revoke")
def revoke_key(key_id: str, data: DataOption = None) -> None:
    """Refuse a key from now on."""
    from service.core import access

    if not access.revoke_key(_registry(data), system_clock, key_id):
        raise NotFound(f"There is no key {plain(key_id)}.")
    typer.echo("Revoked.")
