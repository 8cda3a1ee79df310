"""The API's server: told to stop, it first announces that it drains, and ends once proxies send it nothing more.

A signal (SIGTERM, SIGINT) is answered in this order. At once `GET /health/ready` says 503, `draining`, and every
response asks its caller to open another connection; whatever comes is still accepted and answered, for
`serving.drain_seconds`, in which a proxy notices. Then the listener closes; requests under way have
`serving.finish_seconds` to end; the application's lifespan ends, and with it batchers, threads and the replica's row;
the exit status is 0. A process that is not yet warm ends without a drain. A second signal ends it at once.

uvicorn alone closes the listener at the signal, while proxies still send; and raises the signal again at its end, so
that the exit status would be the signal's.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import time
from types import FrameType

import uvicorn
from fastapi import FastAPI

from service.api.app import create_app
from service.api.connection import connections
from service.api.deps import Service
from service.settings import Settings

log = logging.getLogger(__name__)


class Server(uvicorn.Server):
    """uvicorn's server with a drain before its stop."""

    def __init__(self, config: uvicorn.Config, app: FastAPI, *, drain_seconds: float) -> None:
        super().__init__(config)
        self._state = app.state
        self._drain_seconds = drain_seconds
        self._stop_at: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain at a signal. uvicorn's own list of signals, which it raises again, stays empty."""
        if self._stop_at is not None:
            signal.signal(sig, signal.SIG_DFL)
            signal.raise_signal(sig)
            return
        served = self._state.service is not None
        self._state.draining = True
        self._stop_at = time.monotonic() + (self._drain_seconds if served else 0.0)

    async def on_tick(self, counter: int) -> bool:
        """Begin the shutdown once the drain is over; called every tenth of a second."""
        if self._stop_at is not None and time.monotonic() >= self._stop_at:
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Shut down; after half of the time that requests then have, images still being decoded are refused."""
        service: Service | None = self._state.service
        patience = (self.config.timeout_graceful_shutdown or 0) / 2
        loop = asyncio.get_running_loop()
        if service is not None:
            loop.call_later(patience, lambda: loop.run_in_executor(None, service.preprocessor.stop))
        await super().shutdown(sockets)


def configured(app: FastAPI, settings: Settings, *, host: str, port: int) -> uvicorn.Config:
    """uvicorn's configuration."""
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,  # paths hold owners
        http=connections(settings.http),
        ws="none",
        server_header=False,
        timeout_keep_alive=settings.http.keep_alive_seconds,
        timeout_graceful_shutdown=settings.serving.finish_seconds,
    )


def serve(settings: Settings, *, host: str, port: int) -> None:
    """Serve until told to stop. Raises what kept the application from warming up."""
    if not settings.auth:
        log.warning("OUBLI_AUTH=false: every user of this machine may contribute, read and erase everything")
    app = create_app(settings)
    config = configured(app, settings, host=host, port=port)
    server = Server(config, app, drain_seconds=settings.serving.drain_seconds)
    # Not by a signal: the process would drain, though it serves no request yet.
    app.state.give_up = lambda: setattr(server, "should_exit", True)
    server.run()
    if app.state.failure is not None:
        raise app.state.failure  # Misconfigured ends `oubli serve`; anything else is tried again
