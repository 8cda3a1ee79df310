"""The paper's partition, made exact: clusters of private anchors, chosen by a rule that only survivors enter.

LMEraser (arXiv 2404.11056) clusters the features of some private samples and keeps the result for good. Here, with M
anchors and n survivors: one cluster while n < M; from then on the window is the first W = M * 2^floor(log2(n / M))
survivors, and the anchors are the M of it with the smallest hash of their image. They are clustered by average
linkage; a sample goes to the nearest centroid. So the layout is a function of the survivors: erasing one may change the
anchors; then it is fitted again, and all samples are located anew.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np
import safetensors
import safetensors.numpy
from scipy.cluster.hierarchy import fcluster, linkage

from models.embedding import Embedding
from models.partition.line import Count, Interval, Positions
from models.partition.ordinals import ORDINALS, CentroidLayout, check_count, cut_ordinals
from models.spec import PartitionSpec, canonical_json, sha256


class AnchorPartition:
    """Average linkage of `spec.anchors` survivors: into `spec.clusters`, or below `spec.distance_threshold`."""

    max_copies = None

    def __init__(self, spec: PartitionSpec) -> None:
        if not 2 <= spec.anchors < ORDINALS:
            raise ValueError(f"partition.anchors must be 2 to {ORDINALS - 1}, not {spec.anchors}.")
        if spec.clusters is not None and check_count(spec.clusters) > spec.anchors:
            raise ValueError(f"partition.clusters ({spec.clusters}) is more than partition.anchors ({spec.anchors}).")
        self.spec = spec
        rule = ["clusters", spec.clusters] if spec.clusters is not None else ["distance", spec.distance_threshold]
        self.line_digest = sha256(b"oubli/line/anchors/1", canonical_json([spec.anchors, *rule]))
        self.digest = sha256(b"oubli/partition/ordinals/1", self.line_digest.encode())
        self._no_embeddings = AnchorLayout(np.zeros((0, 1), dtype=np.float32), np.zeros(0, dtype=np.int64))

    def window(self, survivors: int) -> int:
        """The number of first survivors that anchors are chosen from. It doubles, so that fits are rare."""
        size = self.spec.anchors
        if survivors < size:
            return 0
        while size * 2 <= survivors:
            size *= 2
        return size

    def anchors(self, image_digests: Sequence[str]) -> list[int]:
        """The M survivors of the window with the smallest hash, in that order; copies of an image by arrival."""
        hashes = [sha256(b"oubli/anchor/1", digest.encode()) for digest in image_digests]
        return heapq.nsmallest(self.spec.anchors, range(len(hashes)), key=lambda index: (hashes[index], index))

    def fit(self, anchors: Embedding) -> AnchorLayout:
        """Cluster the anchors. Groups are numbered in the order of their first anchor."""
        if not len(anchors):
            return self._no_embeddings
        merges = linkage(anchors.astype(np.float64), method="average")
        if self.spec.clusters is not None:
            found = fcluster(merges, self.spec.clusters, criterion="maxclust")
        else:
            found = fcluster(merges, self.spec.distance_threshold, criterion="distance")
        _, first, inverse = np.unique(found, return_index=True, return_inverse=True)
        number = np.argsort(np.argsort(first)).astype(np.int64)
        return AnchorLayout(anchors, number[inverse])

    def cut(self, count: Count) -> list[Interval]:
        """One cluster for each centroid that a survivor is nearest to."""
        return cut_ordinals(count)


class AnchorLayout:
    """The layout of centroids that are means of anchors. Without anchors, all positions are 0."""

    def __init__(self, anchors: Embedding, groups: Positions) -> None:
        """`anchors` are embeddings [m, dim]; `groups[i]` is the group of anchor i."""
        self._anchors = anchors
        self._groups = groups
        present = np.unique(groups)
        self._centroids = CentroidLayout(_centroids(anchors, groups, present), present) if len(present) else None

    @classmethod
    def load(cls, data: bytes | None, kept: Sequence[int]) -> AnchorLayout:
        """A saved layout with the anchors `kept` (indices) alone: the others are of erased samples.

        Raises ValueError if the bytes are damaged.
        """
        if data is None:
            return cls(np.zeros((0, 1), dtype=np.float32), np.zeros(0, dtype=np.int64))
        try:
            tensors = safetensors.numpy.load(data)
            chosen = np.array(sorted(kept), dtype=np.int64)
            return cls(tensors["anchors"][chosen], tensors["groups"][chosen])
        except (safetensors.SafetensorError, KeyError, IndexError) as error:
            raise ValueError(f"the layout cannot be read ({error})") from None

    @property
    def points(self) -> int:
        """The number of anchors."""
        return len(self._anchors)

    def locate(
        self, embeddings: Embedding, image_digests: Sequence[str], owners: Sequence[str] | None = None
    ) -> Positions:
        """Group [n] of the nearest centroid."""
        if self._centroids is None:
            return np.zeros(len(embeddings), dtype=np.int64)
        return self._centroids.locate(embeddings, image_digests)

    def nearest(self, embedding: Embedding, position: int, regions: Sequence[Interval]) -> int:
        """The region with the most similar centroid."""
        return self._centroids.nearest(embedding, position, regions) if self._centroids is not None else 0

    def save(self) -> bytes | None:
        """Anchors and groups as safetensors; None while there are none."""
        if self._centroids is None:
            return None
        return safetensors.numpy.save({"anchors": self._anchors, "groups": self._groups})


def _centroids(anchors: Embedding, groups: Positions, present: Positions) -> Embedding:
    """Mean of each group's anchors, as a unit vector; anchors that cancel out are represented by their first."""
    rows = np.empty((len(present), anchors.shape[1]), dtype=np.float64)
    for row, group in enumerate(present):
        members = anchors[groups == group].astype(np.float64)
        mean = members.mean(axis=0)
        norm = np.sqrt(np.sum(mean * mean))
        rows[row] = mean / norm if norm > 1e-12 else members[0]
    return rows.astype(np.float32)
