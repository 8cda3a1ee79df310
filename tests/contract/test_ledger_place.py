"""By default the erasure ledger lies beside the objects, where restoring a backup of them leaves it alone."""

from contextlib import closing

import pytest

from service.core import ledger, restore
from service.core.opening import open_context
from service.errors import Misconfigured
from tests.backups import Backup
from tests.world import MakeWorld, World


def trained(make_world: MakeWorld) -> World:
    """Thirty samples, every cluster serving, and no setting of where the ledger lies."""
    world = make_world()
    world.add(30)
    world.settle()
    return world


def test_by_default_the_ledger_does_not_go_back_with_the_objects(make_world: MakeWorld) -> None:
    world = trained(make_world)
    backup = Backup(world)
    erased = list(world.survivors)[:3]
    world.erase(*erased)
    world.settle()
    backup.restore()
    found = restore.check(world.context)
    assert not found.is_clean
    restore.apply(world.context, found)
    for sample_id in erased:
        del world.survivors[sample_id]
    world.settle()
    assert restore.check(world.context).is_clean
    world.check()


def test_a_ledger_among_the_objects_is_moved_beside_them(make_world: MakeWorld) -> None:
    """As an earlier release kept it. An audit, which changes nothing, reads it where it lies."""
    world = trained(make_world)
    erased = [world.erase(sample_id).id for sample_id in list(world.survivors)[:3]]
    world.settle()
    world.close()
    objects = world.folder / "objects"
    (world.folder / "ledger" / "ledger").rename(objects / "ledger")
    with closing(open_context(world.context.settings, clock=world.time, read_only=True).registry):
        assert (objects / "ledger").is_dir()
    world.context = open_context(world.context.settings, clock=world.time)
    assert not (objects / "ledger").exists()
    assert sorted(ledger.read(world.context.ledger).tombstones) == sorted(erased)
    assert restore.check(world.context).is_clean
    world.check()


def test_what_is_no_folder_is_said(make_world: MakeWorld) -> None:
    world = make_world()
    world.close()
    place = world.folder / "ledger"
    place.rmdir()
    place.write_bytes(b"a file in its place")
    with pytest.raises(Misconfigured, match="ledger cannot be used"):
        open_context(world.context.settings, clock=world.time)
    assert place.read_bytes() == b"a file in its place"
