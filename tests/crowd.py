"""A registry on PostgreSQL that holds a crowd: any number of samples in clusters of the tree, at synthetic positions.

Everything in it is as if it had come in through the API and been trained: regions are the tree's own cut of these
positions, counts and prompts' members agree, nothing is left to do. Only the objects are not there.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import psycopg
import sqlalchemy as sa
from uuid6 import uuid7

from models.descriptor import quantise
from models.partition.tree import BELOW_LEAF
from service.clock import system_clock
from service.core.context import Context
from service.core.intake import NewSample

PER_OWNER = 10
NOW = system_clock().isoformat()
Numbers = npt.NDArray[np.int64]


def fill(context: Context, count: int) -> int:
    """`count` samples, at positions drawn from a seed; how many clusters they make."""
    leaves = len(context.backbone.prototypes)
    positions = np.random.default_rng(20404).integers(0, leaves << BELOW_LEAF, count, dtype=np.int64)
    line = np.sort(positions)
    regions = context.partition.cut(lambda lo, hi: int(np.searchsorted(line, hi) - np.searchsorted(line, lo)))
    place = np.searchsorted([region.lo for region in regions], positions, side="right") - 1
    clusters = [str(uuid7()) for _ in regions]
    keys = [hashlib.sha256(cluster.encode()).hexdigest() for cluster in clusters]
    sizes = np.bincount(place, minlength=len(regions))
    with closing(_connect(context)) as connection, _without_indexes(connection):
        _copy(connection, "prompts", _prompts(context, keys, sizes))
        _copy(connection, "clusters", _clusters(regions, clusters, keys, sizes, count))
        owners = [str(uuid7()) for _ in range(-(-count // PER_OWNER))]
        _copy(connection, "owners", ((one, f"owner-{i}", False) for i, one in enumerate(owners)))
        ids = [str(uuid7()) for _ in range(count)]
        _copy(connection, "samples", _samples(ids, owners, clusters, positions, place))
        _copy(connection, "prompt_members", ((keys[p], one) for one, p in zip(ids, place.tolist(), strict=True)))
        _copy_history(connection, clusters, count // 10)
        connection.execute("UPDATE state SET additions = %s, epoch = 1", (count,))
        connection.execute("SELECT setval(pg_get_serial_sequence('samples', 'seq'), %s)", (count,))
    with closing(_connect(context)) as connection:
        connection.execute("VACUUM ANALYZE")
    return len(regions)


def new_sample(context: Context, number: int) -> NewSample:
    """A new sample, decoded and embedded: what an intake has after the forward pass."""
    random = np.random.default_rng(number)
    pixels = random.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    embedding = random.standard_normal(context.backbone.dim, dtype=np.float32)
    direction = random.standard_normal(context.backbone.descriptor_width)
    descriptor = quantise(direction / np.linalg.norm(direction))
    digest = hashlib.sha256(pixels.tobytes()).hexdigest()
    return NewSample(pixels, digest, embedding, descriptor, "new", f"newcomer-{number}")


# ------------------------------------------------------------------------------------------------------------- rows

COLUMNS = {
    "prompts": "key, object_name, digest, labels, members, sample_epochs, seconds, fingerprint, published_epoch, "
    "trained_at",
    "clusters": "id, is_adapter, lo, hi, samples, unplanned, desired_key, planned_through, serving_key, rebuild, "
    "urgent, setbacks, attempts, created_at",
    "owners": "id, ref, leaving",
    "samples": "seq, id, owner_id, label, digest, role, position, cluster_id, created_at, addition",
    "prompt_members": "prompt_key, sample_id",
    "erasures": "id, state, planned_epoch, accepted_at, withdrawn_at, completed_at, restored_at, due_at, ledgered, "
    "ledger_attempts",
    "erasure_samples": "erasure_id, sample_id",
    "erasure_clusters": "erasure_id, cluster_id, state",
    "idempotency": "key_digest, request_digest, resource_id, created_at",
}


def _prompts(context: Context, keys: Sequence[str], sizes: Numbers) -> Iterator[tuple[Any, ...]]:
    epochs = context.training.epochs
    for key, size in zip(keys, sizes.tolist(), strict=True):
        yield key, f"prompts/{key}", key, '["a", "b"]', size, size * epochs, 1.0, "{}", 1, NOW


def _clusters(
    regions: Sequence[tuple[int, int]], ids: Sequence[str], keys: Sequence[str], sizes: Numbers, through: int
) -> Iterator[tuple[Any, ...]]:
    for (lo, hi), cluster, key, size in zip(regions, ids, keys, sizes.tolist(), strict=True):
        yield cluster, False, lo, hi, size, False, key, through, key, False, False, 0, 0, NOW


def _samples(
    ids: Sequence[str], owners: Sequence[str], clusters: Sequence[str], positions: Numbers, place: Numbers
) -> Iterator[tuple[Any, ...]]:
    where = zip(ids, positions.tolist(), place.tolist(), strict=True)
    for i, (one, position, p) in enumerate(where):
        label, digest = "ab"[i % 2], f"{i * 0x9E3779B97F4A7C15 % 2**64:016x}" * 4
        yield i + 1, one, owners[i // PER_OWNER], label, digest, "training", position, clusters[p], NOW, i + 1


def _copy_history(connection: psycopg.Connection, clusters: Sequence[str], count: int) -> None:
    """So many have been forgotten before, and as many requests came with a key."""
    gone = [(str(uuid7()), str(uuid7()), clusters[i % len(clusters)]) for i in range(count)]
    _copy(connection, "erasures", ((one, "completed", 1, NOW, NOW, NOW, NOW, NOW, True, 0) for one, _, _ in gone))
    _copy(connection, "erasure_samples", ((one, sample) for one, sample, _ in gone))
    _copy(connection, "erasure_clusters", ((one, cluster, "restored") for one, _, cluster in gone))
    digests = (hashlib.sha256(one.encode()).hexdigest() for one, _, _ in gone)
    _copy(connection, "idempotency", ((d, d, one, NOW) for d, (one, _, _) in zip(digests, gone, strict=True)))


def _copy(connection: psycopg.Connection, table: str, rows: Iterable[tuple[Any, ...]]) -> None:
    with connection.cursor() as cursor, cursor.copy(f"COPY {table} ({COLUMNS[table]}) FROM STDIN".encode()) as copy:
        for row in rows:
            copy.write_row(row)


def _connect(context: Context) -> psycopg.Connection:
    plain = sa.make_url(context.registry.url).set(drivername="postgresql")
    return psycopg.connect(plain.render_as_string(hide_password=False), autocommit=True)


@contextmanager
def _without_indexes(connection: psycopg.Connection) -> Iterator[None]:
    """Filling tables first and indexing them then takes a fraction of the time. Constraints stay."""
    found = connection.execute(
        "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' AND indexname LIKE 'ix_%' "
        "AND tablename IN ('samples', 'prompt_members', 'owners', 'clusters', 'prompts')"
    ).fetchall()
    for name, _ in found:
        connection.execute(f'DROP INDEX "{name}"'.encode())
    yield
    connection.execute("SET maintenance_work_mem = '1GB'")
    for _, definition in found:
        connection.execute(definition.encode())


# ------------------------------------------------------------------------------------------------------------ plans


class Plans:
    """The statements that a block of code sends, and how PostgreSQL would carry each out."""

    def __init__(self, context: Context) -> None:
        self._engine = context.registry.engine
        self._sent: dict[str, Any] = {}

    def __enter__(self) -> Plans:
        sa.event.listen(self._engine, "before_cursor_execute", self._note)
        return self

    def __exit__(self, *_: object) -> None:
        sa.event.remove(self._engine, "before_cursor_execute", self._note)

    def _note(self, _c: Any, _cursor: Any, statement: str, parameters: Any, _x: Any, many: bool) -> None:
        if re.match(r"(SELECT|UPDATE|DELETE|INSERT)\b", statement) and "advisory" not in statement:
            self._sent.setdefault(statement, parameters[0] if many else parameters)

    def scans(self, tables: Sequence[str]) -> list[tuple[str, str]]:
        """(table, statement) of those that would read one of these tables from end to end."""
        found = []
        with self._engine.connect() as connection:
            for statement, parameters in self._sent.items():
                rows = connection.exec_driver_sql(f"EXPLAIN {statement}", parameters).scalars()
                plan = "\n".join(rows)
                scanned = re.findall(r"Seq Scan on (\w+)", plan)
                found += [(table, statement) for table in scanned if table in tables]
                connection.rollback()
        return found

    @property
    def count(self) -> int:
        """How many different statements were sent."""
        return len(self._sent)
