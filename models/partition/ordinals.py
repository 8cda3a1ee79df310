"""Partitions whose positions are ordinals: one cluster for each ordinal that has a survivor.

`random` (the paper's baseline) and `pinned` are public, so a deletion affects one cluster and no other. The size of a
cluster is not bounded; use `tree` for that.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from models.embedding import Embedding
from models.partition.line import Count, Interval, Positions, Public
from models.router import PrototypeRouter, exact_dot
from models.spec import PartitionSpec, canonical_json, sha256

ORDINALS = 1 << 15  # a line's end: the most clusters such a partition can have

Centroids = npt.NDArray[np.float32]


def cut_ordinals(count: Count) -> list[Interval]:
    """One region for each occupied ordinal; empty ones belong to the region before them (at the start: after)."""
    occupied: list[int] = []
    stack = [(0, ORDINALS)] if count(0, ORDINALS) else []
    while stack:
        lo, hi = stack.pop()
        if hi - lo == 1:
            occupied.append(lo)
            continue
        middle = (lo + hi) // 2
        stack += [half for half in ((middle, hi), (lo, middle)) if count(*half)]
    if not occupied:
        return []
    bounds = [0, *occupied[1:], ORDINALS]
    return [Interval(lo, hi) for lo, hi in pairwise(bounds)]


class RandomPartition(Public):
    """A hash of the image picks one of K (`spec.clusters`). Its own layout."""

    max_copies = None
    points = 0

    def __init__(self, spec: PartitionSpec) -> None:
        self.spec = spec
        self._clusters = check_count(spec.clusters)
        self.line_digest = sha256(b"oubli/line/random/1", canonical_json(self._clusters))
        self.digest = sha256(b"oubli/partition/ordinals/1", self.line_digest.encode())

    def cut(self, count: Count) -> list[Interval]:
        """One cluster for each value of the hash that a survivor has."""
        return cut_ordinals(count)

    def locate(
        self, embeddings: Embedding, image_digests: Sequence[str], owners: Sequence[str] | None = None
    ) -> Positions:
        """Hash of the image's digest, modulo K."""
        hashes = (int(sha256(b"oubli/random/1", digest.encode()), 16) for digest in image_digests)
        return np.array([value % self._clusters for value in hashes], dtype=np.int64)

    def nearest(self, embedding: Embedding, position: int, regions: Sequence[Interval]) -> int:
        """The next region on the line, cyclically: all are equally near to the image, and this spreads the load."""
        return min(range(len(regions)), key=lambda index: (regions[index].lo - position) % ORDINALS)

    def save(self) -> None:
        """Nothing: the spec is enough."""
        return


class CentroidLayout:
    """A layout by centroids: a sample's position is the ordinal of its nearest centroid (cosine)."""

    def __init__(self, centroids: Centroids, ordinals: Positions) -> None:
        """`centroids` are unit vectors [k, dim]; `ordinals[i]` is the position of centroid i, ascending."""
        self.centroids = centroids
        self._ordinals = ordinals
        self._router = PrototypeRouter(centroids)

    @property
    def points(self) -> int:
        """The number of centroids."""
        return len(self.centroids)

    def locate(
        self, embeddings: Embedding, image_digests: Sequence[str], owners: Sequence[str] | None = None
    ) -> Positions:
        """Ordinal [n] of the nearest centroid."""
        positions: Positions = self._ordinals[self._router.nearest(embeddings)]
        return positions

    def nearest(self, embedding: Embedding, position: int, regions: Sequence[Interval]) -> int:
        """The region with the most similar centroid; if none has a centroid, the first."""
        scores = exact_dot(self.centroids, embedding)

        def similarity(index: int) -> float:
            lo, hi = regions[index]
            inside = (self._ordinals >= lo) & (self._ordinals < hi)
            return float(scores[inside].max(initial=-np.inf))

        return max(range(len(regions)), key=similarity)


class PinnedPartition(CentroidLayout, Public):
    """Centroids from a file, fitted on public images. Its own layout."""

    max_copies = None

    def __init__(self, centroids: Centroids, spec: PartitionSpec) -> None:
        check_count(len(centroids))
        super().__init__(centroids, np.arange(len(centroids), dtype=np.int64))
        self.spec = spec
        self.line_digest = sha256(b"oubli/line/pinned/1", canonical_json(centroids.shape), centroids.tobytes())
        self.digest = sha256(b"oubli/partition/ordinals/1", self.line_digest.encode())

    def cut(self, count: Count) -> list[Interval]:
        """One cluster for each centroid that a survivor is nearest to."""
        return cut_ordinals(count)

    def save(self) -> bytes:
        """The centroids as a .npy file: the file that settings named may be gone when the layout is restored."""
        buffer = io.BytesIO()
        np.save(buffer, self.centroids, allow_pickle=False)
        return buffer.getvalue()


def check_count(clusters: int | None) -> int:
    """The number itself. Raises ValueError unless a line has room for so many clusters."""
    if clusters is None or not 1 <= clusters < ORDINALS:
        raise ValueError(f"partition.clusters must be 1 to {ORDINALS - 1}, not {clusters}.")
    return clusters


def read_centroids(data: bytes, *, dim: int) -> Centroids:
    """Unit vectors [k, dim] from a .npy file of numbers [k, dim]. Raises ValueError, in words."""
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError):
        raise ValueError("The centroids are not a .npy file (numpy.save of an array [clusters, features]).") from None
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind not in "fiu":
        raise ValueError("The centroids must be one array of numbers [clusters, features].")
    if array.shape[1] != dim:
        raise ValueError(f"The centroids have {array.shape[1]} features, and the backbone's embeddings {dim}.")
    if array.dtype == np.float32 and _are_unit(array):
        return np.ascontiguousarray(array)
    rows = array.astype(np.float64)
    norms = np.sqrt(np.sum(rows * rows, axis=1, keepdims=True))
    if not np.isfinite(rows).all() or not (norms > 1e-12).all():
        raise ValueError("A centroid is zero or not finite: it has no direction.")
    return np.ascontiguousarray(rows / norms, dtype=np.float32)


def _are_unit(rows: Centroids) -> bool:
    """Whether rows are normalised already: doing it again could change their last bits, and with them their digest."""
    return bool(np.isfinite(rows).all() and np.allclose(np.sum(rows.astype(np.float64) ** 2, axis=1), 1.0, atol=1e-6))
