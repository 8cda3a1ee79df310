"""Built prompts, which samples each has seen, and the objects that must be destroyed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from service.registry.engine import ReadSession, WriteSession
from service.registry.records import Prompt
from service.registry.tables import (
    ClusterRow,
    DestructionRow,
    ErasureRow,
    PromptMemberRow,
    PromptRow,
    SampleRow,
    StateRow,
)

_CHUNK = 500


def _record(row: PromptRow) -> Prompt:
    return Prompt(
        key=row.key,
        object_name=row.object_name,
        digest=row.digest,
        labels=tuple(row.labels),
        members=row.members,
        sample_epochs=row.sample_epochs,
        seconds=row.seconds,
        trained_at=row.trained_at,
        published_epoch=row.published_epoch,
        fingerprint=row.fingerprint,
    )


def get(session: ReadSession, keys: Iterable[str]) -> dict[str, Prompt]:
    """Those of the keys that are built, by key."""
    wanted = list(set(keys))
    found: dict[str, Prompt] = {}
    for start in range(0, len(wanted), _CHUNK):
        chunk = wanted[start : start + _CHUNK]
        rows = session.execute(sa.select(PromptRow).where(PromptRow.key.in_(chunk))).scalars()
        found.update({row.key: _record(row) for row in rows})
    return found


def insert(session: WriteSession, prompt: Prompt, *, member_ids: Sequence[str]) -> None:
    """Record a built prompt and its members.

    One of the same key, built in another environment, gives way; who served it serves this one.
    """
    holders = _give_way(session, prompt.key)
    session.add(
        PromptRow(
            key=prompt.key,
            object_name=prompt.object_name,
            digest=prompt.digest,
            labels=list(prompt.labels),
            members=prompt.members,
            sample_epochs=prompt.sample_epochs,
            seconds=prompt.seconds,
            fingerprint=dict(prompt.fingerprint),
            published_epoch=prompt.published_epoch,
            trained_at=prompt.trained_at,
        )
    )
    session.flush()
    rows = [{"prompt_key": prompt.key, "sample_id": sample_id} for sample_id in member_ids]
    session.execute(sa.insert(PromptMemberRow), rows)
    if holders:
        session.execute(sa.update(ClusterRow).where(ClusterRow.id.in_(holders)).values(serving_key=prompt.key))


def _give_way(session: WriteSession, key: str) -> list[str]:
    """Forget the prompt of that key, if there is one; the clusters that served it."""
    old = session.execute(sa.select(PromptRow.object_name).where(PromptRow.key == key)).scalar_one_or_none()
    if old is None:
        return []
    served = sa.update(ClusterRow).where(ClusterRow.serving_key == key).values(serving_key=None)
    holders = list(session.execute(served.returning(ClusterRow.id)).scalars())
    session.execute(sa.delete(PromptRow).where(PromptRow.key == key))
    owe_destruction(session, [old])
    return holders


def is_current(session: ReadSession, prompt: Prompt) -> bool:
    """Whether this very object is still the prompt of its key."""
    known = sa.exists().where(PromptRow.key == prompt.key, PromptRow.object_name == prompt.object_name)
    return session.execute(sa.select(known)).scalar_one()


def served(session: ReadSession) -> list[Prompt]:
    """Every prompt that a cluster serves."""
    serving = sa.exists().where(ClusterRow.serving_key == PromptRow.key)
    return [_record(row) for row in session.execute(sa.select(PromptRow).where(serving)).scalars()]


def containing(session: ReadSession, sample_ids: Sequence[str]) -> list[str]:
    """Keys of the prompts that have seen any of these samples."""
    keys: set[str] = set()
    for start in range(0, len(sample_ids), _CHUNK):
        chunk = list(sample_ids[start : start + _CHUNK])
        statement = sa.select(PromptMemberRow.prompt_key).where(PromptMemberRow.sample_id.in_(chunk))
        keys.update(session.execute(statement.distinct()).scalars())
    return sorted(keys)


def strays(session: ReadSession) -> list[tuple[str, str]]:
    """(prompt key, sample id) of every built prompt that has seen a sample which is not held."""
    columns = sa.select(PromptMemberRow.prompt_key, PromptMemberRow.sample_id)
    missing = ~sa.exists().where(SampleRow.id == PromptMemberRow.sample_id)
    return [(row[0], row[1]) for row in session.execute(columns.where(missing))]


def drop_unserved(
    session: WriteSession, *, among: Sequence[str] | None = None, erasure_id: str | None = None
) -> list[str]:
    """Forget prompts that no cluster serves; their objects, which are now owed to destruction.

    among  only prompts of these keys are looked at.
    """
    served = sa.exists().where(ClusterRow.serving_key == PromptRow.key)
    unserved = sa.select(PromptRow.key, PromptRow.object_name).where(~served)
    if among is not None:
        unserved = unserved.where(PromptRow.key.in_(among))
    rows = session.execute(unserved).all()
    if rows:
        for start in range(0, len(rows), _CHUNK):
            chunk = [row[0] for row in rows[start : start + _CHUNK]]
            session.execute(sa.delete(PromptRow).where(PromptRow.key.in_(chunk)))
        owe_destruction(session, [row[1] for row in rows], erasure_id=erasure_id)
    return [row[1] for row in rows]


def owe_destruction(session: WriteSession, objects: Sequence[str], *, erasure_id: str | None = None) -> None:
    """Note objects that must go. An erasure given here is not completed before they are gone."""
    if not objects:
        return
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    epoch = session.execute(sa.select(StateRow.epoch)).scalar_one()
    for start in range(0, len(objects), _CHUNK):
        rows = [
            {"object_name": name, "erasure_id": erasure_id, "owed_epoch": epoch, "attempts": 0}
            for name in objects[start : start + _CHUNK]
        ]
        session.execute(dialect.insert(DestructionRow).values(rows).on_conflict_do_nothing())


def owed(session: ReadSession) -> list[str]:
    """Objects that must be destroyed, sooner or later."""
    return list(session.execute(sa.select(DestructionRow.object_name)).scalars())


def count_owed(session: ReadSession) -> int:
    """How many objects must be destroyed."""
    return session.execute(sa.select(sa.func.count()).select_from(DestructionRow)).scalar_one()


def destructible(session: ReadSession, *, applied: int | None, limit: int = 10_000) -> list[str]:
    """Objects that must be destroyed now.

    Those of an erasure once it is planned (or cannot be), and no sooner: its owner's row goes with the plan, and must
    have gone when the database's log is scrubbed after them. Those of removed samples once every live replica has
    applied the removal (`replicas.applied`; None: there is no replica).
    """
    unplanned = sa.exists().where(
        ErasureRow.id == DestructionRow.erasure_id,
        ErasureRow.state == "withdrawn",  # not one that cannot be planned just now, and says `failed`
        ErasureRow.planned_epoch.is_(None),
    )
    statement = sa.select(DestructionRow.object_name).where(~unplanned).limit(limit)
    if applied is not None:
        statement = statement.where(sa.or_(DestructionRow.removal.is_(None), DestructionRow.removal <= applied))
    return list(session.execute(statement).scalars())


def destroyed(session: WriteSession, objects: Sequence[str]) -> None:
    """These objects are gone."""
    for start in range(0, len(objects), _CHUNK):
        chunk = list(objects[start : start + _CHUNK])
        session.execute(sa.delete(DestructionRow).where(DestructionRow.object_name.in_(chunk)))


def not_destroyed(session: WriteSession, objects: Sequence[str]) -> None:
    """These objects could not be destroyed: count it."""
    for start in range(0, len(objects), _CHUNK):
        chunk = list(objects[start : start + _CHUNK])
        statement = sa.update(DestructionRow).where(DestructionRow.object_name.in_(chunk))
        session.execute(statement.values(attempts=DestructionRow.attempts + 1))


def known_objects(session: ReadSession, objects: Sequence[str]) -> set[str]:
    """Those of the object names that belong to a built prompt."""
    known: set[str] = set()
    for start in range(0, len(objects), _CHUNK):
        chunk = list(objects[start : start + _CHUNK])
        statement = sa.select(PromptRow.object_name).where(PromptRow.object_name.in_(chunk))
        known.update(session.execute(statement).scalars())
    return known


def unpublished_name(token: str) -> str:
    """Where a training with this lease puts its prompt, just before it is published."""
    return f"prompts/{token}.safetensors"


def destroy_unpublished(session: WriteSession, tokens: Sequence[str], *, erasure_id: str | None = None) -> None:
    """These leases have ended without a publication: whatever was stored under them must go."""
    owe_destruction(session, [unpublished_name(token) for token in tokens], erasure_id=erasure_id)
