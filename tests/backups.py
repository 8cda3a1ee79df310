"""Backups of a `World`: a dump of the database and a copy of the objects, taken and put back together or apart.

As rows, so that one kind serves both databases; `tests/integration/test_restore.py` does it with the databases' tools.
"""

import shutil
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

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
