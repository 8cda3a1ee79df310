"""The worker process's one trainer: the loaded backbone, a heartbeat, and what the tasks call."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta

from service.core import environment
from service.core.context import Context
from service.core.opening import open_context
from service.core.reconcile import reconcile
from service.core.training import LeaseLost, pause_after, renew, train_one
from service.errors import Misconfigured
from service.messaging.notifier import Notifier
from service.messaging.queues import DELETIONS
from service.registry import counters, leases, prompts, workers
from service.registry.engine import WriteSession
from service.registry.leases import Claim
from service.settings import Settings
from workers.liveness import Liveness

log = logging.getLogger(__name__)

FAILED, DEAF = 1, 75  # exit statuses; 75: EX_TEMPFAIL, whoever started it should start it again
LEAVE_SECONDS = 15.0  # to leave in order, the soft shutdown included; then it is ended


class Trainer:
    """Loads once, trains one cluster a call."""

    def __init__(self, settings: Settings, name: str, queues: Sequence[str]) -> None:
        environment.configure(settings, threads=settings.training.threads)
        self._context: Context = open_context(settings)
        environment.prove(self._context)
        self._name = name
        self._queues = tuple(queues)
        self._urgent_only = self._queues == (DELETIONS,)
        self._notifier = Notifier(settings)
        self._liveness = Liveness(settings.worker.deaf_seconds, ring=self._ring_for_myself)
        self._heard_at: datetime | None = None
        self._claimed_at: datetime | None = None
        self._claim: Claim | None = None
        self._lost = False  # the heartbeat has found that the claim is no longer ours
        self._untidy = False  # a lease could not be given back
        self._stopping = threading.Event()
        self._heart = threading.Thread(target=self._beat_until_stopped, name="heartbeat", daemon=True)
        self.told_to_stop = False
        self.status = 0  # of the process, as it ends

    def start(self) -> None:
        """Report for work. Whatever an earlier process of this name held, it was killed over."""
        try:
            with self._context.registry.write() as session:
                left_behind = self._left_behind(session)
                prompts.destroy_unpublished(session, left_behind)
                self._register(session)
                for _ in left_behind:
                    counters.add(session, counters.FAILURES)
            environment.meet(self._context)
        except Exception:  # Celery goes on after a handler that fails, and would listen without a heartbeat
            log.exception("this worker cannot report for work")
            self._leave(FAILED)
            return
        self._heart.start()
        self._ring_for_work()  # for what was left to do while nobody was here

    def _left_behind(self, session: WriteSession) -> list[str]:
        training = self._context.settings.training
        return leases.left_behind(
            session,
            worker=self._name,
            now=self._context.clock(),
            pause=lambda failures: pause_after(training, failures),
        )

    def interrupt(self) -> None:
        """Give up what is being trained, after the present batch, and train no more."""
        self.told_to_stop = True
        self._stopping.set()

    def stop(self) -> None:
        """Sign off, giving back what is held."""
        self._stopping.set()
        if self._heart.is_alive():
            self._heart.join(5)
        self._give_back(leave=True)
        self._context.registry.close()

    def train(self) -> None:
        """Train the most urgent cluster, then see what that leaves to do, and ring for it."""
        if self._stopping.is_set():
            return
        with self._listening():
            if self._untidy:
                self._give_back()
            reconcile(self._context)
            trained = train_one(
                self._context,
                worker=self._name,
                on_lease=self._lease_changed,
                interrupted=self._interrupted,
                urgent=self._urgent_only,
            )
            if trained and reconcile(self._context):
                self._ring_for_work()

    def reconcile(self) -> None:
        """One look at the registry; ring if something waits."""
        if self._stopping.is_set():
            return
        with self._listening():
            if reconcile(self._context):
                self._ring_for_work()

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """A bell was heard, and this is what it asks for. Whatever goes wrong there, the next bell may find mended."""
        self._heard_at = self._context.clock()
        self._liveness.heard()
        try:
            yield
        except Misconfigured as error:
            log.error("this worker cannot work: %s", error.detail)
        except Exception:  # the registry or the store is away: the process is not
            log.exception("work came to nothing; the next bell tries again")
            self._untidy = True
        finally:
            self._liveness.done()

    def _ring_for_work(self) -> None:
        self._notifier.notify(1, urgent=self._urgent_only or self._waiting(urgent=True) > 0)

    def _ring_for_myself(self) -> bool:
        return self._notifier.notify_now(urgent=DELETIONS in self._queues)

    def _waiting(self, *, urgent: bool) -> int:
        context = self._context
        patience = timedelta(seconds=context.settings.training.settle_max_seconds)
        with context.registry.read() as session:
            return leases.waiting(session, now=context.clock(), patience=patience, urgent=urgent)

    def _lease_changed(self, claim: Claim | None) -> None:
        self._claim, self._lost = claim, False
        if claim is not None:
            self._claimed_at = self._context.clock()

    def _interrupted(self) -> bool:
        return self._lost or self._stopping.is_set()

    def _give_back(self, *, leave: bool = False) -> None:
        with self._context.registry.write() as session:
            prompts.destroy_unpublished(session, leases.release(session, worker=self._name))
            if leave:
                workers.leave(session, name=self._name)
        self._untidy = False

    # ---------------------------------------------------------------------------------------------- heartbeat

    def _beat_until_stopped(self) -> None:
        while not self._stopping.wait(self._context.settings.worker.heartbeat_seconds):
            try:
                self._beat()
                if self._liveness.is_stalled(work_waits=self._waiting(urgent=self._urgent_only) > 0):
                    seconds = self._context.settings.worker.deaf_seconds
                    log.error("work has waited for %.0f s, the broker takes rings and none arrives here", seconds)
                    self._leave(DEAF)
                    return
            except Exception:  # the registry may be away for a while; the worker is not
                log.exception("a heartbeat failed")
        try:
            self._give_back()  # at once: the batch under way may take longer than this process is given
        except Exception:
            log.exception("a lease could not be given back; it expires")

    def _beat(self) -> None:
        signs = workers.Signs(self._heard_at, self._claimed_at)
        with self._context.registry.write_unfenced() as session:
            if not workers.beat(session, name=self._name, now=self._context.clock(), signs=signs):
                self._register(session)
        claim = self._claim
        if claim is not None:
            try:
                renew(self._context, claim)
            except LeaseLost:
                self._lost = self._claim is claim  # it may have ended by itself

    def _register(self, session: WriteSession) -> None:
        now = self._context.clock()
        device = where(self._context.settings.device)
        workers.register(session, name=self._name, device=device, queues=self._queues, now=now)

    def _leave(self, status: int) -> None:
        """End this process: in order, or without, if its main thread does not come to that."""
        self.status = status
        hard = threading.Timer(LEAVE_SECONDS, os._exit, [status])
        hard.daemon = True
        hard.start()
        os.kill(os.getpid(), signal.SIGTERM)


def where(device: str) -> str:
    """A device as people tell it from others: `cuda:0` is another one on each host, and under each mask."""
    mask = os.environ.get("CUDA_VISIBLE_DEVICES")
    masked = f" (CUDA_VISIBLE_DEVICES={mask})" if mask is not None and device.startswith("cuda") else ""
    return f"{device} on {socket.gethostname()}{masked}"
