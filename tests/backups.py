"""Backups of a `World`: a dump of the database and a copy of the objects, taken and put back together or apart.

As rows, so that one kind serves both databases; `tests/integration/test_restore.py` does it with the databases' tools.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from service.core import restore
from service.core.audit import Scope, audit
from service.core.restore import Check
from service.registry.records import Erasure
from service.registry.tables import Base
from tests.world import World

Rows = dict[str, Sequence[Any]]


class Backup:
    """What the database and the objects are now."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._copy = world.folder.parent / "backup"
        self.survivors, self.held_out = dict(world.survivors), dict(world.held_out)
        with world.context.registry.engine.connect() as connection:
            self._rows: Rows = {
                table.name: [dict(row) for row in connection.execute(sa.select(table)).mappings()]
                for table in Base.metadata.sorted_tables
            }
        shutil.copytree(world.folder / "objects", self._copy)

    def restore(self) -> None:
        """Both. The world expects the samples that were on record then."""
        self.restore_database()
        self.restore_objects()

    def restore_database(self) -> None:
        with self._world.context.registry.engine.begin() as connection:
            for table in reversed(Base.metadata.sorted_tables):
                connection.execute(sa.delete(table))
            for table in Base.metadata.sorted_tables:
                if self._rows[table.name]:
                    connection.execute(sa.insert(table), self._rows[table.name])
        self._world.survivors, self._world.held_out = dict(self.survivors), dict(self.held_out)

    def restore_objects(self) -> None:
        shutil.rmtree(self._world.folder / "objects")
        shutil.copytree(self._copy, self._world.folder / "objects")


def settle(world: World, count: int = 30) -> World:
    world.add(count)
    world.settle()
    return world


def forget(world: World, backup: Backup, *ids: str) -> Erasure:
    """Erase, see it through, and expect the backup to be without them in the end."""
    accepted = world.erase(*ids)
    world.settle()
    for sample_id in ids:
        backup.survivors.pop(sample_id, None)
        backup.held_out.pop(sample_id, None)
    return accepted


def check(world: World) -> Check:
    return restore.check(world.context)


def apply(world: World) -> None:
    restore.apply(world.context, check(world))


def sound(world: World, expected: Backup) -> None:
    """Once workers ran: the survivors' service, and nothing else."""
    assert check(world).is_clean
    world.survivors, world.held_out = dict(expected.survivors), dict(expected.held_out)
    world.settle()
    world.check()
    assert list(audit(world.context, Scope(rebuild_all=True))) == []


def ledger_file(world: World, erasure_id: str) -> Path:
    (path,) = Path(world.context.settings.ledger_url or "").rglob(f"{erasure_id}.json")
    return path
