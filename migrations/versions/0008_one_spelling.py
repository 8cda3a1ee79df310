"""One spelling of every owner, label and key's name (NFC), and positions that tell copies of different owners apart.

Revision ID: 0008
Revises: 0007
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterable
from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

revision: str = "0008"
down_revision: str | None = "0007"
branch_labels: str | None = None
depends_on: str | None = None

_TEXTS = (("owners", "ref", False), ("samples", "label", False), ("erasures", "owner_ref", True))
_TAIL = 1 << 16  # a position's last 16 bits
_LINE_END = 2**63 - 1  # of the first cluster, before anything is cut
_CHUNK = 500

_owners = sa.table("owners", *map(sa.column, ("id", "ref", "leaving")))
_samples = sa.table("samples", *map(sa.column, ("seq", "id", "owner_id", "label", "digest", "position", "cluster_id")))
_clusters = sa.table(
    "clusters",
    *map(sa.column, ("id", "lo", "hi", "desired_key", "unplanned", "serving_key", "settles_at", "unsettled_since")),
    sa.column("withdrawn_at", sa.DateTime(timezone=True)),
)
_members = sa.table("prompt_members", sa.column("prompt_key"), sa.column("sample_id"))
_erasures = sa.table("erasures", sa.column("id"), sa.column("owner_ref"))
_keys = sa.table("api_keys", sa.column("id"), sa.column("name"))
_state = sa.table("state", *map(sa.column, ("epoch", "removals", "layout_digest", "layout")))


def upgrade() -> None:
    """Owners that are one person become one. Labels are part of what a prompt is built from, so where one changes

    - the prompts that have seen it are served no longer, and the plans are made anew: workers train those clusters,
    - every replica of the closed-form tier starts again from the survivors: a removal is counted that none finds.

    Positions of `tree` are given the tails that this release computes, without a look at any image.
    """
    _resize(384)
    with op.batch_alter_table("samples", table_kwargs={"sqlite_autoincrement": True}) as batch_op:
        batch_op.drop_index(op.f("ix_samples_digest"))
        batch_op.create_index(op.f("ix_samples_digest_owner_id"), ["digest", "owner_id"])
    connection = op.get_bind()
    _merge_owners(connection)
    _respell(connection, _erasures, "owner_ref")
    _respell(connection, _keys, "name")
    if labels := _other_spellings(connection.execute(sa.select(_samples.c.label).distinct()).scalars()):
        _relabel(connection, labels)
    if _stands_by_tree(connection):
        _tell_owners_apart(connection)


def downgrade() -> None:
    """The spellings stay. Positions mean nothing to the old release: it locates every sample anew."""
    connection = op.get_bind()
    for table, column, _ in _TEXTS:
        longest = sa.select(sa.func.max(sa.func.length(sa.column(column)))).select_from(sa.table(table))
        if (connection.execute(longest).scalar_one() or 0) > 128:
            raise RuntimeError(f"{table}.{column} holds a text that is longer than the old release has room for.")
    if _stands_by_tree(connection):
        _lose_layout(connection)
    with op.batch_alter_table("samples", table_kwargs={"sqlite_autoincrement": True}) as batch_op:
        batch_op.drop_index(op.f("ix_samples_digest_owner_id"))
        batch_op.create_index(op.f("ix_samples_digest"), ["digest"])
    _resize(128)


def _resize(length: int) -> None:
    for table, column, nullable in _TEXTS:
        kept = {"sqlite_autoincrement": True} if table == "samples" else {}
        with op.batch_alter_table(table, table_kwargs=kept) as batch_op:
            batch_op.alter_column(column, type_=sa.String(length), existing_nullable=nullable)


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _other_spellings(texts: Iterable[str | None]) -> dict[str, str]:
    """What each text that is not in NFC becomes."""
    return {text: _nfc(text) for text in texts if text is not None and not unicodedata.is_normalized("NFC", text)}


def _respell(connection: sa.Connection, table: sa.TableClause, name: str) -> None:
    column = table.c[name]
    for text, spelled in _other_spellings(connection.execute(sa.select(column).distinct()).scalars()).items():
        connection.execute(sa.update(table).where(column == text).values({name: spelled}))


def _merge_owners(connection: sa.Connection) -> None:
    """The owner that came first keeps its row, and gets the samples of the others."""
    by_ref: dict[str, list[tuple[str, str]]] = {}
    for owner_id, ref in connection.execute(sa.select(_owners.c.id, _owners.c.ref).order_by(_owners.c.id)):
        by_ref.setdefault(_nfc(ref), []).append((owner_id, ref))
    for ref, ((kept, spelled), *others) in by_ref.items():
        for other, _ in others:
            connection.execute(sa.update(_samples).where(_samples.c.owner_id == other).values(owner_id=kept))
            connection.execute(sa.delete(_owners).where(_owners.c.id == other))
        if others or spelled != ref:
            leaving = sa.true() if others else _owners.c.leaving  # one of them may have nothing left
            connection.execute(sa.update(_owners).where(_owners.c.id == kept).values(ref=ref, leaving=leaving))


def _relabel(connection: sa.Connection, labels: dict[str, str]) -> None:
    for start in range(0, len(labels), _CHUNK):
        changed = _samples.c.label.in_(list(labels)[start : start + _CHUNK])
        ids = sa.select(_samples.c.id).where(changed)
        seen = sa.select(_members.c.prompt_key).where(_members.c.sample_id.in_(ids))
        theirs = _clusters.c.id.in_(sa.select(_samples.c.cluster_id).where(changed))
        connection.execute(sa.update(_clusters).where(theirs).values(desired_key=None, unplanned=True))
        served = sa.update(_clusters).where(_clusters.c.serving_key.in_(seen))
        connection.execute(served.values(serving_key=None, withdrawn_at=datetime.now(UTC), unplanned=True))
    for label, spelled in labels.items():
        connection.execute(sa.update(_samples).where(_samples.c.label == label).values(label=spelled))
    connection.execute(sa.update(_state).values(epoch=_state.c.epoch + 1, removals=_state.c.removals + 1))


def _stands_by_tree(connection: sa.Connection) -> bool:
    """Whether positions are those of `tree`: of a registry that was never moved, nothing else is on record."""
    row = connection.execute(sa.select(_state.c.layout_digest, _state.c.layout)).one_or_none()
    if row is None or row[0] is None:
        return False
    layout = json.loads(row[1]) if isinstance(row[1], str) else row[1]
    return layout is None or layout["spec"]["kind"] == "tree"


def _tell_owners_apart(connection: sa.Connection) -> None:
    """The last bits of a position are a hash of image and owner now; those before them mean what they meant."""
    kept = sa.and_(_clusters.c.lo % _TAIL == 0, sa.or_(_clusters.c.hi % _TAIL == 0, _clusters.c.hi == _LINE_END))
    if connection.execute(sa.select(sa.exists().where(~kept))).scalar_one():
        _lose_layout(connection)  # a cluster ends among samples that are about to change places
        return
    columns = (_samples.c.seq, _samples.c.digest, _owners.c.ref, _samples.c.position)
    statement = sa.select(*columns).join_from(_samples, _owners, _samples.c.owner_id == _owners.c.id)
    last = -1
    while rows := connection.execute(
        statement.where(_samples.c.seq > last).order_by(_samples.c.seq).limit(20 * _CHUNK)
    ).all():
        places = [{"of": row[0], "place": row[3] - row[3] % _TAIL + _tail(row[1], row[2])} for row in rows]
        moved = sa.update(_samples).where(_samples.c.seq == sa.bindparam("of"))
        connection.execute(moved.values(position=sa.bindparam("place")), places)
        last = rows[-1][0]
    digest = connection.execute(sa.select(_state.c.layout_digest)).scalar_one()
    line = _sha256(b"oubli/line/tree/2", digest.encode())
    connection.execute(sa.update(_state).values(layout_digest=line, epoch=_state.c.epoch + 1))


def _lose_layout(connection: sa.Connection) -> None:
    """Positions mean nothing any more: a worker locates every sample anew, from its recorded embedding."""
    connection.execute(sa.update(_state).values(layout_digest=None, epoch=_state.c.epoch + 1))
    connection.execute(sa.update(_clusters).values(desired_key=None, unplanned=True))


def _tail(image_digest: str, owner: str) -> int:
    return int(_sha256(b"oubli/tail/1", image_digest.encode(), owner.encode())[:4], 16)


def _sha256(*parts: bytes) -> str:
    """As `models.spec.sha256` was when this was written."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()
