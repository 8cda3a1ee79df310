"""The lease that this worker trains under: taken by the training, renewed by the heartbeat, given back at the end."""

from __future__ import annotations

import time
from datetime import datetime

from service.core.context import Context
from service.core.training import LeaseLost, renew
from service.registry import leases, prompts, workers
from service.registry.leases import Claim


class LeaseHolder:
    """At most one lease at a time: a worker trains one cluster after another."""

    def __init__(self, context: Context, worker: str) -> None:
        self.claimed_at: datetime | None = None  # when the last training began
        self.must_give_back = False  # a lease could not be given back when its training ended
        self._context = context
        self._worker = worker
        self._claim: Claim | None = None
        self._is_ended = False  # the heartbeat has found that another worker holds the lease, or that its key is void
        self._valid_until = 0.0  # as far as this worker knows, monotonic seconds

    @property
    def is_lost(self) -> bool:
        """Whether the training under way comes to nothing, for all that is known here.

        Also once the lease has run out without word from the registry: no erasure waits for its memory then.
        """
        return self._claim is not None and (self._is_ended or time.monotonic() > self._valid_until)

    def changed(self, claim: Claim | None) -> None:
        """A training has begun under this lease, or (None) has ended."""
        self._valid_until = time.monotonic() + self._context.settings.worker.lease_seconds
        self._claim, self._is_ended = claim, False
        if claim is not None:
            self.claimed_at = self._context.clock()

    def renew(self) -> None:
        """Keep the lease for another `worker.lease_seconds`; note it if it is lost. Nothing without a lease."""
        claim = self._claim
        if claim is not None:
            asked = time.monotonic()
            try:
                renew(self._context, claim)
                self._valid_until = asked + self._context.settings.worker.lease_seconds
            except LeaseLost:
                self._is_ended = self._claim is claim  # the training may have ended by itself meanwhile

    def give_back(self, *, leave: bool = False) -> None:
        """Give back every lease of this worker's name, and schedule the deletion of what was stored under them.

        leave  also take the worker off the record.
        """
        with self._context.registry.write() as session:
            prompts.destroy_unpublished(session, leases.release(session, worker=self._worker))
            if leave:
                workers.leave(session, name=self._worker)
        self.must_give_back = False
