"""The lease that this worker trains under: taken by the training, renewed by the heartbeat, given back at the end."""

from __future__ import annotations

from datetime import datetime

from service.core.context import Context
from service.core.training import LeaseLost, renew
from service.registry import leases, prompts, workers
from service.registry.leases import Claim


class LeaseHolder:
    """At most one lease at a time: a worker trains one cluster after another."""

    def __init__(self, context: Context, worker: str) -> None:
        self.claimed_at: datetime | None = None  # when the last training began
        self.is_lost = False  # the heartbeat has found that another worker holds the lease, or that its key is void
        self.must_give_back = False  # a lease could not be given back when its training ended
        self._context = context
        self._worker = worker
        self._claim: Claim | None = None

    def changed(self, claim: Claim | None) -> None:
        """A training has begun under this lease, or (None) has ended."""
        self._claim, self.is_lost = claim, False
        if claim is not None:
            self.claimed_at = self._context.clock()

    def renew(self) -> None:
        """Keep the lease for another `worker.lease_seconds`; note it if it is lost. Nothing without a lease."""
        claim = self._claim
        if claim is not None:
            try:
                renew(self._context, claim)
            except LeaseLost:
                self.is_lost = self._claim is claim  # the training may have ended by itself meanwhile

    def give_back(self, *, leave: bool = False) -> None:
        """Give back every lease of this worker's name, and schedule the deletion of what was stored under them.

        leave  also take the worker off the record.
        """
        with self._context.registry.write() as session:
            prompts.destroy_unpublished(session, leases.release(session, worker=self._worker))
            if leave:
                workers.leave(session, name=self._worker)
        self.must_give_back = False
