"""Taking samples in: whole or not at all, each once, in one cluster."""

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import timedelta
from threading import Barrier, Thread

import numpy as np
import pytest
from uuid6 import uuid7

from service.core import intake, sample_file
from service.core.idempotency import RUNNING, Ticket, once, request_digest
from service.core.tidy import IDEMPOTENCY_KEPT, destroy_unrecorded, tidy
from service.errors import Conflict, Invalid, ServiceError, StillRunning
from service.messaging.queues import QUEUES
from service.registry import clusters, idempotency, prompts, samples, workers
from service.registry.records import Sample
from tests.world import World, accepted

FIRST, OTHER = request_digest(b"body"), request_digest(b"other body")


# ----------------------------------------------------------------------------------------------- what is sent


# ------------------------------------------------------------------------------------------- what is recorded


def test_what_is_taken_in_can_be_read_back(world: World) -> None:
    new_sample = world.new_sample("dog", "bob")
    (sample,) = map(accepted, world.take_in([new_sample]))
    assert (sample.label, sample.owner, sample.digest) == ("dog", "bob", new_sample.digest)
    with world.context.registry.read() as session:
        assert samples.get(session, sample.id) == sample
    pixels, embedding, descriptor, kind = sample_file.decode(
        world.context.store.get(samples.object_name(sample.id)), digest=sample.digest
    )
    assert np.array_equal(pixels, new_sample.pixels)
    assert embedding.tobytes() == new_sample.embedding.tobytes()
    assert descriptor is not None
    assert descriptor.tobytes() == new_sample.descriptor.tobytes()
    assert kind == world.context.backbone.kind.name


def test_a_batch_keeps_its_order(world: World) -> None:
    new_samples = world.new_samples(20)
    results = [accepted(result) for result in world.take_in(new_samples)]
    assert [sample.digest for sample in results] == [new_sample.digest for new_sample in new_samples]
    assert [sample.id for sample in world.samples()] == [sample.id for sample in results]


def test_nothing_is_half_stored_when_the_transaction_fails(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.add(3)
    before = world.objects()

    def fail(*args: object, **keywords: object) -> None:
        raise RuntimeError("at the very end")

    with monkeypatch.context() as patch:
        patch.setattr(clusters, "count_added", fail)
        with pytest.raises(RuntimeError):
            world.add(2)
    assert world.objects() == before
    assert len(world.samples()) == 3
    world.settle()
    world.check()


def test_nothing_is_recorded_when_the_store_fails(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    put_many = world.context.store.put_many

    def fill_up(items: Sequence[tuple[str, bytes]]) -> None:
        put_many(items[:2])
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(world.context.store, "put_many", fill_up)
        with pytest.raises(OSError, match="No space left"):
            world.add(4)
    assert (world.objects(), world.samples(), world.clusters()) == (set(), [], [])


def test_more_copies_of_one_picture_than_clusters_could_hold_are_refused_of_one_owner(world: World) -> None:
    most = world.context.partition.max_copies
    new_sample = world.new_sample()
    results = world.take_in([new_sample] * (most + 2))
    assert [type(result) for result in results] == [Sample] * most + [Conflict] * 2
    assert len(world.objects()) == most
    world.add(20)
    world.settle()
    world.check()
    assert max(cluster.samples for cluster in world.clusters()) <= world.context.settings.partition.cap
    world.erase(next(iter(world.survivors)))
    assert isinstance(world.take_in([new_sample])[0], Sample)


def test_an_image_without_features_is_refused_and_its_neighbours_are_taken(world: World) -> None:
    blank = world.new_sample()
    blank = replace(blank, embedding=np.full_like(blank.embedding, np.nan))
    first, refused, last = world.take_in([world.new_sample(), blank, world.new_sample()])
    assert isinstance(refused, Invalid)
    assert [sample.id for sample in world.samples()] == [accepted(first).id, accepted(last).id]
    assert len(world.objects()) == 2


def test_a_refused_newcomer_leaves_no_trace_of_their_owner(world: World) -> None:
    world.add(8)
    world.settle()
    blank = world.new_sample(owner="refused")
    (refused,) = world.take_in([replace(blank, embedding=np.full_like(blank.embedding, np.nan))])
    assert isinstance(refused, Invalid)
    assert world.found_in_files(b"refused") == []


# ----------------------------------------------------------------------------------------------------- at once


def at_once(world: World, batches: list[list[intake.NewSample]]) -> list[Sample | ServiceError]:
    """Take all batches in from threads of their own, started together."""
    together = Barrier(len(batches))
    results: list[Sample | ServiceError] = []

    def send(batch: list[intake.NewSample]) -> None:
        together.wait(10)
        results.extend(intake.take_in(world.context, batch))

    threads = [Thread(target=send, args=(batch,)) for batch in batches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_first_samples_that_come_at_once_make_one_cluster(world: World) -> None:
    results = at_once(world, [[new_sample] for new_sample in world.new_samples(6)])
    assert [type(result) for result in results] == [Sample] * 6
    (cluster,) = world.clusters()
    assert ((cluster.lo, cluster.hi), cluster.samples) == (intake.WHOLE_LINE, 6)


def test_batches_that_name_new_owners_in_different_orders_do_not_wait_for_each_other_for_ever(world: World) -> None:
    world.add(1)
    for turn in range(5):
        batch = [world.new_sample(owner=f"owner {turn} {i}") for i in range(12)]
        results = at_once(world, [batch, batch[::-1]])
        assert [type(result) for result in results] == [Sample] * 24


def test_copies_of_one_picture_that_come_at_once_are_not_too_many_together(world: World) -> None:
    world.add(1)
    most = world.context.partition.max_copies
    new_sample = world.new_sample()
    results = at_once(world, [[new_sample] * most] * 4)
    assert Counter(map(type, results)) == {Sample: most, Conflict: 3 * most}


# ------------------------------------------------------------------------------------------------- idempotency


def request(
    world: World, key: str | None, digest: str = FIRST, *, route: str = "POST /samples", caller: str = "app"
) -> AbstractContextManager[Ticket]:
    return once(world.context, route, key, digest, caller=caller)


def upload(world: World, ticket: Ticket) -> str:
    (sample,) = intake.take_in(world.context, [world.new_sample()], idempotency_key=ticket.key_digest)
    return accepted(sample).id


def test_a_request_repeated_is_answered_with_what_the_first_made(world: World) -> None:
    with request(world, "key") as ticket:
        made = upload(world, ticket)
    with request(world, "key") as ticket:
        assert ticket == Ticket(resource_id=made)
    with request(world, "key", route="POST /erasures") as ticket:
        assert ticket.resource_id is None  # another route, another key
    with request(world, "key", caller="another") as ticket:
        assert ticket.resource_id is None


def test_without_a_key_every_request_is_the_first(world: World) -> None:
    with request(world, None) as ticket:
        assert ticket == Ticket()


def refuse(world: World, error: type[ServiceError], words: str, *, key: str = "key", digest: str = FIRST) -> None:
    with pytest.raises(error, match=words), request(world, key, digest):
        pytest.fail("the block must not run")


def test_a_key_with_another_body_is_refused(world: World) -> None:
    with request(world, "key") as ticket:
        upload(world, ticket)
    refuse(world, Invalid, "another request", digest=OTHER)


def test_a_key_whose_first_request_still_runs_is_refused_until_that_is_taken_for_dead(world: World) -> None:
    with request(world, "key"):
        refuse(world, StillRunning, "still running")
        world.time.advance(RUNNING.total_seconds() + 1)
        with request(world, "key") as second:
            assert second.key_digest is not None


def test_of_a_request_taken_for_dead_and_its_retry_only_one_makes_a_sample(world: World) -> None:
    """Whichever is faster: here the first, which was only slow."""
    with request(world, "key") as slow:
        world.time.advance(RUNNING.total_seconds() + 1)

        def retry() -> None:
            with request(world, "key") as second:
                made.append(upload(world, slow))
                upload(world, second)

        made: list[str] = []
        with pytest.raises(StillRunning, match="was faster"):
            retry()
    assert [sample.id for sample in world.samples()] == made
    assert [name.split("/")[1].split(".")[0] for name in world.context.store.names("samples")] == made
    with request(world, "key") as again:
        assert again.resource_id == made[0]


def test_a_key_is_free_again_when_its_request_failed(world: World) -> None:
    def fail() -> None:
        with request(world, "key"):
            raise RuntimeError

    for _ in range(2):
        with pytest.raises(RuntimeError):
            fail()


def test_a_late_retry_does_not_bring_an_erased_sample_back(world: World) -> None:
    with request(world, "key") as ticket:
        made = upload(world, ticket)
    world.erase(made)
    refuse(world, Conflict, "has been erased")
    world.settle()
    refuse(world, Conflict, "has been erased")
    assert world.found_in_files(FIRST.encode()) == []


@pytest.mark.parametrize(
    ("key", "words"),
    [("", "1 to 255 characters"), ("x" * 256, "1 to 255 characters"), ("line\nbreak", "U.000A .a control character")],
)
def test_a_key_of_odd_characters_or_length_is_refused(world: World, key: str, words: str) -> None:
    refuse(world, Invalid, f"Idempotency-Key must .*{words}", key=key)


def test_old_keys_and_silent_workers_are_tidied_away(world: World) -> None:
    with request(world, "key") as ticket:
        upload(world, ticket)
    with world.context.registry.write() as session:
        workers.register(session, name="silent", device="cpu", queues=QUEUES, now=world.time())
    world.time.advance(IDEMPOTENCY_KEPT.total_seconds() + 1)
    tidy(world.context)
    with world.context.registry.read() as session:
        assert idempotency.get(session, ticket.key_digest or "") is None
        assert workers.every(session) == []


# ----------------------------------------------------------------------------------------------------- orphans


@pytest.fixture
def orphans(world: World) -> list[str]:
    """Objects of processes that were killed between storing and recording."""
    names = [samples.object_name(str(uuid7())), prompts.unpublished_name(str(uuid7()))]
    for name in names:
        world.context.store.put(name, json.dumps(name).encode())
    return names


def test_only_old_objects_that_no_row_knows_are_destroyed(world: World, orphans: list[str]) -> None:
    world.add(6)
    world.settle()
    hour = timedelta(hours=1)
    assert destroy_unrecorded(world.context, older_than=hour) == 0
    assert set(orphans) <= world.objects()
    world.time.advance(2 * hour.total_seconds())
    assert destroy_unrecorded(world.context, older_than=hour) == 2
    world.check()
