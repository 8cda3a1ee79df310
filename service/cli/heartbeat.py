"""`oubli heartbeat`, for a health check: a worker that trains answers nobody, but its heart beats on record."""

from __future__ import annotations

import socket
from typing import Annotated

import typer

from service.clock import system_clock
from service.errors import Unavailable
from service.settings import load_settings


def heartbeat(
    name: Annotated[str | None, typer.Option(help="Of the worker; default: any that was started on this host.")] = None,
) -> None:
    """Was a worker heard from a moment ago? Exit status 1 if not."""
    from service.registry import workers  # late, with SQLAlchemy: no client command waits for it
    from service.registry.engine import Registry

    chosen = load_settings()
    registry = Registry(chosen.database)
    try:
        with registry.read() as session:
            alive = [w.name for w in workers.every(session) if w.is_alive(system_clock(), chosen.worker.fresh)]
    finally:
        registry.close()
    own = f"{socket.gethostname()}-"  # workers' default names: host and process id
    found = [each for each in alive if (each == name if name is not None else each.startswith(own))]
    if not found:
        raise Unavailable(
            f"Nothing was heard of {name or 'a worker on this host'} for {chosen.worker.fresh.seconds} s."
        )
    typer.echo("\n".join(found))
