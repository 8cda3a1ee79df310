"""`oubli heartbeat`, for a health check: a worker that trains answers no request, but records its heartbeat."""

from __future__ import annotations

import socket
from typing import Annotated

import typer

from service.cli.folder import DataOption, require_file, settings_of
from service.cli.printing import JsonOption, plain, print_json, say
from service.clock import system_clock
from service.errors import Unavailable


def heartbeat(
    name: Annotated[str | None, typer.Option(help="Of the worker; default: any that was started on this host.")] = None,
    as_json: JsonOption = False,
    data: DataOption = None,
) -> None:
    """Check that a worker was heard from a moment ago. Exit status 1 if not."""
    chosen = settings_of(data)
    require_file(chosen)
    from service.registry import workers  # late, with SQLAlchemy: no client command waits for it
    from service.registry.engine import Registry

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
            f"Nothing was heard of {plain(name or 'a worker on this host')} for {chosen.worker.fresh.seconds} s."
        )
    if as_json:
        print_json({"alive": found})
    else:
        for each in found:
            say(plain(each))
