"""What must not happen when things come at the worst moment: one safeguard a test (`tests/safeguards/`)."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import sqlalchemy as sa
from uuid6 import uuid7

from service.core import intake
from service.registry import clusters, leases, prompts, samples, state
from service.registry.engine import Registry
from service.registry.leases import Claim
from service.registry.records import Erasure, Sample
from service.serving.snapshot import take_snapshot
from tests.rows import LEASE, NOW, PATIENCE, claim, make_cluster, make_sample
from tests.world import World, accepted, meanwhile, postgres_only, sqlite_only

MOMENT = 1.0  # seconds: enough for another thread to do what it can, if nothing blocks it


@pytest.fixture
def other() -> Iterator[ThreadPoolExecutor]:
    """Another writer, at the same time."""
    with ThreadPoolExecutor(1) as executor:
        yield executor


def wait_a_moment(future: Future[Any]) -> None:
    with suppress(TimeoutError):
        future.exception(MOMENT)


# ------------------------------------------------------------------------------------------------------------ plans


def test_members_are_listed_as_they_arrived_whatever_their_ids(registry: Registry) -> None:
    """Ids are drawn before the transaction that decides on the order."""
    with registry.write() as session:
        cluster = make_cluster(session)
        arrived = sorted((str(uuid7()) for _ in range(5)), reverse=True)
        together = [Sample(sample_id, "ann", "cat", "d" * 64, cluster, NOW, 0) for sample_id in arrived]
        samples.insert_all(session, together, samples.ensure_owners(session, ["ann"]), kind="")
        assert [member.id for member in samples.members(session, cluster)] == arrived


def test_a_plan_with_an_erased_sample_is_nobodys_to_claim(planned: World) -> None:
    planned.erase(next(iter(planned.survivors)))
    assert not planned.train()
    assert planned.reconcile() == 1


def test_a_training_of_an_erased_sample_is_not_published_for_its_double(world: World) -> None:
    """The same picture comes again: the same key is desired, and what is being built for it has seen the erased."""
    world.add(7)
    double = world.new_sample()
    (first,) = map(accepted, world.take_in([double]))
    world.reconcile()
    desired = [cluster.desired_key for cluster in world.clusters()]

    def exchange() -> None:
        world.erase(first.id)
        world.take_in([double])
        world.reconcile()
        assert [cluster.desired_key for cluster in world.clusters()] == desired

    world.train("late", step=meanwhile("publish", exchange))
    assert world.serving_keys() == []
    with world.context.registry.read() as session:
        assert prompts.orphaned_members(session) == []
    world.settle()
    world.check()


def test_what_is_published_is_served_from_the_next_batch_on(world: World) -> None:
    """A training of additions: nothing has been withdrawn, and no region has changed."""
    world.add(6)
    world.settle()
    before = take_snapshot(world.context, None)
    world.add(1)
    world.settle()
    after = take_snapshot(world.context, before)
    assert after.keys == set(world.serving_keys()) != before.keys


# ---------------------------------------------------------------------------------------------------------- at once


def test_a_claim_that_waited_for_another_does_not_take_its_cluster(
    registry: Registry, other: ThreadPoolExecutor
) -> None:
    with registry.write() as session:
        make_cluster(session)
    with registry.write() as session:
        first = leases.claim(session, worker="first", now=NOW, lease=LEASE, patience=PATIENCE)
        second: Future[Claim | None] = other.submit(claim, registry, "second")
        wait_a_moment(second)
    assert first is not None
    assert second.result() is None


def test_nobody_writes_beside_an_exclusive_transaction(registry: Registry, other: ThreadPoolExecutor) -> None:
    written = Event()

    def write() -> None:
        with registry.write() as session:
            state.epoch(session)
            written.set()

    with registry.write(exclusive=True) as session:
        state.epoch(session)
        writing = other.submit(write)
        assert not written.wait(MOMENT)
    writing.result()
    assert written.is_set()


@postgres_only
def test_what_comes_while_the_line_is_cut_anew_is_counted(
    world: World, other: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.add(12)
    world.settle()
    world.add(8)
    late = world.new_samples(1)
    coming: list[Future[Any]] = []
    reshape = clusters.reshape

    def hooked(*args: object, **keywords: object) -> str | None:
        if not coming:
            coming.append(other.submit(world.take_in, late))
            wait_a_moment(coming[0])
        return reshape(*args, **keywords)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(clusters, "reshape", hooked)
        world.reconcile()
    assert len(world.clusters()) > 1
    coming[0].result()
    world.settle()
    world.check()


@postgres_only
def test_a_publication_and_an_erasure_never_wait_for_each_other(
    world: World, other: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both need the cluster and the epoch: in one order, or PostgreSQL would have to end one of them."""
    world.add(6)
    world.settle()
    world.add(2)
    assert world.reconcile() == 1
    victim = next(iter(world.survivors))
    erasing: list[Future[Erasure]] = []
    insert = prompts.insert

    def hooked(*args: object, **keywords: object) -> None:
        erasing.append(other.submit(world.erase, victim))
        wait_a_moment(erasing[0])
        insert(*args, **keywords)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(prompts, "insert", hooked)
        world.train()
    assert erasing[0].result().state == "withdrawn"
    assert {cluster.failure for cluster in world.clusters()} == {None}
    world.settle()
    world.check()


@postgres_only
def test_erasures_from_heirs_of_one_prompt_never_wait_for_each_other(
    world: World, other: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each withdraws the prompt from the other's cluster as well."""
    world.add(12)
    world.settle()
    world.add(20)
    world.reconcile()
    assert len(set(world.serving_keys())) == 1
    one, two, *_ = {sample.cluster: sample.id for sample in world.samples()[:12]}.values()  # which it has seen
    erasing: list[Future[Erasure]] = []
    delete = samples.delete

    def hooked(*args: Any) -> int:
        if not erasing:
            erasing.append(other.submit(world.erase, two))
            wait_a_moment(erasing[0])
        return delete(*args)

    with monkeypatch.context() as patch:
        patch.setattr(samples, "delete", hooked)
        world.erase(one)
        assert erasing[0].result().state == "withdrawn"
    world.settle()
    world.check()


@postgres_only
def test_batches_for_the_same_clusters_never_wait_for_each_other(
    world: World, other: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = world.new_samples(30)
    taken = list(map(accepted, world.take_in(pictures)))
    world.settle()
    one, two, *_ = {
        world.cluster_of(sample).id: picture for sample, picture in zip(taken, pictures, strict=True)
    }.values()
    coming: list[Future[Any]] = []
    count_added = clusters.count_added

    def hooked(*args: Any, **keywords: Any) -> None:
        count_added(*args, **keywords)
        if not coming:
            coming.append(other.submit(intake.take_in, world.context, [two, one]))
            wait_a_moment(coming[0])

    with monkeypatch.context() as patch:
        patch.setattr(clusters, "count_added", hooked)
        intake.take_in(world.context, [one, two])
        coming[0].result()
    assert len(world.samples()) == 34


# ----------------------------------------------------------------------------------------------------------- traces


def leave_behind(path: Path, trace: bytes) -> None:
    """Write into free space of the database, where SQLite leaves copies of rows that it has moved between pages.

    Between a page's list of cells and its cells: https://www.sqlite.org/fileformat2.html#b_tree_pages
    """
    data = bytearray(path.read_bytes())
    size = int.from_bytes(data[16:18], "big")
    for page in range(size, len(data), size):
        cells, content = (int.from_bytes(data[page + at : page + at + 2], "big") for at in (3, 5))
        free = 8 + 2 * cells
        if data[page] in (10, 13) and content - free >= len(trace):  # a leaf of an index or a table
            data[page + free : page + free + len(trace)] = trace
            path.write_bytes(data)
            return
    raise AssertionError("The database has no room.")


@sqlite_only
def test_scrubbing_reaches_what_moved_rows_have_left_in_free_space(registry: Registry, tmp_path: Path) -> None:
    """`secure_delete` overwrites a row where it stands. Its copies are few, and none may be left."""
    path, trace = tmp_path / "data" / "registry.db", b"quetzalcoatl"
    registry.close()
    leave_behind(path, trace)
    with registry.read() as session:
        assert state.epoch(session) == 0
    assert trace in path.read_bytes()
    assert registry.scrub()
    assert not [file for file in path.parent.iterdir() if trace in file.read_bytes()]


def test_an_errors_words_do_not_hold_a_label(registry: Registry) -> None:
    """They come into logs, which no erasure reaches."""
    with pytest.raises(sa.exc.IntegrityError) as failure, registry.write() as session:
        make_sample(session, str(uuid7()), label="quetzalcoatl")
    assert "quetzalcoatl" not in str(failure.value)
