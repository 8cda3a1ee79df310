"""A thread that reconciles: soon after it is woken, and from a timer in any case."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import timedelta

from service.core.broker import ADDITIONS, DELETIONS
from service.core.context import Context
from service.core.doorbell import Doorbell
from service.core.reconcile import reconcile
from service.core.tidy import tidy
from service.registry import clusters, leases, workers

log = logging.getLogger(__name__)

TIDY_EVERY = 720  # passes of the timer


class Reconciler:
    """Runs `reconcile` and rings for the work that it finds."""

    def __init__(self, context: Context, doorbell: Doorbell, *, afterwards: Callable[[], None] = lambda: None) -> None:
        self._context = context
        self._doorbell = doorbell
        self._afterwards = afterwards  # what to do when the registry may have changed
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="reconciler", daemon=True)

    def start(self) -> None:
        """Begin with a look at what was left undone."""
        self._wake.set()
        self._thread.start()

    def wake(self) -> None:
        """Something was committed. Returns at once."""
        self._wake.set()

    def stop(self) -> None:
        """Finish the pass under way, then end."""
        self._stopping = True
        self._wake.set()
        self._thread.join(timeout=5)
        self._doorbell.flush(1)

    def _run(self) -> None:
        passes = 0
        pause = 0.0
        while not self._stopping:
            self._wake.wait(pause)
            self._wake.clear()
            if self._stopping:
                return
            try:
                pause = self._pass()
                if passes % TIDY_EVERY == 0:
                    tidy(self._context)
            except Exception:  # whatever it is, the next pass starts from the registry's state again
                log.exception("reconciling failed; it will be tried again")
                pause = self._context.settings.worker.reconcile_seconds
            passes += 1

    def _pass(self) -> float:
        """One look; seconds until the next."""
        waiting = reconcile(self._context, refit=False)
        settings = self._context.settings
        with self._context.registry.read() as session:
            now = self._context.clock()
            crew = [worker for worker in workers.every(session) if worker.is_alive(now, settings.worker.fresh)]
            patience = timedelta(seconds=settings.training.settle_max_seconds)
            urgent = leases.waiting(session, now=now, patience=patience, urgent=True)
            unfinished = clusters.unfinished(session)
        for queue, count in ((DELETIONS, urgent), (ADDITIONS, waiting - urgent)):
            listeners = sum(queue in worker.queues for worker in crew)
            # A worker that starts looks by itself.
            self._doorbell.ring(min(count, listeners), urgent=queue == DELETIONS)
        self._afterwards()
        usual = settings.worker.reconcile_seconds
        return min(usual, settings.training.settle_seconds + 0.5) if unfinished else usual
