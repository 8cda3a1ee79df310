"""Housekeeping: deleting old idempotency keys, rows of processes long silent, and objects left by killed processes."""

from __future__ import annotations

import logging
from datetime import timedelta

from service.artifacts import born
from service.core.context import Context
from service.registry import (
    adapted,
    destructions,
    idempotency,
    layout_state,
    leases,
    prompts,
    replicas,
    samples,
    workers,
)
from service.registry.engine import ReadSession

log = logging.getLogger(__name__)

IDEMPOTENCY_KEPT = timedelta(days=1)
UNRECORDED_KEPT = timedelta(minutes=10)  # intake stores an object again that took half of it, or more, to record
PROCESSES_KEPT = timedelta(minutes=10)
CHUNK = 20  # objects deleted in one exclusive transaction, for which every other writer waits


def tidy(context: Context) -> None:
    """All of the housekeeping; to be called now and then."""
    now = context.clock()
    if context.ledger is not context.store:
        sweep_ledger(context)
    with context.registry.write() as session:
        idempotency.expire(session, before=now - IDEMPOTENCY_KEPT)
        workers.expire(session, before=now - PROCESSES_KEPT)
        replicas.expire(session, before=now - PROCESSES_KEPT)
    destroy_unrecorded(context, older_than=UNRECORDED_KEPT)  # last: the store may be away


def sweep_ledger(context: Context) -> None:
    """Remove unfinished writes of killed processes from the ledger. An unavailable ledger is logged, and skipped."""
    try:
        context.ledger.sweep(UNRECORDED_KEPT)
    except OSError as error:
        log.warning("the erasure ledger cannot be tidied: %s", error.strerror)


def destroy_unrecorded(context: Context, *, older_than: timedelta) -> int:
    """Delete objects that belong to no row: left by a process that was killed between storing and recording."""
    horizon = context.clock() - older_than
    count = 0
    for prefix in ("samples", "prompts", "layouts"):
        old = [name for name in context.store.names(prefix) if (born(name) or horizon) < horizon]
        with context.registry.read() as session:
            unknown = set(old) - _known(session, prefix, old)
        doomed = sorted(unknown)
        for start in range(0, len(doomed), CHUNK):
            count += _destroy(context, prefix, doomed[start : start + CHUNK])
    return count + _destroy_adapted(context) + context.store.sweep(older_than)


def _destroy_adapted(context: Context) -> int:
    """Delete adapted descriptors that belong to no row: a worker was killed while it recorded them."""
    stored = list(context.store.names(adapted.PREFIX))
    with context.registry.read() as session:
        doomed = sorted(set(stored) - adapted.known_objects(session, stored))
    parts = [doomed[start : start + CHUNK] for start in range(0, len(doomed), CHUNK)]
    return sum(_destroy(context, adapted.PREFIX, part) for part in parts)


def _destroy(context: Context, prefix: str, names: list[str]) -> int:
    """Delete those that still belong to no row; how many. Exclusive: no object is just being recorded meanwhile."""
    context.store.check()  # while no writer waits: a store that hangs would hold up every writer
    with context.registry.write(exclusive=True) as session:
        orphans = sorted(set(names) - _known(session, prefix, names))
        for name in orphans:
            context.store.delete(name)
    return len(orphans)


def _known(session: ReadSession, prefix: str, names: list[str]) -> set[str]:
    known = set(destructions.pending(session))  # a removed sample's may be needed yet (`destructions.due`)
    if prefix == adapted.PREFIX:
        return adapted.known_objects(session, names)
    if prefix == "samples":
        ids = [name.rsplit("/", 1)[1].split(".")[0] for name in names]
        return known | {samples.object_name(sample.id) for sample in samples.find(session, ids)}
    if prefix == "layouts":
        return known | {name for name in (layout_state.current(session).object,) if name is not None}
    # A training under way stores its prompt under the name of its lease, which may be old by then.
    known |= {prompts.unpublished_name(lease) for lease in leases.tokens(session)}
    return known | prompts.known_objects(session, names)
