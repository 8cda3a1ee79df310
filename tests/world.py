"""A small service to try things on: tiny backbone, a clock that only tests move, and its own books of who survives.

`World.check` compares the registry with the oracle (`service.core.plan`), fed from these books and not from the
registry's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

from models import determinism, embedding
from models.image import pixel_digest
from service.artifacts import Store
from service.clock import system_clock
from service.core import erasure, intake, reconcile, training
from service.core.adapted_describer import AdaptedDescriber
from service.core.context import Context
from service.core.opening import open_context
from service.errors import ServiceError
from service.registry import adapted, clusters, destructions, erasures, layout_state, prompts, samples
from service.registry.engine import is_migrated, migrate
from service.registry.records import Cluster, Erasure, Role, Sample
from service.registry.roles import CORE, EVALUATION
from service.settings import Settings
from tests.survivors import Survivors

DAY = 86_400.0  # seconds
SIDE = 16  # pixels of a sample's image
PREFIXES = ("samples", "prompts", "layouts", "adapted")  # of objects
STEPS = ["claim", "build", "epoch 1", "publish", "store", "commit"]  # of a training, by name

sqlite_only = pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
_on_postgres = pytest.param("postgres", marks=pytest.mark.postgres)
postgres_only = pytest.mark.parametrize("dialect", [_on_postgres], indirect=True)


class Killed(BaseException):
    """The process has died: nothing of it runs any more, no matter what it would have caught."""


class Time:
    """A clock that moves only when told."""

    def __init__(self) -> None:
        self.now = system_clock()

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class DyingStore:
    """The store of a process that is about to die: it may write, and will never come to clean up."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def delete(self, name: str) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def settings(folder: Path, url: str | None = None, **groups: Any) -> Settings:
    """Small clusters and short trainings; `groups` override, as in `partition={"cap": 20}`."""
    given: dict[str, Any] = {
        "partition": {"cap": 12, "min": 4},
        "training": {"epochs": 1, "settle_seconds": 0, "prompt_size": 2, "threads": 1, "batch_size": 8},
        "serving": {"threads": 1},
        "erasure": {"complete_within": 600},  # however often a test deletes, it settles
    }
    for name, values in groups.items():
        given[name] = {**given.get(name, {}), **values} if isinstance(values, dict) else values
    return Settings(data_dir=folder, database_url=url, **{"backbone": "tiny", **given})


class World(Survivors):
    """One data folder and database, and what was done to them."""

    def __init__(self, folder: Path, url: str | None = None, **groups: Any) -> None:
        determinism.configure(threads=1, device="cpu")
        self.folder = folder
        self.time = Time()
        super().__init__()
        self._url = url
        self._groups = groups
        self._random = np.random.default_rng(20404)
        self.context = self._open()

    def _open(self) -> Context:
        chosen = settings(self.folder, self._url, **self._groups)
        if self._url is None or not is_migrated(self._url):
            migrate(chosen.database)
        return open_context(chosen, clock=self.time)

    def close(self) -> None:
        self.context.registry.close()

    def restart(self, **groups: Any) -> None:
        """Another process opens the same data, perhaps with other settings."""
        self.close()
        self._groups = {**self._groups, **groups}
        self.context = self._open()

    # ---------------------------------------------------------------------------------------------- intake

    def new_sample(self, label: str = "cat", owner: str = "ann", role: Role = "training") -> intake.NewSample:
        """A new sample: noise in a colour of its own, so that the tree can tell it apart."""
        noise = self._random.integers(0, 256, (SIDE, SIDE, 3)) * self._random.random((1, 1, 3))
        pixels = noise.astype(np.uint8)
        resized = self.context.backbone.preprocessing.resize(pixels)
        (vector,), (descriptor,) = embedding.describe(self.context.backbone, [resized])
        digest = pixel_digest(pixels)
        self.vectors[digest] = vector
        self.descriptors[digest] = descriptor
        return intake.NewSample(pixels, digest, vector, descriptor, label, owner, role=role)

    def new_samples(self, count: int, owner: str = "ann", role: Role = "training") -> list[intake.NewSample]:
        """Newcomers of two labels, so that every cluster has something to learn."""
        return [self.new_sample(("cat", "dog")[i % 2], owner, role) for i in range(count)]

    def take_in(self, new_samples: Sequence[intake.NewSample]) -> list[Sample | ServiceError]:
        self.vectors |= {new_sample.digest: new_sample.embedding for new_sample in new_samples}
        self.descriptors |= {new_sample.digest: new_sample.descriptor for new_sample in new_samples}
        self.pixels |= {new_sample.digest: new_sample.pixels for new_sample in new_samples}
        results = intake.take_in(self.context, new_samples)
        for result in results:
            if isinstance(result, Sample):
                (self.held_out if result.role == EVALUATION else self.survivors)[result.id] = result
        return results

    def add(self, count: int = 1, owner: str = "ann", role: Role = "training") -> list[Sample]:
        """New samples, taken in by one request."""
        return [accepted(result) for result in self.take_in(self.new_samples(count, owner, role))]

    # --------------------------------------------------------------------------------------------- erasure

    def erase(self, *ids: str) -> Erasure:
        """One erasure of these samples."""
        found = (
            erasure.erase_sample(self.context, ids[0]) if len(ids) == 1 else erasure.erase_samples(self.context, ids)
        )
        for sample_id in ids:
            self.survivors.pop(sample_id, None)
            self.held_out.pop(sample_id, None)
        return found

    def erase_owner(self, owner: str) -> Erasure:
        found = erasure.erase_owner(self.context, owner)
        self.survivors = {i: sample for i, sample in self.survivors.items() if sample.owner != owner}
        self.held_out = {i: sample for i, sample in self.held_out.items() if sample.owner != owner}
        return found

    # ---------------------------------------------------------------------------------------------- working

    def reconcile(self) -> int:
        return reconcile.reconcile(self.context)

    def train(self, worker: str = "worker", step: training.Step = lambda name: None) -> bool:
        """Train one cluster, if one waits."""
        return training.train_one(self.context, worker=worker, step=step)

    def kill_at(self, name: str, worker: str = "doomed") -> bool:
        """A worker that dies as that step begins; False if it found nothing to train, or never came so far."""

        def die(step: str) -> None:
            if step == name:
                raise Killed(step)

        doomed = replace(self.context, store=DyingStore(self.context.store))
        try:
            training.train_one(doomed, worker=worker, step=die)
        except Killed:
            return True
        return False

    def settle(self) -> None:
        """Reconcile and train until nothing is left to do, however long leases, pauses and quiet times last."""
        for _ in range(200):
            if self.reconcile():
                while self.train():
                    pass
            elif self.describe_adapted():
                continue
            elif self.is_idle():
                return
            else:
                self.time.advance(60)
        raise AssertionError(f"Never settles: {self.clusters()} {self.erasures()}")

    def describe_adapted(self) -> int:
        """Describe with the adapter until nothing is left; how many samples."""
        describer, count = AdaptedDescriber(self.context), 0
        while done := describer.portion():
            count += done
        return count

    def is_idle(self) -> bool:
        with self.context.registry.read() as session:
            pending = destructions.pending(session)
            unfinished = erasures.oldest_unfinished(session) or erasures.count_unrestored(session)
            return not (clusters.unfinished(session) or unfinished or pending)

    # ---------------------------------------------------------------------------------------------- looking

    def clusters(self) -> list[Cluster]:
        with self.context.registry.read() as session:
            return clusters.every(session)

    def adapter(self) -> Cluster | None:
        with self.context.registry.read() as session:
            return clusters.adapter(session)

    def cluster_of(self, sample: Sample) -> Cluster:
        """Its cluster now, which may be another than at intake."""
        with self.context.registry.read() as session:
            found = samples.get(session, sample.id)
            assert found is not None
            assert found.cluster is not None
            cluster = clusters.get(session, found.cluster)
            assert cluster is not None
            return cluster

    def erasures(self) -> list[Erasure]:
        with self.context.registry.read() as session:
            return list(erasures.page(session, limit=10_000).items)

    def erasure(self, erasure_id: str) -> Erasure:
        with self.context.registry.read() as session:
            found = erasures.get(session, erasure_id)
            assert found is not None
            return found

    def samples(self, role: Role | None = None) -> list[Sample]:
        """On record, in order of arrival: those with that role, or all that are learned from."""
        with self.context.registry.read() as session:
            found = samples.page(session, limit=100_000, role=role).items
        return [sample for sample in found if role is not None or sample.role != EVALUATION]

    def serving_keys(self) -> list[str]:
        adapter = self.adapter()
        every = [*self.clusters(), *([adapter] if adapter is not None else [])]
        return [cluster.serving_key for cluster in every if cluster.serving_key]

    def objects(self) -> set[str]:
        """Everything that the store holds."""
        return {name for prefix in PREFIXES for name in self.context.store.names(prefix)}

    def file_of(self, object_name: str) -> Path:
        """Where an object lies in the data folder."""
        (path,) = (self.folder / "objects").rglob(object_name.rsplit("/", 1)[1])
        return path

    def found_in_files(self, data: bytes) -> list[str]:
        """The files of the data folder that hold these bytes."""
        return [path.name for path in self.folder.rglob("*") if path.is_file() and data in path.read_bytes()]

    # --------------------------------------------------------------------------------------------- checking

    def check(self) -> None:
        """Settled, the service is what the survivors imply, and holds nothing else."""
        planned = self.plan()
        found = self.clusters()
        assert [sample.id for sample in self.samples()] == list(self.survivors)
        assert [sample.id for sample in self.samples(EVALUATION)] == list(self.held_out)
        assert [(cluster.lo, cluster.hi) for cluster in found] == [tuple(cluster.region) for cluster in planned]
        assert [cluster.samples for cluster in found] == [len(cluster.members) for cluster in planned]
        assert [cluster.desired_key for cluster in found] == [cluster.key for cluster in planned]
        assert [cluster.serving_key for cluster in found] == [cluster.key for cluster in planned]
        adapter, wanted = self.adapter(), self.planned_adapter()
        assert (adapter is None) == (wanted is None)
        if adapter is not None and wanted is not None:
            assert adapter.samples == sum(sample.role == CORE for sample in self.survivors.values())
            assert (adapter.desired_key, adapter.serving_key) == (wanted.key, wanted.key)
        assert {erasure.state for erasure in self.erasures()} <= {"completed"}
        with self.context.registry.read() as session:
            built = prompts.get(session, self.serving_keys()).values()
            layout = layout_state.current(session).object
            publication = adapted.publication_in_force(session)
        expected = {samples.object_name(sample_id) for sample_id in (*self.survivors, *self.held_out)}
        expected |= {layout} if layout is not None else set()
        if publication is not None:
            expected |= {adapted.object_name(publication, sample_id) for sample_id in self.survivors}
        assert self.objects() == expected | {prompt.object_name for prompt in built}


def accepted(result: Sample | ServiceError) -> Sample:
    """The sample that an intake must have made."""
    assert isinstance(result, Sample), result
    return result


@contextmanager
def opened(folder: Path, url: str | None = None, **groups: Any) -> Iterator[World]:
    """A world for as long as the block lasts."""
    world = World(folder, url, **groups)
    try:
        yield world
    finally:
        world.close()


MakeWorld = Callable[..., World]


def lease(world: World) -> float:
    return world.context.settings.worker.lease_seconds


def prompt_objects(world: World) -> list[str]:
    return [name for name in world.objects() if name.startswith("prompts/")]


def meanwhile(step: str, what: Callable[[], object]) -> training.Step:
    """Do something, once, when the worker comes to that step."""
    left = [what]

    def hook(name: str) -> None:
        if name == step and left:
            left.pop()()

    return hook


@contextmanager
def running(*works: Callable[[], object]) -> Iterator[None]:
    """Each in a thread of its own for as long as the block lasts; what one raises fails the test."""
    raised: list[BaseException] = []

    def run(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    threads = [Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for thread in threads:
            thread.join(60)
    assert raised == [], raised  # said here: pytest explains asserts in test modules alone
