"""The protocol of partitions: positions on a line, and a cut of that line by counts.

A partition answers three questions, each by a pure function. `anchors` and `fit`: which survivors, if any, define the
positions, and what layout do they give? `Layout.locate`: which int64 position on the line has a sample? `cut`: into
which intervals is the line divided, given only the number of survivors in any interval? So membership is a function of
the survivors, whatever was added or erased before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, Self

import numpy as np
import numpy.typing as npt

from models.embedding import Embedding
from models.spec import PartitionSpec, sha256

Positions = npt.NDArray[np.int64]


class Interval(NamedTuple):
    """Positions lo <= p < hi: the region of one cluster."""

    lo: int
    hi: int


Count = Callable[[int, int], int]  # the number of survivors at lo <= position < hi


class Layout(Protocol):
    """A layout: the positions of samples on the line."""

    @property
    def points(self) -> int:
        """The number of fixed points that samples are routed by; 0 if there are none."""
        ...

    def locate(
        self, embeddings: Embedding, image_digests: Sequence[str], owners: Sequence[str] | None = None
    ) -> Positions:
        """Positions [n] of samples, given embeddings [n, dim], digests of the images and references of their owners.

        owners  None: images of queries, which have no owner.
        """
        ...

    def nearest(self, embedding: Embedding, position: int, regions: Sequence[Interval]) -> int:
        """Index of the region nearest to an embedding [dim] whose position is in none of them."""
        ...

    def save(self) -> bytes | None:
        """The bytes that are needed besides the spec to restore the layout; None if the spec is enough."""
        ...


class Partition(Protocol):
    """A rule that divides survivors into clusters."""

    spec: PartitionSpec
    line_digest: str  # of what a position means, except for the anchors
    digest: str  # of the line and of how it is cut

    @property
    def max_copies(self) -> int | None:
        """How many samples of one owner may be the same image: more could not be divided. None: any number."""
        ...

    def window(self, survivors: int) -> int:
        """The number of first survivors that the layout depends on; 0 for a public layout."""
        ...

    def anchors(self, image_digests: Sequence[str]) -> list[int]:
        """The survivors of the window, by index in arrival order, that the layout is fitted on."""
        ...

    def fit(self, anchors: Embedding) -> Layout:
        """The layout that these anchors [m, dim] give, in the order of `anchors`."""
        ...

    def cut(self, count: Count) -> list[Interval]:
        """The clusters' regions, in order, covering the whole line; [] when there are no survivors."""
        ...


class Public:
    """The base of public partitions, which are their own layout: no position depends on other samples."""

    def window(self, survivors: int) -> int:
        """0: the layout depends on no survivor."""
        return 0

    def anchors(self, image_digests: Sequence[str]) -> list[int]:
        """[]: the layout is fitted on no survivor."""
        return []

    def fit(self, anchors: Embedding) -> Self:
        """The partition itself."""
        return self


def layout_digest(partition: Partition, anchor_digests: Sequence[str]) -> str:
    """Digest of a layout: of what positions mean, and of the images of its anchors, in their order."""
    if not anchor_digests:
        return partition.line_digest
    return sha256(b"oubli/layout/1", partition.line_digest.encode(), *(digest.encode() for digest in anchor_digests))
