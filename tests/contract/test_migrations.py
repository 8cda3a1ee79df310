"""A registry of an earlier release, in use, is brought to this one with everything that it holds."""

from dataclasses import replace
from pathlib import Path
from uuid import UUID

import alembic.command
import pytest
import sqlalchemy as sa
from uuid6 import uuid7

from models.partition.tree import tail
from models.spec import sha256
from service.registry import clusters, erasures, evaluation, feed, layout_state, ledger, samples
from service.registry.engine import Registry, _config, is_migrated, migrate

pytestmark = pytest.mark.sql

CELL = 1 << 16  # positions that differ in their tails alone
DAY = "2026-01-01 00:00:00.000000"
NAMES = ("ann", "near", "far", "done", "s1", "s2")
IDS = {name: f"0000000000007000800000000000000{i}" for i, name in enumerate(NAMES)}


def fill(registry: Registry) -> None:
    """As release 0.1 left it: a person, two clusters, one of them serving, an erasure under way."""
    rows = {
        "owners": {"id": IDS["ann"], "ref": "ann"},
        "prompts": {
            "key": "k",
            "object_name": "prompts/x.safetensors",
            "digest": "d",
            "labels": "[]",
            "members": 1,
            "sample_epochs": 1,
            "seconds": 1.0,
            "fingerprint": "{}",
            "published_epoch": 3,
            "trained_at": DAY,
        },
        "state": {"id": 1, "epoch": 7, "backbone_digest": "b", "line_digest": "line", "partition_digest": "p"},
        "erasures": {
            "id": IDS["done"],
            "state": "retraining",
            "planned_epoch": 5,
            "accepted_at": DAY,
            "withdrawn_at": DAY,
            "due_at": DAY,
        },
        "destructions": {"object_name": "prompts/z.safetensors", "erasure_id": IDS["done"], "attempts": 1},
    }
    with registry.engine.begin() as connection:
        tables = sa.MetaData()
        tables.reflect(connection)
        for name, row in rows.items():
            connection.execute(sa.insert(_untyped(tables.tables[name], row)).values(row))
        for place, (cluster, serving) in enumerate((("near", "k"), ("far", None))):
            row = {"id": IDS[cluster], "lo": CELL * place, "hi": CELL * (place + 1), "samples": 1, "unplanned": False}
            row |= {"planned_through": 1, "serving_key": serving, "urgent": False, "attempts": 0, "created_at": DAY}
            connection.execute(sa.insert(_untyped(tables.tables["clusters"], row)).values(row))
            row = {"id": IDS[f"s{place + 1}"], "owner_id": IDS["ann"], "label": "cat", "digest": "d"}
            row |= {"position": CELL * place, "cluster_id": IDS[cluster], "created_at": DAY}
            connection.execute(sa.insert(_untyped(tables.tables["samples"], row)).values(row))


def _untyped(table: sa.Table, row: dict[str, object]) -> sa.TableClause:
    """Only the names count: values go to the driver as they are."""
    return sa.table(table.name, *(sa.column(name) for name in row))


@pytest.fixture
def old(empty_database_url: str, tmp_path: Path) -> Registry:
    (tmp_path / "data").mkdir()
    alembic.command.upgrade(_config(empty_database_url), "0001")
    registry = Registry(empty_database_url)
    fill(registry)
    registry.close()
    return registry


def count_rows(registry: Registry) -> dict[str, int]:
    with registry.engine.connect() as connection:
        tables = sa.MetaData()
        tables.reflect(connection)
        return {
            name: connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
            for name, table in tables.tables.items()
        }


def test_everything_is_kept_there_and_back(old: Registry, empty_database_url: str) -> None:
    before = count_rows(old)
    migrate(empty_database_url)
    assert is_migrated(empty_database_url)
    assert count_rows(old) == {**before, "layout_anchors": 0, "replicas": 0, "tallies": 0, "budgets": 0}
    with old.read() as session:
        assert layout_state.digest(session) == sha256(b"oubli/line/tree/2", b"line")
        assert [cluster.serving_key for cluster in clusters.every(session)] == ["k", None]
        assert [sample.position for sample in samples.every(session)] == [
            CELL * place + tail("d", "ann") for place in range(2)
        ]
        assert {sample.role for sample in samples.page(session, limit=9).items} == {"training"}
        assert evaluation.marks(session) == (feed.marks(session), (0, 0))
        (erasure,) = erasures.page(session, limit=10).items
        assert (erasure.state, erasure.planned_epoch, erasure.restored_at) == ("withdrawn", 5, None)
    alembic.command.downgrade(_config(empty_database_url), "0001")
    assert count_rows(old) == before
    with old.engine.connect() as connection:
        assert connection.execute(sa.text("SELECT state FROM erasures")).scalar_one() == "retraining"
    old.close()


def test_what_was_completed_before_the_two_were_told_apart_was_restored_as_well(
    old: Registry, empty_database_url: str
) -> None:
    alembic.command.upgrade(_config(empty_database_url), "0009")
    with old.engine.begin() as connection:
        connection.execute(sa.text("UPDATE erasures SET state = 'completed', completed_at = '2026-05-01 12:00:00'"))
        row = {"erasure_id": IDS["done"], "cluster_id": IDS["near"], "state": "completed"}
        connection.execute(sa.insert(sa.table("erasure_clusters", *map(sa.column, row))).values(row))
    migrate(empty_database_url)
    with old.read() as session:
        (erasure,) = erasures.page(session, limit=10).items
    assert (erasure.state, erasure.restored_at) == ("completed", erasure.completed_at)
    assert erasure.completed_at is not None
    assert [cluster.state for cluster in erasure.clusters] == ["restored"]
    old.close()


def test_erasures_of_before_there_was_a_ledger_are_to_be_written(old: Registry, empty_database_url: str) -> None:
    with old.engine.begin() as connection:
        row = {"erasure_id": IDS["done"], "sample_id": IDS["s2"]}
        connection.execute(sa.insert(sa.table("erasure_samples", *map(sa.column, row))).values(row))
    migrate(empty_database_url)
    with old.read() as session:
        (tombstone,) = ledger.missing(session, limit=10)
    assert [UUID(tombstone.erasure), *map(UUID, tombstone.samples)] == [UUID(IDS["done"]), UUID(IDS["s2"])]
    old.close()


def test_a_number_of_arrival_is_not_given_twice(old: Registry, empty_database_url: str) -> None:
    """The last sample was erased before: its number stays its own when the table is written anew."""
    alembic.command.upgrade(_config(empty_database_url), "0011")
    with old.engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM samples WHERE seq = (SELECT max(seq) FROM samples)"))
    migrate(empty_database_url)
    with old.write() as session:
        (first,) = samples.page(session, limit=9).items
        again = replace(first, id=str(uuid7()))
        samples.insert_all(session, [again], samples.ensure_owners(session, ["ann"]), kind="")
        assert session.execute(sa.text("SELECT max(seq) FROM samples")).scalar_one() == 3
    old.close()


def test_no_way_back_while_there_are_evaluation_samples(old: Registry, empty_database_url: str) -> None:
    """The old release would learn from them."""
    migrate(empty_database_url)
    with old.write() as session:
        first, _ = samples.page(session, limit=9).items
        apart = replace(first, id=str(uuid7()), role="evaluation", cluster=None, position=None)
        samples.insert_all(session, [apart], samples.ensure_owners(session, ["ann"]), kind="")
    with pytest.raises(RuntimeError, match="role evaluation"):
        alembic.command.downgrade(_config(empty_database_url), "0011")
    with old.write() as session:
        samples.delete(session, [apart.id])
    alembic.command.downgrade(_config(empty_database_url), "0011")
    migrate(empty_database_url)
    assert count_rows(old)["samples"] == 2
    old.close()


def test_no_way_back_while_there_is_a_core(old: Registry, empty_database_url: str) -> None:
    """The old release would not withdraw its adapter."""
    migrate(empty_database_url)
    with old.write() as session:
        first, _ = samples.page(session, limit=9).items
        core = replace(first, id=str(uuid7()), role="core")
        samples.insert_all(session, [core], samples.ensure_owners(session, ["ann"]), kind="")
    with pytest.raises(RuntimeError, match="role core"):
        alembic.command.downgrade(_config(empty_database_url), "0014")
    with old.write() as session:
        samples.delete(session, [core.id])
    alembic.command.downgrade(_config(empty_database_url), "0014")
    migrate(empty_database_url)
    assert count_rows(old)["samples"] == 2
    old.close()


def test_no_way_back_while_positions_mean_what_the_old_release_does_not_know(
    old: Registry, empty_database_url: str
) -> None:
    migrate(empty_database_url)
    with old.write() as session:
        layout_state.put_in_force(session, "x", spec={"kind": "random"}, object_name=None, checksum=None, anchors=[])
    with pytest.raises(RuntimeError, match="OUBLI_PARTITION__KIND=tree"):
        alembic.command.downgrade(_config(empty_database_url), "0001")
    migrate(empty_database_url)
    assert count_rows(old)["samples"] == 2
    old.close()
