"""Layouts: what recorded positions mean. Restoring the layout in force, and computing which one the survivors imply.

A process reads positions by the layout that the registry says is in force, whatever its own settings ask for. The two
differ after a change of settings, and when a fitted layout's anchors have changed; `core.relayout` then replaces it.
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

MOVING = "The samples are being divided into new clusters just now. Try again in a moment."


def in_force(context: Context) -> tuple[str | None, Layout | None]:
    """(digest, layout) that are in force; None for both while positions mean nothing."""
    with context.registry.read() as session:
        record = layout_state.current(session)
    return record.digest, restore(context, record)


def restore(context: Context, record: LayoutInForce) -> Layout | None:
    """The layout of that record. None if positions mean nothing, or the layout has just been replaced.

    A layout that is damaged, or that this release computes differently, is given up: all samples are located anew.
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
        # Exclusive: every cluster is changed after the state row, and erasures lock clusters before it.
        with context.registry.write(exclusive=True) as session:
            now = layout_state.current(session)
            if (now.digest, now.object) == (record.digest, record.object):
                lose(session)
        return None
    context.layout_cache.put(record, layout)
    return layout


@dataclass(frozen=True)
class Artifact:
    """A layout's object, to be stored as the last step of the transaction that puts the layout in force.

    So a process that is killed during the transaction leaves no object, unless in that last moment (`orphans`).
    """

    name: str
    data: bytes


def put_in_force(
    context: Context, session: WriteSession, digest: str, layout: Layout, *, anchors: Sequence[str] = ()
) -> Artifact | None:
    """Record another layout as in force; its artifact, to be stored. The old artifact is scheduled for deletion."""
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
    """Those of the stored layouts that are neither in force nor scheduled for deletion.

    To be called in an exclusive transaction, so that no relayout is under way: whichever had stored one of these has
    been committed by now, or has failed.
    """
    if not stored:
        return []
    known = {layout_state.current(session).object, *destructions.pending(session)}
    return [name for name in stored if name not in known and born(name) is not None]


def lose(session: WriteSession) -> None:
    """Give the layout in force up: positions mean nothing any more, and every cluster is to be planned anew."""
    layout_state.lose(session)
    clusters.forget_plans(session)
    state.bump_epoch(session)


def public(context: Context) -> Layout:
    """The layout of the configured partition, without anchors."""
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
    # Another version of SciPy may order the tree differently; positions would then mean something else.
    if made.line_digest != record.digest:
        raise ValueError("this release computes the layout differently")
    return made.fit(_no_embeddings(context))


def wanted(context: Context, arrivals: Sequence[tuple[str, str]]) -> tuple[str, list[str]]:
    """Digest of the layout that the survivors imply, and the sample ids of its anchors.

    arrivals  (id, image digest) of the survivors in arrival order; those of the window are enough.
    """
    chosen = context.partition.anchors([digest for _, digest in arrivals])
    ids = [arrivals[index][0] for index in chosen]
    return layout_digest(context.partition, [arrivals[index][1] for index in chosen]), ids


def wanted_now(context: Context, session: ReadSession, *, without: Sequence[str] = ()) -> tuple[str, list[str]]:
    """`wanted` for the recorded survivors; `without` some of them."""
    window = context.partition.window(clusters.count_samples(session) - len(without))
    if window == 0:
        return context.partition.line_digest, []
    gone = set(without)
    arrivals = samples.arrivals(session, limit=window + len(gone))
    return wanted(context, [arrival for arrival in arrivals if arrival[0] not in gone][:window])


def is_in_force(context: Context, session: ReadSession) -> bool:
    """Whether the layout in force is the one that the survivors imply."""
    return layout_state.digest(session) == wanted_now(context, session)[0]
