"""Making what is so what should be: plan, destroy, write tombstones, complete, and say how much training waits.

Level-triggered: it looks at the registry's state, never at how it came about. Run it from a timer, after every commit,
twice at once or not for an hour: the result is the same, sooner or later.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial

from service import tracing
from service.artifacts import StoreRefuses, StoreUnavailable
from service.core import ledger
from service.core.advance import advance
from service.core.context import Context
from service.core.replan import replan
from service.core.training import pause_after
from service.registry import clusters, leases, prompts, replicas

log = logging.getLogger(__name__)

DESTROYERS = 8  # objects destroyed at a time


@tracing.traced("reconcile")
def reconcile(context: Context, *, refit: bool = True) -> int:
    """One pass; how much waits for a worker: clusters, or (without `refit`) a move to another layout."""
    mend_times(context)
    replan(context, refit=refit)
    destroy_owed(context)
    ledger.write_missing(context)
    advance(context)
    now = context.clock()
    patience = timedelta(seconds=context.settings.training.settle_max_seconds)
    with context.registry.read() as session:
        unplanned = bool(clusters.to_plan(session, now))
        return max(leases.waiting(session, now=now, patience=patience), int(unplanned))


def mend_times(context: Context) -> None:
    """Nothing waits longer than it should for a clock that was set back."""
    now, training = context.clock(), context.settings.training
    lease, settle = context.settings.worker.lease, timedelta(seconds=training.settle_seconds)
    backoff = context.backoff
    with context.registry.read() as session:
        if not leases.are_times_ahead(session, now=now, lease=lease, settle=settle, backoff=backoff):
            return
    log.warning("the clock was set back, or clocks differ: times that are too far ahead are mended")
    with context.registry.write() as session:
        pause = partial(pause_after, training)
        leases.mend_times(session, now=now, lease=lease, settle=settle, backoff=backoff, pause=pause)


def destroy_owed(context: Context) -> int:
    """Destroy the objects that must go, and what deleted rows left in the database's log; how many objects.

    An object is struck off the list only when both are done, so an erasure cannot be completed before.
    """
    with context.registry.read() as session:
        applied = replicas.applied(session, now=context.clock(), fresh=context.settings.worker.fresh)
        owed = prompts.destructible(session, applied=applied)
    if not owed:
        return 0
    gone = _destroy(context, owed)
    failed = sorted(set(owed) - gone)
    scrubbed = context.registry.scrub()  # not while readers are in the way; then the next pass tries again
    if not scrubbed:
        log.warning("the database's files could not be written anew (readers, or a full disk); it will be tried again")
    with context.registry.note() as session:
        prompts.destroyed(session, sorted(gone) if scrubbed else [])
        prompts.not_destroyed(session, failed)
    return len(gone) if scrubbed else 0


def _destroy(context: Context, names: Sequence[str]) -> set[str]:
    """Those of the objects that are gone now. Several at a time: each may be a request to another machine.

    In no order, lest one that can never be destroyed keeps the same others waiting in every pass.
    """
    away = threading.Event()
    words: list[str] = []

    def destroy(name: str) -> bool:
        if away.is_set():
            return False
        try:
            context.store.delete(name)
        except OSError as error:
            words.append(error.strerror or type(error).__name__)
            if isinstance(error, StoreUnavailable) and not isinstance(error, StoreRefuses):
                away.set()  # the others would fare no better, and each would wait as long
            return False
        return True

    order = random.sample(names, len(names))
    with ThreadPoolExecutor(min(DESTROYERS, len(names)), thread_name_prefix="destroyer") as threads:
        gone = {name for name, done in zip(order, threads.map(destroy, order), strict=True) if done}
    if words:
        log.error("%d objects cannot be destroyed just now: %s", len(names) - len(gone), words[0])
    return gone
