"""A picture that is on record already is not recorded again, if its sender asks for that: however late it is sent."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from threading import Barrier, BrokenBarrierError, Thread
from typing import Any

import pytest

from service.core import intake
from service.core.duplicates import AlreadyRecorded, DuplicateCheck
from service.errors import Conflict, Invalid, ServiceError
from service.registry.engine import ReadSession
from service.registry.records import Role, Sample
from tests.world import World, accepted, postgres_only

pytestmark = pytest.mark.sql

MOMENT = 1.0  # seconds: enough for another thread to do what it can, if nothing blocks it

Outcome = Sample | AlreadyRecorded | ServiceError


def ids(results: Sequence[Outcome]) -> list[str | None]:
    """Ids of the samples that the uploads became; those that were on record before are marked."""
    found: list[str | None] = []
    for result in results:
        if isinstance(result, AlreadyRecorded):
            found.append(f"held {result.sample.id}")
        else:
            found.append(result.id if isinstance(result, Sample) else None)
    return found


def test_what_is_held_is_the_answer_and_nothing_is_recorded(world: World) -> None:
    new_sample = replace(world.new_sample(), unless_held=1)
    (made,) = ids(world.take_in([new_sample]))
    before = (world.objects(), world.samples(), world.clusters())
    assert ids(world.take_in([new_sample])) == [f"held {made}"]
    assert (world.objects(), world.samples(), world.clusters()) == before
    world.settle()
    world.check()


def test_others_pictures_owners_and_labels_do_not_count(world: World) -> None:
    new_sample = replace(world.new_sample("cat", "ann"), unless_held=1)
    world.take_in([new_sample])
    others = [
        replace(world.new_sample("cat", "ann"), unless_held=1),
        replace(new_sample, owner="bob"),
        replace(new_sample, label="dog"),
    ]
    assert all(isinstance(result, Sample) for result in world.take_in(others))
    assert [isinstance(result, AlreadyRecorded) for result in world.take_in([*others, new_sample])] == [True] * 4


def test_each_copy_is_answered_with_its_own_sample(world: World) -> None:
    new_sample = world.new_sample()
    first, second = ids(world.take_in([new_sample, new_sample]))
    numbered = [replace(new_sample, unless_held=number) for number in (2, 1, 3, 3, 1)]
    *known, third, twin, again = ids(world.take_in(numbered))
    assert known == [f"held {second}", f"held {first}"]
    assert (twin, again) == (f"held {third}", f"held {first}")
    assert [sample.id for sample in world.samples()] == [first, second, third]
    assert len(world.objects()) == 3
    (unasked,) = world.take_in([new_sample])
    assert isinstance(unasked, Sample)


def test_twins_of_one_request_are_one_sample(world: World) -> None:
    new_sample = replace(world.new_sample(), unless_held=1)
    made, *twins = ids(world.take_in([new_sample] * 3))
    assert twins == [f"held {made}"] * 2


def test_what_was_erased_is_not_held(world: World) -> None:
    new_sample = replace(world.new_sample(), unless_held=1)
    gone = accepted(world.take_in([new_sample])[0])
    world.erase(gone.id)
    (again,) = world.take_in([new_sample])
    assert accepted(again).id != gone.id
    world.settle()
    world.check()


def test_a_twin_of_what_is_refused_is_refused(world: World) -> None:
    new_sample = world.new_sample()
    most = world.context.partition.max_copies
    world.take_in([new_sample] * most)
    over = replace(new_sample, unless_held=most + 1)
    results = world.take_in([over, over])
    assert [type(result) for result in results] == [Conflict] * 2
    blank = replace(world.new_sample(), embedding=new_sample.embedding * float("nan"), unless_held=1)
    assert [type(result) for result in world.take_in([blank, blank])] == [Invalid] * 2


@pytest.mark.parametrize("role", ["training", "evaluation"])
@pytest.mark.parametrize("first", [True, False], ids=["first", "later"])
def test_the_same_picture_that_comes_at_once_is_recorded_once(first: bool, role: Role, world: World) -> None:
    """A client that was killed and started again: its first request is still under way."""
    if not first:
        world.add(3, role=role)
    batch = [replace(new_sample, unless_held=1) for new_sample in world.new_samples(3, role=role)]
    together = Barrier(4)
    results: list[Outcome] = []

    def send() -> None:
        together.wait(10)
        results.extend(intake.take_in(world.context, batch))

    threads = [Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(isinstance(result, Sample) for result in results) == 3
    assert sum(isinstance(result, AlreadyRecorded) for result in results) == 9
    assert len(world.samples(role)) == 3 + 3 * (not first)
    assert len(world.objects()) == len(world.samples(role))


@postgres_only
@pytest.mark.parametrize("role", ["training", "evaluation"])
def test_what_two_requests_have_both_found_to_be_new_is_recorded_once(
    role: Role, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have looked before either records, and neither commits before the other has recorded, if it can."""
    world.add(1)
    picture = replace(world.new_sample(role=role), unless_held=1)
    looked, recorded, first_time = Barrier(2), Barrier(2), [1, 2]
    results: list[Outcome] = []
    refuse_copies, is_outdated = intake._refuse_copies, DuplicateCheck.is_outdated

    def both_have_looked(*arguments: Any) -> Any:
        if first_time:
            first_time.pop()
            looked.wait(30)
        return refuse_copies(*arguments)

    def both_have_recorded(self: DuplicateCheck, session: ReadSession) -> bool:
        with suppress(BrokenBarrierError):  # the other waits for a lock, and comes when this one has committed
            recorded.wait(MOMENT)
        return is_outdated(self, session)

    monkeypatch.setattr(intake, "_refuse_copies", both_have_looked)
    monkeypatch.setattr(DuplicateCheck, "is_outdated", both_have_recorded)
    threads = [Thread(target=lambda: results.extend(intake.take_in(world.context, [picture]))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(type(result).__name__ for result in results) == ["AlreadyRecorded", "Sample"]
