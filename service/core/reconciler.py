"""The thread of an API process that reconciles: soon after it is woken, and from a timer in any case."""

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

REST = 9  # pause after a pass, as a multiple of its duration: under constant commits it takes a tenth of a thread
LONGEST_REST = 1.0  # seconds
TIDY_EVERY = 720  # passes of the timer


class Reconciler:
    """Runs `reconcile`, and notifies workers of the work that it finds."""

    def __init__(self, context: Context, notifier: Notifier, *, afterwards: Callable[[], None] = lambda: None) -> None:
        self._context = context
        self._notifier = notifier
        self._afterwards = afterwards  # called after each pass: the registry may have changed
        self._wake = threading.Event()
        self._rest = threading.Event()
        self._behalf: deque[str] = deque(maxlen=logs.MOST_CAUSES)  # ids of requests whose work is not done yet
        self._trace: dict[str, str] = {}  # headers of the latest traced one among them
        self._unfinished = True
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="reconciler", daemon=True)

    def start(self) -> None:
        """Start the thread, with a pass over what was left undone."""
        self._wake.set()
        self._thread.start()

    def wake(self) -> None:
        """Ask for a pass: something was committed. Returns at once."""
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
            # One more pass covers everything that is committed meanwhile.
            self._rest.wait(min(REST * (time.monotonic() - started), LONGEST_REST))

    def _done(self, behalf: Sequence[str], trace: dict[str, str]) -> None:
        """Take these requests off the list: their work is done. New ones may have come meanwhile."""
        if self._trace is trace:
            self._trace = {}
        for request_id in behalf:
            with suppress(ValueError):  # pushed out by later ones
                self._behalf.remove(request_id)

    def _pass(self) -> float:
        """One pass; seconds until the next."""
        waiting = reconcile(self._context, refit=False)
        settings = self._context.settings
        with self._context.registry.read() as session:
            now = self._context.clock()
            alive = [worker for worker in workers.every(session) if worker.is_alive(now, settings.worker.fresh)]
            patience = timedelta(seconds=settings.training.settle_max_seconds)
            urgent = leases.waiting(session, now=now, patience=patience, urgent=True)
            unfinished = self._unfinished = clusters.unfinished(session)
        for queue, count in ((DELETIONS, urgent), (ADDITIONS, waiting - urgent)):
            listeners = sum(queue in worker.queues for worker in alive)  # a worker that starts later looks by itself
            self._notifier.notify(min(count, listeners), urgent=queue == DELETIONS)
        self._afterwards()
        usual = settings.worker.reconcile_seconds
        return min(usual, settings.training.settle_seconds + 0.5) if unfinished else usual
