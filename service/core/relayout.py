"""A relayout: all samples move to another layout, prepared from recorded embeddings, carried out in one transaction.

Needed when settings name another partition, and when the anchors of a fitted layout have changed. Until the transaction
commits, queries are answered by the old layout; after it, by the new one. The transaction checks that the survivors,
some of which may have come or gone during the preparation, still imply the prepared layout.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from models.embedding import Embedding
from models.partition import Interval, Layout
from service.artifacts import ObjectMissing, StoreUnavailable
from service.core import layouts, sample_file
from service.core.context import Context
from service.core.rebalance import Change, reshape
from service.errors import STORE_AWAY
from service.registry import clusters, samples
from service.registry.engine import WriteSession
from service.registry.records import Cluster
from service.registry.samples import SurvivorRecord

log = logging.getLogger(__name__)

CHUNK = 256  # samples read at a time
MOST_NEW_SAMPLES = 1000  # located within the transaction


class RelayoutBlocked(Exception):
    """A sample cannot be located; the message says which, and what to do."""


class Overtaken(Exception):
    """The survivors have changed meanwhile, and imply yet another layout."""


@dataclass(frozen=True)
class Relayout:
    """A layout, the ids of the samples that it was fitted on, and the positions of all samples in it, by id."""

    digest: str
    layout: Layout
    anchors: tuple[str, ...]
    positions: dict[str, int]


def prepare(context: Context) -> Relayout | None:
    """The relayout that is needed; None if the right layout is in force. Raises RelayoutBlocked or Overtaken."""
    with context.registry.read() as session:
        if layouts.is_in_force(context, session):
            return None
        survivors = samples.every(session)
    by_id = {sample.id: sample for sample in survivors}
    blocked = by_id.get(context.layout_cache.blocked_by or "")
    if blocked is not None:
        _embedding(context, blocked)  # first: its file may still be damaged, and reading all others would be wasted
    digest, anchors = _wanted(context, survivors)
    log.info("moving %d samples to layout %s", len(survivors), digest[:12])
    dim = context.backbone.dim
    vectors = [vector for _, part in _embeddings(context, [by_id[anchor] for anchor in anchors]) for vector in part]
    layout = context.partition.fit(np.array(vectors, dtype=np.float32).reshape(-1, dim))
    return Relayout(digest, layout, tuple(anchors), _locate(context, layout, survivors))


def _wanted(context: Context, survivors: Sequence[SurvivorRecord]) -> tuple[str, list[str]]:
    window = survivors[: context.partition.window(len(survivors))]
    return layouts.wanted(context, [(sample.id, sample.digest) for sample in window])


def _embeddings(
    context: Context, survivors: Sequence[SurvivorRecord]
) -> Iterator[tuple[Sequence[SurvivorRecord], Embedding]]:
    """Samples and their recorded embeddings [n, dim], chunk by chunk."""
    for start in range(0, len(survivors), CHUNK):
        chunk = survivors[start : start + CHUNK]
        yield chunk, np.stack([_embedding(context, sample) for sample in chunk])


def _embedding(context: Context, sample: SurvivorRecord) -> Embedding:
    try:
        embedding = sample_file.decode(
            context.store.get(samples.object_name(sample.id)), digest=sample.digest
        ).embedding
    except StoreUnavailable as error:
        log.error("a relayout waits for the store: %s", error.strerror)
        raise RelayoutBlocked(f"{STORE_AWAY} It is tried again by itself.") from None
    except (ObjectMissing, sample_file.DamagedSample, OSError) as error:
        with context.registry.read() as session:
            if samples.get(session, sample.id) is None:
                raise Overtaken from None
        context.layout_cache.blocked_by = sample.id
        reason = sample_file.words(error)
        raise RelayoutBlocked(
            f"Sample {sample.id} cannot be located: {reason}. Restore its file from a backup, or erase the sample."
        ) from None
    return embedding


def _locate(context: Context, layout: Layout, survivors: Sequence[SurvivorRecord]) -> dict[str, int]:
    positions: dict[str, int] = {}
    for chunk, embeddings in _embeddings(context, survivors):
        found = _located(layout, embeddings, chunk)
        positions.update(zip((sample.id for sample in chunk), found, strict=True))
    return positions


def _located(layout: Layout, embeddings: Embedding, survivors: Sequence[SurvivorRecord]) -> list[int]:
    found: list[int] = layout.locate(embeddings, [s.digest for s in survivors], [s.owner for s in survivors]).tolist()
    return found


def carry_out(context: Context, session: WriteSession, relayout: Relayout) -> dict[str, set[str]]:
    """Give all samples their new positions and clusters; for each changed cluster, the clusters that they were in.

    Raises Overtaken. To be called in an exclusive transaction, before `layouts.put_in_force`.
    """
    survivors = samples.every(session)
    if _wanted(context, survivors)[0] != relayout.digest:
        raise Overtaken
    arrived = [sample for sample in survivors if sample.id not in relayout.positions]
    if len(arrived) > MOST_NEW_SAMPLES:
        raise Overtaken  # locating so many here would hold up every other writer
    positions = {**relayout.positions, **_locate(context, relayout.layout, arrived)}
    samples.place(session, {s.id: positions[s.id] for s in survivors if s.position != positions[s.id]})
    old = clusters.every(session)
    changes = list(_changes(context, survivors, [positions[sample.id] for sample in survivors], {c.id: c for c in old}))
    return reshape(context, session, changes, gone=old, share=0.5)


def _changes(
    context: Context, survivors: Sequence[SurvivorRecord], positions: Sequence[int], old: dict[str, Cluster]
) -> Iterator[Change]:
    """The regions of the new cut, with the clusters that their samples come from."""
    order = np.argsort(np.array(positions, dtype=np.int64), kind="stable")
    line = np.array(positions, dtype=np.int64)[order]

    def bounds(lo: int, hi: int) -> tuple[int, int]:
        return int(np.searchsorted(line, lo)), int(np.searchsorted(line, hi))

    def count(lo: int, hi: int) -> int:
        first, last = bounds(lo, hi)
        return last - first

    for region in context.partition.cut(count):
        first, last = bounds(*region)
        taken = Counter(survivors[index].cluster for index in order[first:last].tolist())
        sources = sorted(((number, old[cluster]) for cluster, number in taken.items()), key=_most_first)
        yield Change(Interval(*region), last - first, tuple(sources))


def _most_first(source: tuple[int, Cluster]) -> tuple[int, int]:
    return -source[0], source[1].lo
