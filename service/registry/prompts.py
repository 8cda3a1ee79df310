"""Built prompts, and which samples each has seen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import sqlalchemy as sa

from service.registry import destructions
from service.registry.engine import ReadSession, WriteSession
from service.registry.records import Prompt
from service.registry.statements import chunked
from service.registry.tables import (
    ClusterRow,
    PromptMemberRow,
    PromptRow,
    SampleRow,
)


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
    """The built prompts with these keys, by key."""
    wanted = list(set(keys))
    found: dict[str, Prompt] = {}
    for chunk in chunked(wanted):
        rows = session.execute(sa.select(PromptRow).where(PromptRow.key.in_(chunk))).scalars()
        found.update({row.key: _record(row) for row in rows})
    return found


def insert(session: WriteSession, prompt: Prompt, *, member_ids: Sequence[str]) -> None:
    """Record a built prompt and its members.

    It replaces a prompt of the same key that was built in another environment; clusters that served that one serve this
    one.
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
    """Delete the prompt of that key, if there is one; ids of the clusters that served it."""
    old = session.execute(sa.select(PromptRow.object_name).where(PromptRow.key == key)).scalar_one_or_none()
    if old is None:
        return []
    served = sa.update(ClusterRow).where(ClusterRow.serving_key == key).values(serving_key=None)
    holders = list(session.execute(served.returning(ClusterRow.id)).scalars())
    session.execute(sa.delete(PromptRow).where(PromptRow.key == key))
    destructions.schedule(session, [old])
    return holders


def is_current(session: ReadSession, prompt: Prompt) -> bool:
    """Whether this prompt's object is still the recorded one of its key."""
    known = sa.exists().where(PromptRow.key == prompt.key, PromptRow.object_name == prompt.object_name)
    return session.execute(sa.select(known)).scalar_one()


def served(session: ReadSession) -> list[Prompt]:
    """All prompts that are served by a cluster."""
    serving = sa.exists().where(ClusterRow.serving_key == PromptRow.key)
    return [_record(row) for row in session.execute(sa.select(PromptRow).where(serving)).scalars()]


def containing(session: ReadSession, sample_ids: Sequence[str]) -> list[str]:
    """Keys of the built prompts that have seen any of these samples."""
    keys: set[str] = set()
    for chunk in chunked(sample_ids):
        statement = sa.select(PromptMemberRow.prompt_key).where(PromptMemberRow.sample_id.in_(chunk))
        keys.update(session.execute(statement.distinct()).scalars())
    return sorted(keys)


def orphaned_members(session: ReadSession) -> list[tuple[str, str]]:
    """(prompt key, sample id) of every built prompt that has seen a sample without a row."""
    columns = sa.select(PromptMemberRow.prompt_key, PromptMemberRow.sample_id)
    missing = ~sa.exists().where(SampleRow.id == PromptMemberRow.sample_id)
    return [(row[0], row[1]) for row in session.execute(columns.where(missing))]


def drop_unserved(
    session: WriteSession, *, among: Sequence[str] | None = None, erasure_id: str | None = None
) -> list[str]:
    """Delete prompts that no cluster serves; their objects, which are scheduled for deletion.

    among       only prompts of these keys are looked at.
    erasure_id  of the erasure that waits for the objects to be deleted.
    """
    served = sa.exists().where(ClusterRow.serving_key == PromptRow.key)
    unserved = sa.select(PromptRow.key, PromptRow.object_name).where(~served)
    if among is not None:
        unserved = unserved.where(PromptRow.key.in_(among))
    rows = session.execute(unserved).all()
    if rows:
        for chunk in chunked([row[0] for row in rows]):
            session.execute(sa.delete(PromptRow).where(PromptRow.key.in_(chunk)))
        destructions.schedule(session, [row[1] for row in rows], erasure_id=erasure_id)
    return [row[1] for row in rows]


def known_objects(session: ReadSession, objects: Sequence[str]) -> set[str]:
    """Those of the objects that belong to a built prompt."""
    known: set[str] = set()
    for chunk in chunked(objects):
        statement = sa.select(PromptRow.object_name).where(PromptRow.object_name.in_(chunk))
        known.update(session.execute(statement).scalars())
    return known


def unpublished_name(token: str) -> str:
    """The name of the object that a training under this lease stores, just before it publishes the prompt."""
    return f"prompts/{token}.safetensors"


def destroy_unpublished(session: WriteSession, tokens: Sequence[str], *, erasure_id: str | None = None) -> None:
    """Schedule the deletion of what was stored under leases that have ended without a publication."""
    destructions.schedule(session, [unpublished_name(token) for token in tokens], erasure_id=erasure_id)
