"""The registry's repositories, on SQLite and PostgreSQL alike."""

from collections import Counter
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest
import sqlalchemy as sa
from uuid6 import uuid7

from service.errors import Invalid, Misconfigured
from service.messaging.queues import QUEUES
from service.registry import clusters, erasures, idempotency, paging, samples, state, workers
from service.registry.engine import Registry, check_known, check_migrations, is_migrated, migrate
from tests.rows import LEASE, NOW, make_cluster, make_sample
from tests.world import sqlite_only

pytestmark = pytest.mark.sql

WRONG_CURSORS = ["", "!", "é", "====", "AAAA", paging.encode("-1"), paging.encode("9" * 19), "/etc/passwd", "\x00"]


# --------------------------------------------------------------------------------------------------------- the schema


def test_migrations_build_exactly_what_the_tables_declare(empty_database_url: str) -> None:
    assert check_known_of_nothing(empty_database_url)
    migrate(empty_database_url)
    check_migrations(empty_database_url)
    assert is_migrated(empty_database_url)


def check_known_of_nothing(url: str) -> bool:
    """A database without a schema is not one of another release."""
    if url.startswith("sqlite"):
        Path(sa.make_url(url).database or "").parent.mkdir(parents=True)
    return check_known(url) is None and not is_migrated(url)


def test_migrating_twice_changes_nothing(registry: Registry) -> None:
    with registry.write() as session:
        make_cluster(session)
    migrate(registry.url)
    with registry.read() as session:
        assert len(clusters.every(session)) == 1


def test_a_newer_schema_is_refused_in_words_and_left_alone(registry: Registry) -> None:
    with registry.write() as session:
        session.execute(sa.text("UPDATE alembic_version SET version_num = 'from_tomorrow'"))
    with pytest.raises(Misconfigured, match=r"from_tomorrow\) is newer than this release.*nothing has been changed"):
        migrate(registry.url)
    with registry.read() as session:
        assert session.execute(sa.text("SELECT version_num FROM alembic_version")).scalar_one() == "from_tomorrow"
        assert state.epoch(session) == 0


@sqlite_only
def test_every_connection_has_the_pragmas_that_durability_and_erasure_need(registry: Registry) -> None:
    for session_of in (registry.read, registry.write):
        with session_of() as session:
            found = {
                name: session.execute(sa.text(f"PRAGMA {name}")).scalar_one()
                for name in ("journal_mode", "synchronous", "foreign_keys", "secure_delete", "busy_timeout")
            }
        assert found == {
            "journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "secure_delete": 1, "busy_timeout": 15000,
        }  # fmt: skip


def test_a_transaction_that_raises_leaves_nothing(registry: Registry) -> None:
    def fail() -> None:
        with registry.write() as session:
            make_cluster(session)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with registry.read() as session:
        assert clusters.every(session) == []


def test_a_read_session_sees_one_moment(registry: Registry) -> None:
    with registry.read() as session:
        assert state.epoch(session) == 0
        with registry.write() as writer:
            state.bump_epoch(writer)
        session.expire_all()
        assert state.epoch(session) == 0
    with registry.read() as session:
        assert state.epoch(session) == 1


# ------------------------------------------------------------------------------------------------------------- paging


def test_samples_are_paged_in_order_of_arrival_each_once(registry: Registry) -> None:
    with registry.write() as session:
        cluster = make_cluster(session)
        ids = [make_sample(session, cluster, position=place) for place in range(7)]
    seen: list[str] = []
    cursor = None
    with registry.read() as session:
        while True:
            page = samples.page(session, limit=3, cursor=cursor)
            seen += [sample.id for sample in page.items]
            cursor = page.next_cursor
            if cursor is None:
                break
    assert seen == ids


def test_samples_can_be_narrowed_by_owner_label_and_cluster(registry: Registry) -> None:
    with registry.write() as session:
        one, other = make_cluster(session), make_cluster(session, lo=100)
        ann = make_sample(session, one, owner="ann", label="cat")
        bob = make_sample(session, other, owner="bob", label="cat", position=100)
        make_sample(session, other, owner="bob", label="dog", position=101)
    with registry.read() as session:
        assert [s.id for s in samples.page(session, limit=9, owner="ann").items] == [ann]
        assert [s.id for s in samples.page(session, limit=9, cluster=other, label="cat").items] == [bob]
        assert samples.page(session, limit=9, owner="nobody").items == ()
        assert samples.cluster_labels(session, [one, other]) == {one: ["cat"], other: ["cat", "dog"]}
        assert (samples.count(session), samples.count_owners(session)) == (3, 2)


def test_labels_of_any_script_are_counted(registry: Registry) -> None:
    names = ["Käse", "cat", "cat", "emoji 🐈", "犬", "two words"]
    with registry.write() as session:
        cluster = make_cluster(session)
        for name in names:
            make_sample(session, cluster, label=name)
        assert dict(samples.labels(session)) == Counter(names)


def test_clusters_and_erasures_are_paged(registry: Registry) -> None:
    with registry.write() as session:
        made = [make_cluster(session, lo=100 * place) for place in range(3)]
        asked = [
            erasures.create(session, owner=None, sample_ids=[str(uuid7())], affected={}, now=NOW, due=LEASE)
            for _ in range(3)
        ]
    with registry.read() as session:
        first = clusters.page(session, limit=2)
        second = clusters.page(session, limit=2, cursor=first.next_cursor)
        assert [cluster.id for cluster in first.items + second.items] == made
        newest = erasures.page(session, limit=2)
        oldest = erasures.page(session, limit=2, cursor=newest.next_cursor, state="withdrawn")
        assert [erasure.id for erasure in newest.items + oldest.items] == asked[::-1]
        assert erasures.page(session, limit=2, state="completed").items == ()


def test_a_cursor_that_no_answer_held_is_refused(registry: Registry) -> None:
    with registry.read() as session:
        for cursor in WRONG_CURSORS:
            for list_page in (samples.page, clusters.page, erasures.page):
                with pytest.raises(Invalid, match="cursor"):
                    list_page(session, limit=2, cursor=cursor)


# --------------------------------------------------------------------------------------------- keys, workers, samples


def test_an_idempotency_key_belongs_to_its_first_request(registry: Registry) -> None:
    resource = str(uuid7())
    with registry.write() as session:
        assert idempotency.begin(session, "k" * 64, "r" * 64, now=NOW) is None
        first = idempotency.begin(session, "k" * 64, "s" * 64, now=NOW)
        assert first is not None
        assert (first.request_digest, first.resource_id) == ("r" * 64, None)
        idempotency.finish(session, "k" * 64, resource)
        idempotency.abandon(session, "k" * 64)
        idempotency.forget_requests(session, [resource])
    with registry.read() as session:
        kept = idempotency.get(session, "k" * 64)
        assert kept is not None
        assert (kept.request_digest, kept.resource_id) == (None, resource)


def test_an_abandoned_or_old_idempotency_key_is_free_again(registry: Registry) -> None:
    with registry.write() as session:
        idempotency.begin(session, "k" * 64, "r" * 64, now=NOW)
        idempotency.abandon(session, "k" * 64)
        assert idempotency.begin(session, "k" * 64, "r" * 64, now=NOW) is None
        idempotency.expire(session, before=NOW + timedelta(seconds=1))
        assert idempotency.get(session, "k" * 64) is None


def test_workers_are_known_while_they_beat(registry: Registry) -> None:
    later = NOW + timedelta(seconds=5)
    with registry.write() as session:
        workers.register(session, name="w1", device="cpu", queues=QUEUES, now=NOW)
        workers.register(session, name="w1", device="cpu", queues=QUEUES, now=NOW)
        workers.register(session, name="w2", device="cpu", queues=QUEUES, now=NOW)
        assert workers.beat(session, name="w2", now=later)
        workers.expire(session, before=later)
        assert not workers.beat(session, name="w1", now=later)
        assert [(worker.name, worker.beat_at) for worker in workers.every(session)] == [("w2", later)]
        workers.leave(session, name="w2")
        assert workers.every(session) == []


def test_an_owner_is_forgotten_with_their_last_sample(registry: Registry) -> None:
    with registry.write() as session:
        cluster = make_cluster(session)
        first, second = (make_sample(session, cluster, owner="ann") for _ in range(2))
        samples.delete(session, [first])
        samples.prune_owners(session)
        assert [sample.id for sample in samples.of_owner(session, "ann")] == [second]
        samples.delete(session, [second])
        samples.prune_owners(session)
        assert session.execute(sa.text("SELECT count(*) FROM owners")).scalar_one() == 0


def test_more_ids_than_one_statement_may_name_are_found_and_deleted(registry: Registry) -> None:
    with registry.write() as session:
        cluster = make_cluster(session)
        ids = [make_sample(session, cluster, position=place) for place in range(5)]
        many = [str(uuid7()) for _ in range(1200)]
        assert [found.id for found in samples.find(session, [*many, *ids])] == ids
        assert samples.delete(session, [*many, *ids]) == 5


def test_places_outside_every_region_have_no_cluster(registry: Registry) -> None:
    with registry.write() as session:
        low, high = make_cluster(session, lo=0), make_cluster(session, lo=100)
        assert clusters.covering(session, [0, 99, 100, 199, 200]) == [low, low, high, high, None]
        edges = [(cluster.lo, cluster.hi) for cluster in clusters.every(session)]
    assert all(before[1] == after[0] for before, after in pairwise(edges))


# -------------------------------------------------------------------------------------------------------------- scrub


@sqlite_only
def test_scrubbing_leaves_no_byte_of_deleted_owners_and_labels_in_any_file(registry: Registry, tmp_path: Path) -> None:
    """Enough rows, in random order and of uneven length, for pages to split, merge and move their cells."""
    count = 600
    owners = [f"owner-{uuid7().hex[::-1]}" * (1 + i % 3) for i in range(count)]
    labels = [f"label-{uuid7().hex[::-1]}" * (1 + i % 3) for i in range(count)]
    with registry.write() as session:
        cluster = make_cluster(session)
    for start in range(0, count, 100):
        with registry.write() as session:
            ids = [
                make_sample(session, cluster, owner=owners[i], label=labels[i], position=(i * 7919) % count)
                for i in range(start, start + 100)
            ]
            samples.delete(session, ids[::2])
            samples.prune_owners(session)
    assert registry.scrub()
    content = b"".join(path.read_bytes() for path in (tmp_path / "data").iterdir())
    assert all(name.encode() in content for name in (*owners[1::2], *labels[1::2]))
    assert not [name for name in (*owners[::2], *labels[::2]) if name.encode() in content]
