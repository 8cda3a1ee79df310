"""The plan as a pure function: what the service must have learned, computed from the survivors and nothing else.

This is the oracle of tests and audits. It keeps no state: no clusters, no counts, no history, no layout. In whatever
order samples were added and erased, the registry must arrive at exactly this plan (`tests/stateful`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.embedding import Embedding
from models.partition import Interval, Partition
from models.spec import TrainingSpec, adapter_size, member_digest, prompt_key


@dataclass(frozen=True)
class Survivor:
    """A sample as the plan sees it: without id and time; the owner only affects the last bits of the position."""

    digest: str
    label: str
    position: int
    is_core: bool = False


@dataclass(frozen=True)
class PlannedCluster:
    """A cluster that should exist: its region, its members (indices into the survivors), and its prompt's key."""

    region: Interval
    members: tuple[int, ...]
    key: str


def locate(digests: Sequence[str], owners: Sequence[str], embeddings: Embedding, *, partition: Partition) -> list[int]:
    """Positions of the survivors, given image digests, owners' references and embeddings [n, dim] in arrival order."""
    if not digests:
        return []
    chosen = partition.anchors(digests[: partition.window(len(digests))])
    positions: list[int] = partition.fit(embeddings[chosen]).locate(embeddings, digests, owners).tolist()
    return positions


def plan(
    survivors: Sequence[Survivor], *, partition: Partition, backbone_digest: str, training: TrainingSpec
) -> list[PlannedCluster]:
    """The clusters that these survivors, in arrival order, imply."""
    positions = np.array([survivor.position for survivor in survivors], dtype=np.int64)
    line = np.sort(positions)

    def count(lo: int, hi: int) -> int:
        return int(np.searchsorted(line, hi) - np.searchsorted(line, lo))

    planned = []
    for region in partition.cut(count):
        members = np.flatnonzero((positions >= region.lo) & (positions < region.hi)).tolist()
        digests = [member_digest(survivors[i].digest, survivors[i].label) for i in members]
        key = prompt_key(backbone_digest=backbone_digest, training=training, members=digests)
        planned.append(PlannedCluster(region, tuple(members), key))
    return planned


@dataclass(frozen=True)
class PlannedAdapter:
    """The adapter that should exist: its members (indices into the survivors), and its key."""

    members: tuple[int, ...]
    key: str


def plan_adapter(
    survivors: Sequence[Survivor], *, backbone_digest: str, adapting: TrainingSpec
) -> PlannedAdapter | None:
    """The adapter that the core samples among these survivors, in arrival order, imply; None without any."""
    core = [index for index, survivor in enumerate(survivors) if survivor.is_core]
    members = core[: adapter_size(len(core))]
    if not members:
        return None
    digests = [member_digest(survivors[i].digest, survivors[i].label) for i in members]
    return PlannedAdapter(
        tuple(members), prompt_key(backbone_digest=backbone_digest, training=adapting, members=digests)
    )
