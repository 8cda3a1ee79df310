"""Partitions: each sample has a position on a line, and the line is cut into clusters by counts (`line`).

Four rules, all exact under deletion: `tree` (the default), `anchors`, and in `ordinals` `random` and `pinned`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.partition.anchors import AnchorPartition
from models.partition.line import Count, Interval, Layout, Partition, Positions, layout_digest
from models.partition.ordinals import PinnedPartition, RandomPartition, read_centroids
from models.partition.tree import TreePartition
from models.spec import PartitionSpec

__all__ = [
    "KINDS",
    "Count",
    "Interval",
    "Layout",
    "Partition",
    "Positions",
    "layout_digest",
    "make_partition",
]

KINDS = ("tree", "anchors", "random", "pinned")


def make_partition(
    spec: PartitionSpec,
    prototypes: npt.NDArray[np.float32],
    *,
    centroids: bytes | None = None,
    cache: Path | None = None,
) -> Partition:
    """The partition that a spec names. Raises ValueError for an unknown kind or impossible settings.

    prototypes  unit vectors [p, dim], the leaves of `tree`.
    centroids   a .npy file, for `pinned`.
    cache       folder of public results that are slow to compute (`models.public_cache`).
    """
    if spec.kind == "tree":
        return TreePartition(prototypes, spec, cache=cache)
    if spec.kind == "anchors":
        return AnchorPartition(spec)
    if spec.kind == "random":
        return RandomPartition(spec)
    if spec.kind == "pinned":
        if centroids is None:
            raise ValueError("partition.kind pinned needs partition.centroids: a .npy file [clusters, features].")
        return PinnedPartition(read_centroids(centroids, dim=prototypes.shape[1]), spec)
    raise ValueError(f"Unknown partition.kind {spec.kind!r}. Known: {', '.join(KINDS)}.")
