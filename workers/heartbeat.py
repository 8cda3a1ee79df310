"""The thread that puts on record that a worker lives, renews its lease, and ends a worker that has stalled."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Sequence
from datetime import datetime

from service.core.context import Context
from service.registry import workers
from service.registry.engine import WriteSession
from workers.lease import LeaseHolder
from workers.liveness import Liveness

log = logging.getLogger(__name__)


class Heartbeat:
    """One beat every `worker.heartbeat_seconds`, whatever the worker's main thread is doing.

    work_waits  whether there is work that this worker could do.
    stalled     called once, from this thread, when the worker gets no notifications any more; the thread then ends.
    """

    def __init__(
        self,
        context: Context,
        *,
        worker: str,
        queues: Sequence[str],
        lease: LeaseHolder,
        liveness: Liveness,
        work_waits: Callable[[], bool],
        stalled: Callable[[], None],
    ) -> None:
        self.heard_at: datetime | None = None  # when the last notification arrived
        self._context = context
        self._worker = worker
        self._queues = tuple(queues)
        self._lease = lease
        self._liveness = liveness
        self._work_waits = work_waits
        self._stalled = stalled
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def register(self, session: WriteSession) -> None:
        """Put the worker on record."""
        now = self._context.clock()
        device = device_name(self._context.settings.device)
        workers.register(session, name=self._worker, device=device, queues=self._queues, now=now)

    def start(self) -> None:
        """Beat from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Beat no more, and give the lease back. Returns at once."""
        self._stopping.set()

    def join(self, seconds: float) -> None:
        """Wait until the thread has ended, if it was started."""
        if self._thread.is_alive():
            self._thread.join(seconds)

    def _run(self) -> None:
        while not self._stopping.wait(self._context.settings.worker.heartbeat_seconds):
            try:
                self._beat()
                if self._liveness.is_stalled(work_waits=self._work_waits()):
                    seconds = self._context.settings.worker.deaf_seconds
                    log.error(
                        "work has waited for %.0f s: the broker takes notifications, and none arrives here", seconds
                    )
                    self._stalled()
                    return
            except Exception:  # the registry may be away for a while; the worker is not
                log.exception("a heartbeat failed")
        try:
            self._lease.give_back()  # at once: the batch under way may take longer than this process is given
        except Exception:
            log.exception("a lease could not be given back; it expires")

    def _beat(self) -> None:
        signs = workers.Signs(self.heard_at, self._lease.claimed_at)
        with self._context.registry.write_beside_plans() as session:
            if not workers.beat(session, name=self._worker, now=self._context.clock(), signs=signs):
                self.register(session)
        self._lease.renew()


def device_name(device: str) -> str:
    """A device with its host and CUDA's mask: `cuda:0` is another GPU on each host, and under each mask."""
    mask = os.environ.get("CUDA_VISIBLE_DEVICES")
    masked = f" (CUDA_VISIBLE_DEVICES={mask})" if mask is not None and device.startswith("cuda") else ""
    return f"{device} on {socket.gethostname()}{masked}"
