"""A worker process's life: the loaded backbone, start and stop, and the work that a notification asks for."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

from service.core import environment
from service.core.adapted_describer import AdaptedDescriber
from service.core.context import Context
from service.core.opening import open_context
from service.core.reconcile import reconcile
from service.core.redescribe import Redescriber
from service.core.training import pause_after, train_one
from service.errors import Misconfigured
from service.messaging.notifier import Notifier
from service.messaging.queues import DELETIONS
from service.registry import counters, leases, prompts
from service.registry.engine import WriteSession
from service.settings import Settings
from workers.heartbeat import Heartbeat
from workers.lease import LeaseHolder
from workers.liveness import Liveness

log = logging.getLogger(__name__)

FAILED, STALLED = 1, 75  # exit statuses; 75 is EX_TEMPFAIL: the supervisor starts the worker again
REDESCRIBING = 5.0  # seconds of describing samples anew, after which this worker looks for other work
LEAVE_SECONDS = 15.0  # for an orderly end, Celery's soft shutdown included; then the process is ended


class Trainer:
    """Loads the backbone once, then trains one cluster a call."""

    def __init__(self, settings: Settings, name: str, queues: Sequence[str]) -> None:
        environment.configure(settings, threads=settings.training.threads)
        self._context: Context = open_context(settings)
        environment.prove(self._context)
        self._name = name
        self._queues = tuple(queues)
        self._urgent_only = self._queues == (DELETIONS,)
        self._notifier = Notifier(settings)
        self._redescriber = Redescriber(self._context)
        self._adapted = AdaptedDescriber(self._context)
        self._liveness = Liveness(settings.worker.deaf_seconds, notify=self._notify_itself)
        self._stopping = threading.Event()
        self.lease = LeaseHolder(self._context, name)
        self.heartbeat = Heartbeat(
            self._context,
            worker=name,
            queues=self._queues,
            lease=self.lease,
            liveness=self._liveness,
            work_waits=lambda: self._waiting(urgent=self._urgent_only) > 0,
            stalled=lambda: self._leave(STALLED),
        )
        self.told_to_stop = False
        self.status = 0  # of the process, as it ends

    # -------------------------------------------------------------------------------------------- start and stop

    def start(self) -> None:
        """Put the worker on record. The leases of an earlier process of this name end: it was killed while training."""
        try:
            with self._context.registry.write() as session:
                left_behind = self._left_behind(session)
                prompts.destroy_unpublished(session, left_behind)
                self.heartbeat.register(session)
                for _ in left_behind:
                    counters.add(session, counters.FAILURES)
            environment.meet(self._context)
        except Exception:  # Celery goes on after a handler that fails, and would listen without a heartbeat
            log.exception("this worker cannot be put on record")
            self._leave(FAILED)
            return
        self.heartbeat.start()
        self._notify()  # of work that came up while no worker was there

    def _left_behind(self, session: WriteSession) -> list[str]:
        training = self._context.settings.training
        return leases.end_left_behind(
            session,
            worker=self._name,
            now=self._context.clock(),
            pause=lambda failures: pause_after(training, failures),
        )

    def interrupt(self) -> None:
        """Give up the training under way, after the present batch, and train no more."""
        self.told_to_stop = True
        self._stop()

    def stop(self) -> None:
        """Take the worker off the record, giving back its lease."""
        self._stop()
        self.heartbeat.join(5)
        self.lease.give_back(leave=True)
        self._context.registry.close()

    def _stop(self) -> None:
        self._stopping.set()
        self.heartbeat.stop()

    def _leave(self, status: int) -> None:
        """End this process: in order, or without, if its main thread does not come to that."""
        self.status = status
        hard = threading.Timer(LEAVE_SECONDS, os._exit, [status])
        hard.daemon = True
        hard.start()
        os.kill(os.getpid(), signal.SIGTERM)

    # ------------------------------------------------------------------------------------------------------ work

    def train(self) -> None:
        """Reconcile, train the most urgent cluster, reconcile again; notify a worker if more waits."""
        if self._stopping.is_set():
            return
        with self._notified():
            if self.lease.must_give_back:
                self.lease.give_back()
            reconcile(self._context)
            trained = train_one(
                self._context,
                worker=self._name,
                on_lease=self.lease.changed,
                interrupted=self.is_interrupted,
                urgent=self._urgent_only,
            )
            if trained:
                if reconcile(self._context):
                    self._notify()
            elif not self._urgent_only and self._redescribe():
                self._notify()

    def _redescribe(self) -> bool:
        """Nothing waits to be trained: describe samples anew for a while, then with the adapter; whether there may be
        more of them."""
        end = time.monotonic() + REDESCRIBING

        def other_work() -> bool:
            return self._stopping.is_set() or time.monotonic() > end or self._waiting(urgent=False) > 0

        return self._redescriber.work(until=other_work) or self._adapted.work(until=other_work)

    def reconcile(self) -> None:
        """Reconcile; notify a worker if something waits."""
        if self._stopping.is_set():
            return
        with self._notified():
            if reconcile(self._context):
                self._notify()

    def is_interrupted(self) -> bool:
        """Whether the training under way is to be given up."""
        return self.lease.is_lost or self._stopping.is_set()

    @contextmanager
    def _notified(self) -> Iterator[None]:
        """A notification has arrived, and the block does its work. The next notification retries what fails."""
        self.heartbeat.heard_at = self._context.clock()
        self._liveness.heard()
        try:
            yield
        except Misconfigured as error:
            log.error("this worker cannot work: %s", error.detail)
        except Exception:  # the registry or the store is away: the process is not
            log.exception("the work failed; the next notification tries it again")
            self.lease.must_give_back = True
        finally:
            self._liveness.done()

    def _notify(self) -> None:
        self._notifier.notify(1, urgent=self._urgent_only or self._waiting(urgent=True) > 0)

    def _notify_itself(self) -> bool:
        return self._notifier.notify_now(urgent=DELETIONS in self._queues)

    def _waiting(self, *, urgent: bool) -> int:
        context = self._context
        patience = timedelta(seconds=context.settings.training.settle_max_seconds)
        with context.registry.read() as session:
            return leases.waiting(session, now=context.clock(), patience=patience, urgent=urgent)
