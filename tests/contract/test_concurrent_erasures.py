"""Erasures of the same samples at once: each is accepted once, and none is lost."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TypeVar

import pytest

from service.core import erasure
from service.errors import Unavailable
from service.registry import clusters
from service.registry.records import Erasure
from tests.world import World, postgres_only

pytestmark = pytest.mark.sql

Result = TypeVar("Result")


def at_once(calls: Sequence[Callable[[], Result]]) -> list[Result | BaseException]:
    """Run all from threads of their own, started together; for each, its result or what it raised."""
    together = Barrier(len(calls))

    def run(call: Callable[[], Result]) -> Result:
        together.wait(10)
        return call()

    with ThreadPoolExecutor(len(calls)) as executor:
        futures = [executor.submit(run, call) for call in calls]
    return [future.exception() or future.result() for future in futures]


def test_of_many_erasures_of_one_sample_at_once_there_is_one(idle: World) -> None:
    sample = next(iter(idle.survivors))
    found = at_once([lambda: idle.erase(sample)] * 6)
    assert {type(result) for result in found} == {Erasure}
    assert len(idle.erasures()) == 1
    idle.settle()
    idle.check()


def test_an_owner_and_one_of_their_samples_erased_at_once_are_both_forgotten(idle: World) -> None:
    for turn in range(5):
        owner = f"owner {turn}"
        mine = idle.add(4, owner=owner)
        results = at_once([lambda o=owner: idle.erase_owner(o), lambda s=mine[1]: idle.erase(s.id)])
        assert {type(result) for result in results} == {Erasure}, results
    assert sum(found.samples for found in idle.erasures()) == 20
    idle.settle()
    idle.check()


def overtaken(world: World, monkeypatch: pytest.MonkeyPatch, times: int) -> Erasure:
    """Erase a sample and its owner's others; others are faster, between our finding the samples and locking them."""
    left = iter(list(world.survivors)[:times])
    lock = clusters.lock
    busy: list[bool] = []

    def overtake(*args: object, **keywords: object) -> None:
        if not busy and (victim := next(left, None)):
            busy.append(True)
            world.erase(victim)
            busy.clear()
        lock(*args, **keywords)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(clusters, "lock", overtake)
        return world.erase_owner("ann")


@postgres_only
def test_an_erasure_that_is_overtaken_takes_what_is_left(idle: World, monkeypatch: pytest.MonkeyPatch) -> None:
    found = overtaken(idle, monkeypatch, times=2)
    assert found.samples == 28
    idle.settle()
    idle.check()


@postgres_only
def test_an_erasure_that_is_overtaken_again_and_again_says_so(idle: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unavailable, match="Try again"):
        overtaken(idle, monkeypatch, times=erasure.TRIES)
    assert len(idle.survivors) == 30 - erasure.TRIES
    idle.settle()
    idle.check()


def test_heirs_of_one_prompt_can_be_erased_from_at_once(world: World) -> None:
    """Each erasure locks the clusters of the other: in one order, or both would wait for ever."""
    world.add(12)
    world.settle()
    world.add(20)
    world.reconcile()
    assert len(set(world.serving_keys())) == 1
    one_each = {sample.cluster: sample.id for sample in world.samples()}
    results = at_once([lambda i=sample_id: world.erase(i) for sample_id in one_each.values()])
    assert {type(result) for result in results} == {Erasure}, results
    world.settle()
    world.check()
