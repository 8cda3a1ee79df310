"""What every partition is made of: positions on a line, and a cut of that line by counts.

A partition answers three questions, each purely. `anchors` and `fit`: which survivors, if any, decide where samples
stand, and what layout do they give? `Layout.locate`: where does one sample stand on the line of int64 positions? `cut`:
into which intervals is the line divided, given nothing but how many survivors stand where? So membership is a function
of the survivors, whatever was added or erased before.
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


Count = Callable[[int, int], int]  # how many survivors stand at lo <= position < hi


class Layout(Protocol):
    """Where samples stand on the line."""

    @property
    def points(self) -> int:
        """How many fixed points samples are routed by; 0 if by none."""
        ...

    def locate(
        self, embeddings: Embedding, image_digests: Sequence[str], owners: Sequence[str] | None = None
    ) -> Positions:
        """Position [n] of each sample: embeddings [n, dim], digests of the images, references of who gave them.

        owners  None: images that are asked about, and are nobody's sample.
        """
        ...

    def nearest(self, embedding: Embedding, position: int, regions: Sequence[Interval]) -> int:
        """Index of the region nearest to one sample [dim] that stands in none of them."""
        ...

    def save(self) -> bytes | None:
        """What is needed beside the spec to make it again; None if the spec is enough."""
        ...


class Partition(Protocol):
    """A rule that divides survivors into clusters."""

    spec: PartitionSpec
    line_digest: str  # of what a position means, but for the anchors
    digest: str  # of the line and of how it is cut

    @property
    def max_copies(self) -> int | None:
        """How many samples of one owner may be one picture: more could not be divided. None: any number."""
        ...

    def window(self, survivors: int) -> int:
        """How many of the first survivors have a say in the layout; 0 for one that is public."""
        ...

    def anchors(self, image_digests: Sequence[str]) -> list[int]:
        """Which of the window's survivors, in arrival order, the layout is fitted on."""
        ...

    def fit(self, anchors: Embedding) -> Layout:
        """The layout that these anchors [m, dim] give, in the order of `anchors`."""
        ...

    def cut(self, count: Count) -> list[Interval]:
        """The clusters' regions, in order, covering the whole line; [] when there are no survivors."""
        ...


class Public:
    """What partitions share that are their own layout: no survivor has a say in where others stand."""

    def window(self, survivors: int) -> int:
        """None of them."""
        return 0

    def anchors(self, image_digests: Sequence[str]) -> list[int]:
        """None of them."""
        return []

    def fit(self, anchors: Embedding) -> Self:
        """Itself."""
        return self


def layout_digest(partition: Partition, anchor_digests: Sequence[str]) -> str:
    """Name of a layout: what positions mean, and the images of the anchors that it was fitted on, in their order."""
    if not anchor_digests:
        return partition.line_digest
    return sha256(b"oubli/layout/1", partition.line_digest.encode(), *(digest.encode() for digest in anchor_digests))
