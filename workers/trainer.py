"""The worker process's one trainer: the loaded backbone, a heartbeat, and what the tasks call."""

from __future__ import annotations

import logging
import threading

from service.core import environment
from service.core.context import Context, open_context
from service.core.doorbell import Doorbell
from service.core.reconcile import reconcile
from service.core.training import LeaseLost, hold, train_one
from service.registry import leases, prompts, workers
from service.registry.engine import WriteSession
from service.registry.leases import Claim
from service.settings import Settings

log = logging.getLogger(__name__)


class Trainer:
    """Loads once, trains one cluster a call."""

    def __init__(self, settings: Settings, name: str) -> None:
        environment.configure(settings, threads=settings.training.threads)
        self._context: Context = open_context(settings)
        environment.prove(self._context)
        self._name = name
        self._doorbell = Doorbell(settings)
        self._claim: Claim | None = None
        self._lost = False  # the heartbeat has found that the claim is no longer ours
        self._stopping = threading.Event()
        self._heart = threading.Thread(target=self._beat_until_stopped, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Report for work. Whatever an earlier process of this name held, it holds no longer."""
        with self._context.registry.write() as session:
            prompts.destroy_unpublished(session, leases.release(session, worker=self._name))
            self._register(session)
        environment.meet(self._context)
        self._heart.start()
        self._doorbell.ring(1)  # for what was left to do while nobody was here

    def interrupt(self) -> None:
        """Give up what is being trained, after the present batch, and train no more."""
        self._stopping.set()

    def stop(self) -> None:
        """Sign off, giving back what is held."""
        self._stopping.set()
        with self._context.registry.write() as session:
            prompts.destroy_unpublished(session, leases.release(session, worker=self._name))
            workers.leave(session, name=self._name)
        self._context.registry.close()

    def train(self) -> None:
        """Train the most urgent cluster, then see what that leaves to do, and ring for it."""
        if self._stopping.is_set():
            return
        self.reconcile(ring=False)
        if train_one(self._context, worker=self._name, held=self._hold, interrupted=self._interrupted):
            self.reconcile(ring=True)

    def reconcile(self, *, ring: bool = True) -> None:
        """One look at the registry; ring if something waits."""
        waiting = reconcile(self._context)
        if ring and waiting:
            self._doorbell.ring(1)

    def _hold(self, claim: Claim | None) -> None:
        self._claim, self._lost = claim, False

    def _interrupted(self) -> bool:
        return self._lost or self._stopping.is_set()

    def _beat_until_stopped(self) -> None:
        while not self._stopping.wait(self._context.settings.worker.heartbeat_seconds):
            try:
                self._beat()
            except Exception:  # the registry may be away for a while; the worker is not
                log.exception("a heartbeat failed")

    def _beat(self) -> None:
        with self._context.registry.write() as session:
            if not workers.beat(session, name=self._name, now=self._context.clock()):
                self._register(session)
        claim = self._claim
        if claim is not None:
            try:
                hold(self._context, claim)
            except LeaseLost:
                self._lost = self._claim is claim  # it may have ended by itself

    def _register(self, session: WriteSession) -> None:
        settings, now = self._context.settings, self._context.clock()
        workers.register(session, name=self._name, device=settings.device, now=now)
