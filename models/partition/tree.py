"""The default partition: an adaptive cut of a public tree.

The leaves are the backbone's own classifier rows in the order of their Ward dendrogram. Below a leaf the tree goes on
with seeded hyperplanes through the prototype, and below those with a hash of the image and its owner, which separates
near copies, and one image that many owners contribute (decision 0017). So no deletion can move another sample on the
line; it can only change a count, and a cut changes only where a count crosses `cap` or `min`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import scipy
from scipy.cluster.hierarchy import is_valid_linkage, linkage, to_tree

from models.embedding import Embedding
from models.partition.line import Count, Interval, Positions, Public
from models.public_cache import Array, cached
from models.router import PrototypeRouter, exact_dot
from models.spec import PartitionSpec, canonical_json, sha256

LEAF_BITS = 15  # up to 32,767 prototypes
PLANE_BITS = 32  # hyperplanes below each leaf
TAIL_BITS = 16  # of a hash of image and owner, below the hyperplanes
BELOW_LEAF = PLANE_BITS + TAIL_BITS


class TreePartition(Public):
    """An adaptive cut of a public tree, and its own layout.

    Promises min <= size <= cap for every cluster once there are `min` survivors, and one cluster before; but samples
    that share a position cannot be separated, however many they are.
    """

    def __init__(self, prototypes: npt.NDArray[np.float32], spec: PartitionSpec, *, cache: Path | None = None) -> None:
        if spec.min < 1 or spec.cap < 2 * spec.min:
            raise ValueError(
                f"partition.cap ({spec.cap}) must be at least twice partition.min ({spec.min}), and min at least 1: "
                "otherwise some number of samples cannot be divided into clusters of allowed sizes."
            )
        if len(prototypes) >= 2**LEAF_BITS:  # the line's end must fit an int64 as well
            raise ValueError(f"At most {2**LEAF_BITS - 1} prototypes are supported, not {len(prototypes)}.")
        self.spec = spec
        self._router = PrototypeRouter(prototypes)
        order, self._splits = _dendrogram(prototypes, cache)
        # The order too: another version of SciPy may break a tie differently, and positions would mean something else.
        public = (np.ascontiguousarray(prototypes).tobytes(), order.tobytes())
        # As migration 0008 computes it from the earlier line, whose tails were the first bits of the image's digest.
        self.line_digest = sha256(b"oubli/line/tree/2", sha256(b"oubli/line/tree/1", *public).encode())
        self.digest = sha256(b"oubli/partition/tree/1", canonical_json([spec.cap, spec.min]), self.line_digest.encode())
        self._rank = np.empty(len(order), dtype=np.int64)  # leaf index -> place in the dendrogram's order
        self._rank[order] = np.arange(len(order))
        self._in_order = prototypes[order]
        self._planes = _hyperplanes(prototypes.shape[1])
        self._offsets = self._along_planes(prototypes)
        self._leaves = len(order)

    @property
    def points(self) -> int:
        """The number of leaves."""
        return self._leaves

    def save(self) -> None:
        """Nothing: the backbone and the spec are enough."""
        return

    @property
    def max_copies(self) -> int:
        """Most copies of one image of one owner that leave every cluster within `cap`, margins included."""
        return self.spec.cap - 2 * self.spec.min + 2

    def locate(
        self, embeddings: Embedding, image_digests: Sequence[str], owners: Sequence[str] | None = None
    ) -> Positions:
        """Position [n]: leaf rank (15 bits), side of each hyperplane (32), `tail` of image and owner (16)."""
        leaves = self._router.nearest(embeddings)
        sides = self._along_planes(embeddings) > self._offsets[leaves]
        weights = 2 ** np.arange(PLANE_BITS - 1, -1, -1, dtype=np.int64)
        codes = (sides.astype(np.int64) * weights).sum(axis=1)
        givers = owners if owners is not None else [""] * len(image_digests)
        tails = np.array([tail(*pair) for pair in zip(image_digests, givers, strict=True)], dtype=np.int64)
        positions: Positions = (self._rank[leaves] << BELOW_LEAF) | (codes << TAIL_BITS) | tails
        return positions

    def _along_planes(self, vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Dot product of each vector [n, dim] with each direction: [n, 32]. One plane at a time, to save memory."""
        wide = vectors.astype(np.float64)
        return np.stack([exact_dot(wide, plane) for plane in self._planes], axis=-1)

    def nearest(self, embedding: Embedding, position: int, regions: Sequence[Interval]) -> int:
        """The region with the most similar prototype; of several that share it, the closest on the line."""
        scores = self._in_order.astype(np.float64) @ embedding.astype(np.float64)

        def similarity(index: int) -> tuple[float, int]:
            lo, hi = regions[index]
            first, last = lo >> BELOW_LEAF, (hi - 1) >> BELOW_LEAF
            return float(scores[first : last + 1].max()), -max(lo - position, position - hi)

        return max(range(len(regions)), key=similarity)

    def cut(self, count: Count) -> list[Interval]:
        """The clusters' regions: descend from the root, and stop where at most `cap` survivors are left.

        A group is an interval [lo, hi) around one tree node. A node is divided where both sides of the group would
        have at least `min` survivors; a smaller side remains as the margin of its neighbour. Both margins always have
        fewer than `min`, so a group can have more than `cap` only while its node can still be divided.
        """
        whole = Interval(0, self._leaves << BELOW_LEAF)
        if count(*whole) == 0:
            return []
        cut: list[Interval] = []
        groups = [(whole.lo, whole, whole.hi)]
        while groups:
            lo, node, hi = groups.pop()
            middle = self._split(node)
            if middle is None or count(lo, hi) <= self.spec.cap:
                cut.append(Interval(lo, hi))
            elif count(lo, middle) < self.spec.min:
                groups.append((lo, Interval(middle, node.hi), hi))
            elif count(middle, hi) < self.spec.min:
                groups.append((lo, Interval(node.lo, middle), hi))
            else:
                groups.append((lo, Interval(node.lo, middle), middle))
                groups.append((middle, Interval(middle, node.hi), hi))
        return sorted(cut)

    def _split(self, node: Interval) -> int | None:
        """Where a node's second child begins; None for a single position."""
        width = node.hi - node.lo
        if width == 1:
            return None
        if width <= 1 << BELOW_LEAF:
            return node.lo + width // 2
        first = node.lo >> BELOW_LEAF
        last = node.hi >> BELOW_LEAF
        return self._splits[(first, last)] << BELOW_LEAF


def tail(image_digest: str, owner: str) -> int:
    """The lowest 16 bits of a position: equal for copies of one owner, pseudo-random otherwise."""
    return int(sha256(b"oubli/tail/1", image_digest.encode(), owner.encode())[: TAIL_BITS // 4], 16)


def _dendrogram(
    prototypes: npt.NDArray[np.float32], cache: Path | None
) -> tuple[Positions, dict[tuple[int, int], int]]:
    """Leaf order of the Ward dendrogram, and where each inner node [first, last) of that order divides."""
    if len(prototypes) == 1:
        return np.zeros(1, dtype=np.int64), {}
    merges = _merges(prototypes, cache)
    root = to_tree(merges)
    order = np.array(root.pre_order(), dtype=np.int64)
    splits: dict[tuple[int, int], int] = {}
    stack = [(root, 0)]
    while stack:
        node, first = stack.pop()
        if node.is_leaf():
            continue
        middle = first + node.left.count
        splits[(first, first + node.count)] = middle
        stack.append((node.left, first))
        stack.append((node.right, middle))
    return order, splits


def _merges(prototypes: npt.NDArray[np.float32], cache: Path | None) -> Array:
    """Ward's merges [p - 1, 4] of p prototypes, as SciPy gives them: seconds for a thousand, hence kept on disk."""

    def compute() -> Array:
        merges: Array = linkage(prototypes.astype(np.float64), method="ward", optimal_ordering=True)
        return merges

    def is_valid(merges: Array) -> bool:
        return merges.shape == (len(prototypes) - 1, 4) and bool(is_valid_linkage(merges))

    inputs = (scipy.__version__.encode(), repr(prototypes.shape).encode(), np.ascontiguousarray(prototypes).tobytes())
    return cached(cache, f"ward-{sha256(b'oubli/ward/1', *inputs)}", compute, is_valid=is_valid)


def _hyperplanes(dim: int) -> npt.NDArray[np.float64]:
    """Seeded directions [32, dim], the same on every machine: bytes of SHAKE-256, centred."""
    stream = hashlib.shake_256(b"oubli/hyperplanes/1").digest(PLANE_BITS * dim * 4)
    words = np.frombuffer(stream, dtype="<u4").reshape(PLANE_BITS, dim)
    directions: npt.NDArray[np.float64] = words.astype(np.float64) / 2**31 - 1.0
    return directions
