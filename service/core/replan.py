"""Updating the plan as samples come and go: the regions that must change, and the keys of changed clusters.

The result must equal what `core.plan` computes from the survivors alone. It is reached from the clusters' own counts,
with a look into a cluster only where the cut divides it, and moves only samples whose cluster changes. One exclusive
transaction.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress

from models.spec import TrainingSpec, adapter_size, member_digest, prompt_key
from service.artifacts import StoreUnavailable
from service.core import layouts, relayout
from service.core.context import Context, require_bound
from service.core.rebalance import rebalance
from service.errors import Unavailable
from service.registry import clusters, erasure_progress, erasures, layout_state, prompts, samples, state, states
from service.registry.engine import Needless, ReadSession, WriteSession
from service.registry.records import Cluster

log = logging.getLogger(__name__)


def replan(context: Context, *, refit: bool = True) -> bool:
    """Bring the plan up to date; whether anything had changed.

    refit  carry out a relayout if one is needed. That can take a while, so an API process leaves it to a worker; until
           a worker has done it, nothing is planned.
    """
    with context.registry.read() as session:
        if not _is_to_plan(context, session):
            return False
        moving = not layouts.is_in_force(context, session)
    if moving and not refit:
        return False
    try:
        return _plan(context, relayout.prepare(context) if moving else None)
    except (relayout.Overtaken, Needless):
        return True  # the next pass looks again
    except relayout.RelayoutBlocked as failure:
        _note_failure(context, str(failure))
        return False
    except StoreUnavailable as error:
        log.error("another layout cannot be stored just now: %s", error.strerror)
        return False


def _is_to_plan(context: Context, session: ReadSession) -> bool:
    """Whether clusters have changed, or an erasure changed none: a plan is what deletes the rows of leaving owners."""
    return bool(clusters.to_plan(session, context.clock())) or erasures.is_any_unplanned(session)


def _plan(context: Context, prepared: relayout.Relayout | None) -> bool:
    """The planning transaction; exclusive, so that counts and positions hold still. True: there was something to plan.

    1. Check that the registry still belongs to these settings.
    2. Divide the samples: by the prepared layout, which is put in force, or else by today's counts.
    3. Compute the keys of clusters that have changed, and serve those prompts that are built already.
    4. Drop prompts that no cluster serves any more, and schedule the deletion of their artifacts.
    5. Delete owners who have no samples left.
    6. Note for open erasures which clusters they now wait for.
    7. Store the layout's artifact: last, so that a process that dies before has left nothing behind.

    Raises Needless if another process has planned meanwhile, Overtaken if the survivors imply another layout by now.
    """
    artifact: layouts.Artifact | None = None

    def needed(session: ReadSession) -> bool:
        return _is_to_plan(context, session)

    if prepared is not None:
        context.store.check()  # while no writer waits: a store that hangs would hold up every writer
    try:
        with context.registry.write(exclusive=True, needed=needed if prepared is None else None) as session:
            # 1. Check the settings.
            require_bound(context, session)
            # 2. Divide the samples.
            if prepared is not None:
                changed = relayout.carry_out(context, session, prepared)
                artifact = layouts.put_in_force(
                    context, session, prepared.digest, prepared.layout, anchors=prepared.anchors
                )
            elif layouts.is_in_force(context, session):
                changed = rebalance(context, session)
                layout_state.note_failure(session, None)
            else:
                raise relayout.Overtaken
            # 3. Compute keys.
            _plan_keys(context, session)
            # 4. Drop prompts.
            prompts.drop_unserved(session)
            # 5. Delete owners.
            samples.prune_owners(session)
            # 6. Note it for erasures.
            erasure_progress.note_plan(session, epoch=state.epoch(session), changed=changed)
            # 7. Store the layout.
            if artifact is not None:
                context.store.put(artifact.name, artifact.data)
    except BaseException as error:
        # After Unavailable the commit may have succeeded without our hearing of it: the layout may be in force.
        if artifact is not None and not isinstance(error, Unavailable):
            with suppress(OSError):  # `layouts.orphans` will find what is left
                context.store.delete(artifact.name)
        raise
    return True


def _note_failure(context: Context, failure: str) -> None:
    """Record why nothing can be planned. Erasures that wait for a plan show as failed; their objects are deleted."""
    with context.registry.read() as session:
        waiting = bool(erasures.counts(session).get(states.WITHDRAWN))
        if layout_state.failure(session) == failure and not waiting:
            return  # it is on record already
    log.error("the relayout is blocked: %s", failure)
    with context.registry.write(exclusive=True) as session:
        require_bound(context, session)
        layout_state.note_failure(session, failure)
        samples.prune_owners(session)
        erasure_progress.fail_unplanned(session)


def key_of(context: Context, members: Sequence[samples.MemberRecord], training: TrainingSpec) -> str:
    """The key of a prompt that is trained so on these members, in arrival order."""
    return prompt_key(
        backbone_digest=context.backbone.digest,
        training=training,
        members=[member_digest(member.digest, member.label) for member in members],
    )


def _plan_keys(context: Context, session: WriteSession) -> None:
    """Compute the keys of clusters that have changed; serve prompts that are built already."""
    adapter = clusters.adapter(session)
    for cluster_id in clusters.to_plan(session, context.clock()):
        if adapter is not None and cluster_id == adapter.id:
            _plan_adapter(context, session, adapter)
            continue
        members = samples.members(session, cluster_id)
        key = key_of(context, members, context.training)
        clusters.plan(session, cluster_id, key, through=members[-1].seq if members else 0)
        if prompts.get(session, [key]):
            state.bump_epoch(session)
            clusters.adopt(session, cluster_id, key)


def _plan_adapter(context: Context, session: WriteSession, adapter: Cluster) -> None:
    """Compute the adapter's key; without core samples there is no adapter."""
    members = samples.core(session, limit=adapter_size(samples.count_core(session)))
    if not members:
        for lease in clusters.delete(session, [adapter.id]):
            prompts.destroy_unpublished(session, [lease.token], held_until=lease.until)
        state.bump_epoch(session)
        return
    key = key_of(context, members, context.adapting)
    clusters.plan(session, adapter.id, key, through=members[-1].seq)
    if prompts.get(session, [key]):
        if adapter.serving_key != key:
            state.bump_epoch(session)
        clusters.adopt(session, adapter.id, key)
