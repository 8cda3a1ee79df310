"""The cost of forgetting one sample, for every partition: clusters retrained and sample-epochs, by the oracle.

`core.plan` before and after each of many random single deletions: a cluster is retrained if its key is new. Nothing is
trained here; what a key costs is its members times the epochs (nothing where all members have one label). The
incremental machinery arrives at the same plans (`tests/stateful`), so these are the costs of the running service.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.cluster import KMeans

from benchmarks.images import Labelled, load
from models import determinism
from models.backbone import load_backbone
from models.embedding import Embedding, embed
from models.image import pixel_digest
from models.partition import Partition, make_partition
from models.spec import PartitionSpec, TrainingSpec
from service.cli.printing import progress_bar
from service.core.plan import PlannedCluster, Survivor, plan
from service.settings import PartitionSettings

CLUSTERS = 16
console = Console()


def measure(*, images: int = 10_000, deletions: int = 200, public: int = 2_000) -> dict[str, Any]:
    """Every partition on the same images and the same deletions; the figures."""
    determinism.configure(threads=2, device="cpu")
    name, contributed, others = load(images, public)
    backbone = load_backbone("efficientnet-lite0")
    with progress_bar() as bar:
        task = bar.add_task("Embedding", total=len(contributed) + len(others))
        vectors, public_vectors = (
            np.concatenate([_embed(backbone, chunk, lambda n: bar.advance(task, n)) for chunk in _chunks(items)])
            for items in (contributed, others)
        )
    items = [(pixel_digest(item.pixels), item.label) for item in contributed]
    gone = np.random.default_rng(2).choice(len(items), deletions, replace=False).tolist()
    figures: dict[str, Any] = {"data": name, "images": len(items), "deletions": deletions, "kinds": {}}
    with progress_bar() as bar:
        for label, partition in _partitions(backbone.prototypes, public_vectors):
            task = bar.add_task(label, total=deletions)
            world = _World(partition, items, vectors)
            costs = []
            for index in gone:
                costs.append(world.cost_without(index))
                bar.advance(task)
            figures["kinds"][label] = _summary(world, costs)
    return figures


def _chunks(items: Sequence[Labelled], size: int = 64) -> Iterator[Sequence[Labelled]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _embed(backbone: Any, chunk: Sequence[Labelled], advance: Any) -> Embedding:
    advance(len(chunk))
    return embed(backbone, [backbone.preprocessing.resize(item.pixels) for item in chunk])


def _partitions(prototypes: Any, public: Embedding) -> Iterator[tuple[str, Partition]]:
    """The defaults of each kind; `pinned` by k-means of other images."""
    defaults = PartitionSettings()
    yield f"tree, cap {defaults.cap}, min {defaults.min}", make_partition(defaults.spec(), prototypes)
    for kind, given in (
        ("anchors", {"anchors": defaults.anchors}),
        ("anchors", {"anchors": defaults.anchors, "clusters": CLUSTERS}),
        ("random", {"clusters": CLUSTERS}),
    ):
        spec = PartitionSpec(kind=kind, **given)  # type: ignore[arg-type]
        yield f"{kind}, {', '.join(f'{n} {v}' for n, v in given.items())}", make_partition(spec, prototypes)
    buffer = io.BytesIO()
    np.save(buffer, KMeans(CLUSTERS, n_init=4, random_state=0).fit(public).cluster_centers_)
    spec = PartitionSpec(kind="pinned")
    yield f"pinned, {CLUSTERS} by k-means", make_partition(spec, prototypes, centroids=buffer.getvalue())


class _World:
    """All samples, the plan they imply, and what it costs to do without one."""

    def __init__(self, partition: Partition, items: Sequence[tuple[str, str]], vectors: Embedding) -> None:
        self._partition, self._items, self._vectors = partition, items, vectors
        self.training = TrainingSpec()
        self._positions: dict[tuple[int, ...], list[int]] = {}
        every_place = list(range(len(items)))
        self.planned = self._plan(every_place)
        self._known = {cluster.key for cluster in self.planned}

    def _plan(self, left: Sequence[int]) -> list[PlannedCluster]:
        places = self._places(left)
        survivors = [Survivor(*self._items[index], place) for index, place in zip(left, places, strict=True)]
        return plan(survivors, partition=self._partition, backbone_digest="", training=self.training)

    def _places(self, left: Sequence[int]) -> list[int]:
        """As `core.plan.locate`, once for each set of anchors."""
        window = left[: self._partition.window(len(left))]
        chosen = tuple(window[i] for i in self._partition.anchors([self._items[index][0] for index in window]))
        if chosen not in self._positions:
            layout = self._partition.fit(self._vectors[list(chosen)])
            located = layout.locate(self._vectors, [digest for digest, _ in self._items]).tolist()
            self._positions = {chosen: located} | dict(list(self._positions.items())[:1])
        return [self._positions[chosen][index] for index in left]

    def cost_without(self, gone: int) -> tuple[int, int]:
        """(clusters retrained, sample-epochs) of forgetting one sample."""
        left = [index for index in range(len(self._items)) if index != gone]
        retrained = [cluster for cluster in self._plan(left) if cluster.key not in self._known]
        return len(retrained), sum(self.cost(cluster, left) for cluster in retrained)

    def cost(self, cluster: PlannedCluster, left: Sequence[int]) -> int:
        """Sample-epochs of one cluster."""
        labels = {self._items[left[member]][1] for member in cluster.members}
        return len(cluster.members) * self.training.epochs_of(len(cluster.members)) if len(labels) > 1 else 0


def _summary(world: _World, costs: Sequence[tuple[int, int]]) -> dict[str, Any]:
    clusters, work = (np.array(column) for column in zip(*costs, strict=True))
    sizes = sorted(len(cluster.members) for cluster in world.planned)
    everything = sum(size * world.training.epochs_of(size) for size in sizes)
    return {
        "clusters": len(sizes),
        "smallest": sizes[0],
        "largest": sizes[-1],
        "retrained_mean": float(clusters.mean()),
        "retrained_p95": float(np.percentile(clusters, 95)),
        "retrained_max": int(clusters.max()),
        "sample_epochs_mean": float(work.mean()),
        "sample_epochs_p95": float(np.percentile(work, 95)),
        "sample_epochs_max": int(work.max()),
        "everything": everything,
        "times_cheaper_than_everything": everything / float(work.mean()),
    }


def show(figures: dict[str, Any]) -> None:
    """As a table."""
    title = f"Forgetting one of {figures['images']:,} ({figures['data']}), {figures['deletions']} times"
    table = Table(
        "partition", "clusters (sizes)", "retrained: mean / p95 / max", "sample-epochs: mean / p95 / max", title=title
    )
    table.add_column("cheaper than everything")
    for kind, row in figures["kinds"].items():
        table.add_row(
            kind,
            f"{row['clusters']} ({row['smallest']}-{row['largest']})",
            f"{row['retrained_mean']:.2f} / {row['retrained_p95']:.0f} / {row['retrained_max']}",
            f"{row['sample_epochs_mean']:,.0f} / {row['sample_epochs_p95']:,.0f} / {row['sample_epochs_max']:,}",
            f"{row['times_cheaper_than_everything']:.1f} x",
        )
    console.print(table)
