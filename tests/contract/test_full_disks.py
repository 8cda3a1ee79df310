"""A disk that is full: what is refused changes nothing, what was accepted is completed once there is room."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from service.errors import OutOfSpace
from service.serving.snapshot import take_snapshot
from tests.disks import Disk, small_disk
from tests.world import MakeWorld, World, lease, meanwhile, prompt_objects, sqlite_only


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """What the data folder is on: the objects, and with SQLite the registry."""
    with small_disk(tmp_path / "data") as disk:
        yield disk


@pytest.fixture
def cramped(disk: Disk, make_world: MakeWorld) -> World:
    """One cluster that waits for a worker, on a small disk."""
    world = make_world()
    world.add(8)
    assert world.reconcile() == 1
    return world


@pytest.mark.parametrize("step", ["build", "publish", "store", "commit"])
def test_a_disk_that_fills_up_during_a_training_serves_nothing_until_there_is_room(
    disk: Disk, cramped: World, step: str
) -> None:
    with suppress(OutOfSpace):  # the registry on that disk cannot even record the failure
        cramped.train(step=meanwhile(step, disk.fill))
    if not cramped.context.registry.is_sqlite and step == "commit":
        assert len(cramped.serving_keys()) == 1  # stored before the disk was full, and the registry is elsewhere
    else:
        assert cramped.serving_keys() == prompt_objects(cramped) == []
        assert take_snapshot(cramped.context, None).served == []
    disk.free()
    assert list(disk.folder.rglob(".tmp-*")) == []
    cramped.time.advance(max(lease(cramped), cramped.context.settings.training.retry_seconds))
    cramped.reconcile()
    cramped.train("heir")
    cramped.reconcile()
    cramped.check()


def test_an_erasure_accepted_before_the_disk_was_full_is_completed_once_there_is_room(
    disk: Disk, cramped: World
) -> None:
    cramped.settle()
    served = cramped.serving_keys()
    found = cramped.erase(cramped.samples()[0].id)
    for work in (cramped.reconcile, cramped.train):
        disk.fill()  # again: destroying has made room
        with suppress(OutOfSpace):
            work()
    assert cramped.serving_keys() == []
    assert not set(served) & set(take_snapshot(cramped.context, None).keys)
    assert cramped.erasure(found.id).restored_at is None
    disk.free()
    cramped.settle()
    cramped.check()


@sqlite_only
def test_an_erasure_that_a_full_disk_refuses_changes_nothing_and_can_be_asked_for_again(
    disk: Disk, cramped: World
) -> None:
    cramped.settle()
    victim = cramped.samples()[0].id
    with disk.full():
        with pytest.raises(OutOfSpace, match="disk is full"):
            cramped.erase(victim)
        cramped.check()
    cramped.erase(victim)
    cramped.settle()
    cramped.check()


def test_a_full_disk_accepts_no_sample_records_nothing_and_leaves_nothing(disk: Disk, cramped: World) -> None:
    cramped.settle()
    new_samples = cramped.new_samples(3, owner="bob")
    with disk.full():
        with pytest.raises(OSError, match="No space left"):
            cramped.take_in(new_samples)
        cramped.check()
        assert list(disk.folder.rglob(".tmp-*")) == []
    cramped.take_in(new_samples)
    cramped.settle()
    cramped.check()
