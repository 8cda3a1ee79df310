"""Two workers at one cluster: one trains it, and what the other made of it is neither served nor left."""

import logging
from threading import Barrier, Event

import pytest

from service.core import training
from service.registry import prompts
from tests.world import MakeWorld, World, lease, meanwhile, prompt_objects, running


@pytest.fixture
def pair(planned: World, make_world: MakeWorld) -> tuple[World, World]:
    """One registry and store as two processes see them; a cluster waits."""
    other = make_world()
    other.time = planned.time
    other.restart()
    return planned, other


def test_of_two_workers_that_ask_at_once_one_gets_the_cluster(pair: tuple[World, World]) -> None:
    together = Barrier(2)
    trained: list[bool] = []

    def work(world: World, name: str) -> None:
        together.wait(30)
        trained.append(world.train(name))

    with running(lambda: work(pair[0], "one"), lambda: work(pair[1], "two")):
        pass
    assert sorted(trained) == [False, True]
    pair[0].check()


def test_of_two_workers_that_publish_one_cluster_at_once_the_second_to_claim_it_does(pair: tuple[World, World]) -> None:
    """The first stood still before it published, for longer than its lease."""
    late, heir = pair
    claimed, together = Event(), Barrier(2)
    tokens: list[str] = []

    def publish_together(step: str) -> None:
        if step == "publish":
            claimed.set()
            together.wait(60)

    def work(world: World, name: str) -> None:
        training.train_one(
            world.context,
            worker=name,
            step=publish_together,
            on_lease=lambda claim: tokens.append(claim.token) if claim is not None else None,
        )

    with running(lambda: work(late, "late")):
        assert claimed.wait(60)
        late.time.advance(lease(late))
        work(heir, "heir")
    assert len(tokens) == 2
    assert prompt_objects(late) == [prompts.unpublished_name(tokens[1])]
    late.reconcile()
    late.check()


def test_a_worker_that_was_overtaken_is_no_failure_in_the_log(planned: World, caplog: pytest.LogCaptureFixture) -> None:
    def overtake() -> None:
        planned.time.advance(lease(planned))
        assert planned.train("heir")

    with caplog.at_level(logging.WARNING):
        planned.train("late", step=meanwhile("publish", overtake))
    assert caplog.records == []
