"""Adapted descriptors: which samples the adapter in force has described, and the feed of these descriptors.

A publication of the adapter is named by the lease that it was trained under, as its object is: another training, even
with the same key, is another publication. A sample's adapted descriptor is an object of its own, under the names of
both; it is destroyed with the sample's erasure, and all of a publication's with the adapter's object. Additions have a
count of their own on the state row, as those of `registry.feed` have; removals are the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from uuid import UUID

import sqlalchemy as sa

from service.registry import destructions, prompts
from service.registry.engine import ReadSession, WriteSession
from service.registry.feed import Added, Changes, removed_since
from service.registry.records import Marks, Prompt
from service.registry.roles import learned
from service.registry.samples import MemberRecord
from service.registry.statements import chunked
from service.registry.tables import ClusterRow, PromptRow, SampleRow, StateRow

PREFIX = "adapted"


def publication_of(prompt_object: str) -> str:
    """The publication that stored this object."""
    return prompt_object.rsplit("/", 1)[1].split(".")[0]


def object_name(publication: str, sample_id: str) -> str:
    """The name of the object with a sample's adapted descriptor."""
    return f"{PREFIX}/{publication}_{sample_id}.safetensors"


def parse(name: str) -> tuple[str, str]:
    """(publication, sample id) of such a name; empty strings for another."""
    publication, _, sample_id = name.removeprefix(f"{PREFIX}/").split(".")[0].partition("_")
    return publication, sample_id


def in_force(session: ReadSession) -> Prompt | None:
    """The adapter in force: published, and not withdrawn."""
    serving = sa.select(ClusterRow.serving_key).where(ClusterRow.is_adapter, ClusterRow.serving_key.is_not(None))
    key = session.execute(serving).scalar_one_or_none()
    return prompts.get(session, [key]).get(key) if key is not None else None


def publication_in_force(session: ReadSession) -> str | None:
    """The publication in force."""
    name = sa.select(PromptRow.object_name).join(ClusterRow, ClusterRow.serving_key == PromptRow.key)
    found = session.execute(name.where(ClusterRow.is_adapter)).scalar_one_or_none()
    return publication_of(found) if found is not None else None


def marks(session: ReadSession) -> Marks:
    """The present marks."""
    return Marks(*session.execute(sa.select(StateRow.adapted_additions, StateRow.removals)).one())


def note_publication(session: WriteSession) -> None:
    """Count the publication of an adapter, as an addition that came and went: from now on it may describe samples."""
    _count(session, 1)


def was_ever_used(session: ReadSession) -> bool:
    """Whether an adapter was ever published, so that there may be objects of samples that it has described."""
    return session.execute(sa.select(StateRow.adapted_additions)).scalar_one() > 0


def known_objects(session: ReadSession, names: Sequence[str]) -> set[str]:
    """Those of these objects that belong to a sample which this publication has described, or wait to be deleted."""
    pending = set(destructions.pending(session))
    leaving = {publication_of(name) for name in pending if name.startswith("prompts/")}
    known = {name for name in names if name in pending or parse(name)[0] in leaving}
    for chunk in chunked([name for name in names if name not in known]):
        by_sample = {parse(name)[1]: name for name in chunk}
        rows = session.execute(sa.select(SampleRow.id, SampleRow.adapted_by).where(SampleRow.id.in_(_ids(by_sample))))
        known |= {by_sample[row[0]] for row in rows if parse(by_sample[row[0]])[0] == row[1]}
    return known


def _ids(texts: Iterable[str]) -> list[str]:
    """Those that are ids."""
    found = []
    for text in texts:
        with suppress(ValueError):
            found.append(str(UUID(text)))
    return found


# ------------------------------------------------------------------------------------------------------ describing


def _undescribed(publication: str) -> sa.ColumnElement[bool]:
    """Three conditions that an index answers, where "different" would read every row."""
    column = SampleRow.adapted_by
    return sa.and_(learned(), sa.or_(column.is_(None), column < publication, column > publication))


def missing(session: ReadSession, publication: str, *, limit: int | None = None) -> list[MemberRecord]:
    """Samples to learn from that this publication has not described, at most `limit`."""
    columns = (SampleRow.seq, SampleRow.id, SampleRow.digest, SampleRow.label)
    statement = sa.select(*columns).where(_undescribed(publication)).limit(limit)
    return [MemberRecord(*row) for row in session.execute(statement)]


def among(session: ReadSession, ids: Sequence[str], publication: str) -> set[str]:
    """Those of these samples that exist, are learned from, and wait to be described."""
    found: set[str] = set()
    for chunk in chunked(ids):
        waiting = sa.select(SampleRow.id).where(SampleRow.id.in_(chunk), _undescribed(publication))
        found |= set(session.scalars(waiting))
    return found


def count(session: ReadSession, publication: str) -> int:
    """How many samples this publication has described."""
    counted = sa.select(sa.func.count()).where(SampleRow.adapted_by == publication)
    return session.execute(counted).scalar_one()


def note(session: WriteSession, sample_ids: Sequence[str], publication: str) -> None:
    """Record and number samples that this publication has described. To be called late, as `feed.note_additions`."""
    if not sample_ids:
        return
    mark = _count(session, len(sample_ids))
    for chunk in chunked(sample_ids):
        described = sa.update(SampleRow).where(SampleRow.id.in_(chunk))
        session.execute(described.values(adapted_by=publication, adapted_addition=mark))


def forget(session: WriteSession, sample_id: str, publication: str) -> None:
    """Record that a sample's adapted descriptor cannot be read: it is described anew."""
    statement = sa.update(SampleRow).where(SampleRow.id == sample_id, SampleRow.adapted_by == publication)
    session.execute(statement.values(adapted_by=None, adapted_addition=None))


def note_removals(session: WriteSession, *, undescribed: int) -> None:
    """Count removed samples that the adapter in force had not described, as some that came and went."""
    if undescribed:
        _count(session, undescribed)


def _count(session: WriteSession, added: int) -> int:
    statement = sa.update(StateRow).values(adapted_additions=StateRow.adapted_additions + added)
    return session.execute(statement.returning(StateRow.adapted_additions)).scalar_one()


# ------------------------------------------------------------------------------------------------------------ feed


def _described(publication: str) -> sa.Select[str, str, str]:
    columns = (SampleRow.id, SampleRow.digest, SampleRow.label)
    return sa.select(*columns).where(learned(), SampleRow.adapted_by == publication)


def since(session: ReadSession, then: Marks, *, publication: str) -> Changes:
    """The changes of what this publication has described, since those marks."""
    added = session.execute(_described(publication).where(SampleRow.adapted_addition > then.additions)).all()
    gone = removed_since(session, then.removals)
    return Changes(then, marks(session), tuple(Added(*row) for row in added), gone)


def everything(session: ReadSession, *, publication: str) -> Changes:
    """All survivors that this publication has described, as changes since the beginning."""
    rows = session.execute(_described(publication)).all()
    return Changes(Marks(0, 0), marks(session), tuple(Added(*row) for row in rows), ())
