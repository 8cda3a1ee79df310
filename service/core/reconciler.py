"""A thread that reconciles: soon after it is woken, and from a timer in any case."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta

from service import log as logs
from service import tracing
from service.core.context import Context
from service.core.reconcile import reconcile
from service.core.tidy import tidy
from service.messaging.notifier import Notifier
from service.messaging.queues import ADDITIONS, DELETIONS
from service.registry import clusters, leases, workers

log = logging.getLogger(__name__)

REST = 9  # times what a pass took, before the next: while one commit follows another, a tenth of a thread at most
LONGEST_REST = 1.0  # seconds
TIDY_EVERY = 720  # passes of the timer


class Reconciler:
    """Runs `reconcile` and rings for the work that it finds."""

    def __init__(self, context: Context, notifier: Notifier, *, afterwards: Callable[[], None] = lambda: None) -> None:
        self._context = context
        self._notifier = notifier
        self._afterwards = afterwards  # what to do when the registry may have changed
        self._wake = threading.Event()
        self._rest = threading.Event()
        self._behalf: deque[str] = deque(maxlen=logs.MOST_CAUSES)  # requests whose work is not done yet
        self._trace: dict[str, str] = {}  # of the latest of them that is traced
        self._unfinished = True
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="reconciler", daemon=True)

    def start(self) -> None:
        """Begin with a look at what was left undone."""
        self._wake.set()
        self._thread.start()

    def wake(self) -> None:
        """Something was committed. Returns at once."""
        self._behalf.extend(logs.causes())
        self._trace = tracing.headers() or self._trace
        self._wake.set()

    def stop(self) -> None:
        """Finish the pass under way, then end."""
        self._stopping = True
        self._rest.set()
        self._wake.set()
        self._thread.join(timeout=5)
        self._notifier.flush(1)

    def _run(self) -> None:
        passes = 0
        pause = 0.0
        while not self._stopping:
            self._wake.wait(pause)
            self._wake.clear()
            if self._stopping:
                return
            started = time.monotonic()
            try:
                behalf, trace = tuple(self._behalf), self._trace
                with logs.caused_by(behalf), tracing.span("look", parent=trace):
                    pause = self._pass()
                if not self._unfinished:
                    self._done(behalf, trace)
                if passes % TIDY_EVERY == 0:
                    tidy(self._context)
            except Exception:  # whatever it is, the next pass starts from the registry's state again
                log.exception("reconciling failed; it will be tried again")
                pause = self._context.settings.worker.reconcile_seconds
            passes += 1
            # What is committed meanwhile, however much, is seen to by one more pass.
            self._rest.wait(min(REST * (time.monotonic() - started), LONGEST_REST))

    def _done(self, behalf: Sequence[str], trace: dict[str, str]) -> None:
        """Nothing is left to do for these. Others may have come meanwhile."""
        if self._trace is trace:
            self._trace = {}
        for request_id in behalf:
            with suppress(ValueError):  # crowded out by later ones
                self._behalf.remove(request_id)

    def _pass(self) -> float:
        """One look; seconds until the next."""
        waiting = reconcile(self._context, refit=False)
        settings = self._context.settings
        with self._context.registry.read() as session:
            now = self._context.clock()
            crew = [worker for worker in workers.every(session) if worker.is_alive(now, settings.worker.fresh)]
            patience = timedelta(seconds=settings.training.settle_max_seconds)
            urgent = leases.waiting(session, now=now, patience=patience, urgent=True)
            unfinished = self._unfinished = clusters.unfinished(session)
        for queue, count in ((DELETIONS, urgent), (ADDITIONS, waiting - urgent)):
            listeners = sum(queue in worker.queues for worker in crew)
            # A worker that starts looks by itself.
            self._notifier.notify(min(count, listeners), urgent=queue == DELETIONS)
        self._afterwards()
        usual = settings.worker.reconcile_seconds
        return min(usual, settings.training.settle_seconds + 0.5) if unfinished else usual
