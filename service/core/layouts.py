"""What positions on record mean: restoring the layout in force, and knowing which one the survivors imply.

A process reads the registry by the layout that is in force there, whatever its own settings want. The two differ after
a change of settings, and whenever a fitted layout's anchors have changed; then `core.relayout` brings them together.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from uuid6 import uuid7

from models.embedding import Embedding
from models.partition import Layout, layout_digest, make_partition
from models.partition.anchors import AnchorLayout
from models.spec import PartitionSpec
from service.artifacts import ObjectMissing, born
from service.core.context import Context
from service.registry import clusters, destructions, layout_state, samples, state
from service.registry.engine import ReadSession, WriteSession
from service.registry.records import LayoutInForce

log = logging.getLogger(__name__)

MOVING = "The samples are being divided anew just now. Try again in a moment."


def in_force(context: Context) -> tuple[str | None, Layout | None]:
    """Digest of the layout in force, and the layout; None for both while positions mean nothing."""
    with context.registry.read() as session:
        record = layout_state.current(session)
    return record.digest, restore(context, record)


def restore(context: Context, record: LayoutInForce) -> Layout | None:
    """The layout of that record. None if positions mean nothing, or it has just been replaced.

    One that is damaged, or that this release computes otherwise, is given up: everybody is located anew.
    """
    if record.digest is None:
        return None
    if record.digest == context.partition.line_digest:
        return public(context)
    known = context.layout_cache.get(record)
    if known is not None:
        return known
    try:
        layout = _load(context, record)
    except OSError as error:
        log.error("the layout in force cannot be read just now: %s", error.strerror)
        return None
    except (ObjectMissing, ValueError):
        # Exclusive: every cluster is about to be changed, and erasures lock them before the state.
        with context.registry.write(exclusive=True) as session:
            now = layout_state.current(session)
            if (now.digest, now.object) == (record.digest, record.object):
                lose(session)
        return None
    context.layout_cache.put(record, layout)
    return layout


@dataclass(frozen=True)
class Artifact:
    """An object to be stored as the last step of the transaction that puts its layout in force.

    So a process that is killed during the transaction leaves nothing behind, but in that last moment (`strays`).
    """

    name: str
    data: bytes


def put_in_force(
    context: Context, session: WriteSession, digest: str, layout: Layout, *, anchors: Sequence[str] = ()
) -> Artifact | None:
    """Record the layout that positions are about to have; what must be stored. What the old one left must go."""
    data = layout.save()
    artifact = Artifact(f"layouts/{uuid7()}.safetensors", data) if data is not None else None
    replaced = layout_state.put_in_force(
        session,
        digest,
        spec=dataclasses.asdict(context.partition.spec),
        object_name=artifact.name if artifact is not None else None,
        checksum=hashlib.sha256(artifact.data).hexdigest() if artifact is not None else None,
        anchors=anchors,
    )
    if replaced is not None:
        destructions.schedule(session, [replaced])
    return artifact


def orphans(session: ReadSession, stored: Sequence[str]) -> list[str]:
    """Those of the stored layouts that are neither in force nor owed to destruction.

    In an exclusive transaction, when no move is under way. A move that had stored one before has been carried out by
    then, or has failed.
    """
    if not stored:
        return []
    known = {layout_state.current(session).object, *destructions.pending(session)}
    return [name for name in stored if name not in known and born(name) is not None]


def lose(session: WriteSession) -> None:
    """Positions mean nothing any more: plan from nothing."""
    layout_state.lose(session)
    clusters.forget_plans(session)
    state.bump_epoch(session)


def public(context: Context) -> Layout:
    """Our partition's layout without anchors."""
    return context.partition.fit(_no_embeddings(context))


def _no_embeddings(context: Context) -> Embedding:
    return np.zeros((0, context.backbone.dim), dtype=np.float32)


def _load(context: Context, record: LayoutInForce) -> Layout:
    try:
        spec = PartitionSpec(**record.spec)
    except TypeError:  # a later release has settings that this one does not know
        raise ValueError("the layout is of another release") from None
    data = context.store.get(record.object) if record.object is not None else None
    if data is not None and hashlib.sha256(data).hexdigest() != record.checksum:
        raise ValueError("the layout's bytes do not have the recorded checksum")
    if spec.kind == "anchors":
        return AnchorLayout.load(data, record.kept)
    made = make_partition(spec, context.backbone.prototypes, centroids=data, cache=context.settings.cache)
    # Were another SciPy to order the tree otherwise, its positions would mean something else.
    if made.line_digest != record.digest:
        raise ValueError("the layout is computed otherwise here")
    return made.fit(_no_embeddings(context))


def wanted(context: Context, arrivals: Sequence[tuple[str, str]]) -> tuple[str, list[str]]:
    """Digest of the layout that survivors imply, and the ids of its anchors.

    arrivals  (id, image digest) of the survivors in arrival order, of the window at least.
    """
    chosen = context.partition.anchors([digest for _, digest in arrivals])
    ids = [arrivals[index][0] for index in chosen]
    return layout_digest(context.partition, [arrivals[index][1] for index in chosen]), ids


def wanted_now(context: Context, session: ReadSession, *, without: Sequence[str] = ()) -> tuple[str, list[str]]:
    """The same for the survivors on record, or for what would be left of them."""
    window = context.partition.window(clusters.count_samples(session) - len(without))
    if window == 0:
        return context.partition.line_digest, []
    gone = set(without)
    arrivals = samples.arrivals(session, limit=window + len(gone))
    return wanted(context, [arrival for arrival in arrivals if arrival[0] not in gone][:window])


def is_in_force(context: Context, session: ReadSession) -> bool:
    """Whether positions on record are those that the survivors imply."""
    return layout_state.digest(session) == wanted_now(context, session)[0]
