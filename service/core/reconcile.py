"""Reconciling: plan, delete objects, write tombstones, complete erasures, and count how much training waits.

Level-triggered: it looks at the registry's present state, never at the events that led there. Run it from a timer,
after every commit, twice at once or not for an hour: the result is the same, sooner or later.
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
from service.core.context import Context
from service.core.erasure_progress import advance
from service.core.replan import replan
from service.core.training import pause_after
from service.registry import adapted, clusters, destructions, leases, replicas

log = logging.getLogger(__name__)

DESTROYERS = 8  # objects deleted at a time


@tracing.traced("reconcile")
def reconcile(context: Context, *, refit: bool = True) -> int:
    """One pass; how much waits for a worker: clusters to be trained, or (without `refit`) a relayout, as one."""
    mend_times(context)
    replan(context, refit=refit)
    destroy_pending(context)
    ledger.write_missing(context)
    advance(context)
    now = context.clock()
    patience = timedelta(seconds=context.settings.training.settle_max_seconds)
    with context.registry.read() as session:
        unplanned = bool(clusters.to_plan(session, now))
        return max(leases.waiting(session, now=now, patience=patience), int(unplanned))


def mend_times(context: Context) -> None:
    """After the clock was set back: shorten waits that would last too long."""
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


def destroy_pending(context: Context) -> int:
    """Delete the objects that are due, and scrub the database's files of deleted rows; how many objects.

    An object leaves the queue only when both are done, so an erasure cannot be completed before.
    """
    with context.registry.read() as session:
        now, worker = context.clock(), context.settings.worker
        applied = replicas.applied(session, now=now, fresh=worker.fresh)
        pending = destructions.due(session, applied=applied, now=now, lease=worker.lease)
    if not pending:
        return 0
    gone = _destroy_with_adapted(context, pending)
    failed = sorted(set(pending) - gone)
    scrubbed = context.registry.scrub()  # fails while readers are in the way; the next pass tries again
    if not scrubbed:
        log.warning("the database's files could not be rewritten (readers, or a full disk); it will be tried again")
    with context.registry.write_beside_plans() as session:
        destructions.done(session, sorted(gone) if scrubbed else [])
        destructions.failed(session, failed if scrubbed else pending)
    return len(gone) if scrubbed else 0


def _destroy_with_adapted(context: Context, names: Sequence[str]) -> set[str]:
    """Delete objects; those that are gone. An adapter's object goes after all that the adapter has described."""
    publications = {adapted.publication_of(name): name for name in names if name.startswith("prompts/")}
    with context.registry.read() as session:
        is_used = bool(publications) and adapted.was_ever_used(session)
    try:
        stored = list(context.store.names(adapted.PREFIX)) if is_used else []
    except OSError as error:
        log.error("the store does not list adapted descriptors just now: %s", error.strerror)
        return _destroy(context, [name for name in names if name not in publications.values()])
    theirs = {name: publications[of] for name in stored if (of := adapted.parse(name)[0]) in publications}
    gone = _destroy(context, sorted(theirs)) if theirs else set()
    left = {prompt for name, prompt in theirs.items() if name not in gone}
    return gone | _destroy(context, [name for name in names if name not in left and name not in gone])


def _destroy(context: Context, names: Sequence[str]) -> set[str]:
    """Delete objects; those that are gone. Several at a time: each may be a request to another machine.

    In random order, so that an object that cannot be deleted does not delay the same others in every pass.
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
                away.set()  # the other requests would fail too, and each would take as long
            return False
        return True

    if not names:
        return set()
    order = random.sample(names, len(names))
    with ThreadPoolExecutor(min(DESTROYERS, len(names)), thread_name_prefix="destroyer") as threads:
        gone = {name for name, done in zip(order, threads.map(destroy, order), strict=True) if done}
    if words:
        log.error("%d objects cannot be deleted just now: %s", len(names) - len(gone), words[0])
    return gone
