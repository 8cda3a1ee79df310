"""Seeing erasures through: completing those that owe nothing any more, and noting which clusters serve again.

An erasure is completed when nothing exists that knows its samples: no row, no object, no prompt, no layout, no
accumulator of a live replica. It does not wait for a training: whoever deletes often cannot put that off. `restored_at`
says when every cluster that it touches serves again. All erasures are looked at at once, but for those that only wait
for a training: thousands may.
"""

from __future__ import annotations

import logging
from collections.abc import Container, Sequence
from contextlib import suppress

from service.core import layouts, states
from service.core.context import Context
from service.registry import counters, destructions, erasure_progress
from service.registry.engine import Needed, Needless, ReadSession
from service.registry.erasure_progress import AffectedCluster, ClusterChange, Destructions, ErasureChange, OpenErasure

log = logging.getLogger(__name__)


def advance(context: Context) -> None:
    """Note how far every erasure has come; complete those that owe nothing any more."""

    def needed(session: ReadSession) -> bool:
        return bool(_cluster_changes(context, session) or _erasure_changes(context, session))

    with context.registry.read() as session:
        noticed = _cluster_changes(context, session)
        if not noticed and not _erasure_changes(context, session):
            return
        accepted = {change.erasure for change in noticed} | {
            erasure.id for erasure in erasure_progress.open_erasures(session)
        }
    stored = _stored_layouts(context)
    with suppress(Needless):
        for done in _note(context, needed, accepted=accepted, stored=stored):
            log.info("erasure %s is completed", done, extra={"erasure": done})


def _stored_layouts(context: Context) -> list[str] | None:
    """What the store holds of layouts; None, and nothing is completed, while it does not say.

    Asked outside any transaction: it may be slow, and everybody who writes would wait for it.
    """
    try:
        return list(context.store.names("layouts"))
    except OSError as error:
        log.warning("the store does not say what it holds: %s", error.strerror)
        return None


def _note(context: Context, needed: Needed, *, accepted: set[str], stored: Sequence[str] | None) -> list[str]:
    """What has changed, on record; the erasures that are completed by it. Raises Needless.

    Exclusive: what another process notes at the same time must not be overwritten with what we saw before it.

    accepted  before we looked for stored layouts: one that has been stored since is made of survivors, and knows none
              of those who are forgotten by these. Of others only what keeps them from being completed is noted.
    """
    with context.registry.write(exclusive=True, needed=needed) as session:
        if left_behind := layouts.orphans(session, stored or []):  # by a move that was killed: it may know anybody
            destructions.schedule(session, left_behind)
            return []
        erasure_progress.note_clusters(session, _cluster_changes(context, session))
        changes = _erasure_changes(context, session, may_complete=accepted if stored is not None else set())
        erasure_progress.note_erasures(session, changes)
        for change in changes:
            if change.completed_after is not None:
                counters.observe(session, counters.COMPLETION, change.completed_after.total_seconds())
    return [change.id for change in changes if change.completed_after is not None]


def _cluster_changes(context: Context, session: ReadSession) -> list[ClusterChange]:
    most = context.settings.training.attempts
    found = [
        (affected, *_reached(affected, attempts=most))
        for affected in erasure_progress.affected_clusters(session, attempts=most)
    ]
    return [
        ClusterChange(affected.erasure, affected.cluster, state, prompt)
        for affected, state, prompt in found
        if state != affected.state
    ]


def _reached(affected: AffectedCluster, *, attempts: int) -> tuple[str, str | None]:
    """State of one touched cluster, and the prompt that it serves in place of the old one."""
    if not affected.present:
        return states.REMOVED, None
    if affected.serving_key is not None:
        # Built after the plan that knew of the erasure, or just what that plan asks for.
        later = affected.published_epoch is not None and affected.published_epoch > affected.planned_epoch
        if later or affected.serving_key == affected.desired_key:
            return states.RESTORED, affected.serving_key
    return (states.FAILED if affected.attempts >= attempts else states.RETRAINING), None


def _erasure_changes(
    context: Context, session: ReadSession, *, may_complete: Container[str] | None = None
) -> list[ErasureChange]:
    """may_complete  None: any of them."""
    most = context.settings.training.attempts
    pending = erasure_progress.destructions(session)
    now = context.clock()
    changes = []
    for erasure in erasure_progress.open_erasures(session):
        state = _state(erasure, pending, attempts=most)
        if state == states.COMPLETED and may_complete is not None and erasure.id not in may_complete:
            state = states.WITHDRAWN
        changed = states.may_change(erasure.state, state)
        restored = erasure.restored_at is None and erasure.unfinished == 0
        if changed or restored:
            then = max(now, erasure.accepted_at)  # the clock may have been set back
            changes.append(
                ErasureChange(
                    id=erasure.id,
                    state=state if changed else erasure.state,
                    completed_after=then - erasure.accepted_at if changed and state == states.COMPLETED else None,
                    completed_at=then if changed and state == states.COMPLETED else erasure.completed_at,
                    restored_at=then if restored else erasure.restored_at,
                )
            )
    return changes


def _state(erasure: OpenErasure, pending: Destructions, *, attempts: int) -> str:
    failures = pending.failures(erasure.id, erasure.planned_epoch)
    if failures is None and erasure.ledgered:
        return states.COMPLETED
    stuck = max(failures or 0, erasure.ledger_attempts) >= attempts
    return states.FAILED if stuck else states.WITHDRAWN
