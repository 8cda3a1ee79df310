"""People, workers and reconcilers at the same time, on real databases."""

from collections.abc import Callable

from service.core import erasure, intake
from service.errors import ServiceError
from tests.world import World, running


def test_two_workers_share_the_work(world: World) -> None:
    world.add(40)
    world.reconcile()
    counts = {"one": 0, "two": 0}

    def work(name: str) -> None:
        while world.train(name):
            counts[name] += 1

    with running(lambda: work("one"), lambda: work("two")):
        pass
    assert sum(counts.values()) >= len(world.clusters())
    world.settle()
    world.check()


def test_people_add_and_erase_while_workers_train_and_reconcilers_plan(world: World) -> None:
    """Nobody is turned away, nobody waits for ever, and in the end everything is as the survivors imply."""
    new_samples = [world.new_samples(3, owner=f"owner {turn % 4}") for turn in range(24)]
    world.add(24)
    world.settle()
    failed: list[object] = []
    done: list[bool] = []

    def add(batches: list[list[intake.NewSample]]) -> None:
        for batch in batches:
            results = intake.take_in(world.context, batch)
            failed.extend(result for result in results if isinstance(result, ServiceError))

    def erase(ids: list[str]) -> None:
        for sample_id in ids:
            erasure.erase_sample(world.context, sample_id)

    def work(name: str) -> None:
        while len(done) < 3:
            world.train(name)

    def plan() -> None:
        while len(done) < 3:
            world.reconcile()

    def then_done(action: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            try:
                action()
            finally:
                done.append(True)

        return run

    doomed = list(world.survivors)
    with running(
        then_done(lambda: add(new_samples[::2])),
        then_done(lambda: add(new_samples[1::2])),
        then_done(lambda: erase(doomed)),
        lambda: work("one"),
        lambda: work("two"),
        plan,
    ):
        pass
    assert failed == []
    assert {cluster.failure for cluster in world.clusters()} <= {None}
    world.survivors = {sample.id: sample for sample in world.samples()}
    assert not set(doomed) & set(world.survivors)
    assert len(world.survivors) == 72
    world.settle()
    world.check()
