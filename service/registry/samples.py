"""Samples and their owners."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from uuid6 import uuid7

from service.registry import paging
from service.registry.engine import ReadSession, WriteSession
from service.registry.records import Page, Role, Sample
from service.registry.roles import CORE, EVALUATION, TRAINING, check_role, held_out, learned
from service.registry.statements import chunked, insert_or_ignore
from service.registry.tables import OwnerRow, SampleRow


@dataclass(frozen=True)
class MemberRecord:
    """A sample as planning and training need it; `seq` is its place in the order of arrival."""

    seq: int
    id: str
    digest: str
    label: str


@dataclass(frozen=True)
class SurvivorRecord:
    """A sample as audits and relayouts need it."""

    id: str
    owner: str
    digest: str
    label: str
    position: int
    cluster: str
    role: Role = TRAINING


def every(session: ReadSession) -> list[SurvivorRecord]:
    """All samples that are learned from, in arrival order."""
    row = SampleRow
    columns = (row.id, OwnerRow.ref, row.digest, row.label, row.position, row.cluster_id, row.role)
    statement = sa.select(*columns).join(OwnerRow, row.owner_id == OwnerRow.id).where(learned()).order_by(row.seq)
    return [
        SurvivorRecord(sample_id, owner, digest, label, position, cluster, check_role(role))
        for sample_id, owner, digest, label, position, cluster, role in session.execute(statement)
        if position is not None and cluster is not None  # as the table's constraint has it
    ]


def arrivals(session: ReadSession, *, limit: int) -> list[tuple[str, str]]:
    """(id, image digest) of the first samples that are learned from, in arrival order."""
    statement = sa.select(SampleRow.id, SampleRow.digest).where(learned()).order_by(SampleRow.seq).limit(limit)
    return [(row[0], row[1]) for row in session.execute(statement)]


def place(session: WriteSession, positions: Mapping[str, int]) -> None:
    """Set positions, by sample id."""
    if positions:
        statement = sa.update(SampleRow).where(SampleRow.id == sa.bindparam("sample_id"))
        rows = [{"sample_id": sample_id, "place": position} for sample_id, position in positions.items()]
        session.connection().execute(statement.values(position=sa.bindparam("place")), rows)


def object_name(sample_id: str) -> str:
    """The name of the object with a sample's pixels and embedding."""
    return f"samples/{sample_id}.safetensors"


def _select() -> sa.Select[SampleRow, str]:
    return sa.select(SampleRow, OwnerRow.ref).join(OwnerRow, SampleRow.owner_id == OwnerRow.id)


def _record(row: sa.Row[SampleRow, str]) -> Sample:
    sample, owner = row
    return Sample(
        id=sample.id,
        owner=owner,
        label=sample.label,
        digest=sample.digest,
        cluster=sample.cluster_id,
        created_at=sample.created_at,
        position=sample.position,
        role=check_role(sample.role),
    )


def get(session: ReadSession, sample_id: str) -> Sample | None:
    """The sample, or None."""
    row = session.execute(_select().where(SampleRow.id == sample_id)).one_or_none()
    return _record(row) if row is not None else None


def find(session: ReadSession, ids: Iterable[str]) -> list[Sample]:
    """Those of the ids that exist, in arrival order."""
    wanted = list(dict.fromkeys(ids))
    found: list[sa.Row[SampleRow, str]] = []
    for chunk in chunked(wanted):
        found += session.execute(_select().where(SampleRow.id.in_(chunk))).all()
    return [_record(row) for row in sorted(found, key=lambda row: row[0].seq)]


def of_owner(session: ReadSession, ref: str) -> list[Sample]:
    """All samples of an owner, in arrival order."""
    statement = _select().where(OwnerRow.ref == ref).order_by(SampleRow.seq)
    return [_record(row) for row in session.execute(statement)]


def page(
    session: ReadSession,
    *,
    limit: int,
    cursor: str | None = None,
    owner: str | None = None,
    label: str | None = None,
    cluster: str | None = None,
    role: Role | None = None,
) -> Page[Sample]:
    """A page of samples in arrival order, that match all given filters."""
    statement = _select().order_by(SampleRow.seq).limit(limit + 1)
    if owner is not None:
        statement = statement.where(OwnerRow.ref == owner)
    if label is not None:
        statement = statement.where(SampleRow.label == label)
    if cluster is not None:
        statement = statement.where(SampleRow.cluster_id == cluster)
    if role is not None:
        statement = statement.where(held_out() if role == EVALUATION else SampleRow.role == role)
    if cursor is not None:
        statement = statement.where(SampleRow.seq > paging.decode_number(cursor))
    rows = session.execute(statement).all()
    return paging.page(rows, limit, item=_record, place=lambda row: str(row[0].seq))


def insert_all(session: WriteSession, arrivals: Sequence[Sample], owners: Mapping[str, str], *, kind: str) -> None:
    """Record samples, in their order, as the last to have arrived; `owners` as `ensure_owners` returns them.

    kind  of the descriptors in their files.
    """
    rows = [
        {
            "id": sample.id,
            "owner_id": owners[sample.owner],
            "label": sample.label,
            "digest": sample.digest,
            "position": sample.position,
            "cluster_id": sample.cluster,
            "created_at": sample.created_at,
            "role": sample.role,
            "addition": None if sample.role == EVALUATION else 0,  # `feed.note_additions`
            "descriptor_kind": kind,
        }
        for sample in arrivals
    ]
    if rows:  # row by row, so numbered in this order; many VALUES of one statement promise none
        session.connection().execute(sa.insert(SampleRow), rows)


def ensure_owners(session: WriteSession, refs: Iterable[str]) -> dict[str, str]:
    """Ids of owners, by reference. New ones are created in sorted order, as every transaction does: on PostgreSQL one
    waits for another that creates the same owner."""
    wanted = sorted(set(refs))
    found = _owner_ids(session, wanted)
    new = [ref for ref in wanted if ref not in found]
    if new:
        rows = [{"id": str(uuid7()), "ref": ref, "leaving": False} for ref in new]
        session.connection().execute(insert_or_ignore(session, OwnerRow, key=["ref"]), rows)
        found |= _owner_ids(session, new)
    return found


def _owner_ids(session: ReadSession, refs: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for chunk in chunked(refs):
        statement = sa.select(OwnerRow.ref, OwnerRow.id).where(OwnerRow.ref.in_(chunk))
        found |= {row[0]: row[1] for row in session.execute(statement)}
    return found


def delete(session: WriteSession, ids: Sequence[str]) -> int:
    """Delete samples; how many rows there were. Their owners are marked as leaving."""
    owners: list[str] = []
    for chunk in chunked(ids):
        statement = sa.delete(SampleRow).where(SampleRow.id.in_(chunk)).returning(SampleRow.owner_id)
        owners += session.execute(statement).scalars()
    _note_leaving(session, sorted(set(owners)))
    return len(owners)


def _note_leaving(session: WriteSession, owner_ids: Sequence[str]) -> None:
    """Mark owners as leaving, locked in the order of their ids: another erasure may concern the same owners."""
    for chunk in chunked(owner_ids):
        these = OwnerRow.id.in_(chunk)
        session.execute(sa.select(OwnerRow.id).where(these).order_by(OwnerRow.id).with_for_update(key_share=True))
        session.execute(sa.update(OwnerRow).where(these).values(leaving=True))


def prune_owners(session: WriteSession) -> None:
    """Delete leaving owners who have no samples. In an exclusive transaction: an intake may be adding one for them."""
    nothing_left = ~sa.exists().where(SampleRow.owner_id == OwnerRow.id)
    session.execute(sa.delete(OwnerRow).where(OwnerRow.leaving, nothing_left))
    session.execute(sa.update(OwnerRow).where(OwnerRow.leaving).values(leaving=False))


def members(session: ReadSession, cluster_id: str, *, through: int | None = None) -> list[MemberRecord]:
    """A cluster's members in arrival order; those that came no later than `through`, if given."""
    columns = (SampleRow.seq, SampleRow.id, SampleRow.digest, SampleRow.label)
    statement = sa.select(*columns).where(SampleRow.cluster_id == cluster_id).order_by(SampleRow.seq)
    if through is not None:
        statement = statement.where(SampleRow.seq <= through)
    return [MemberRecord(*row) for row in session.execute(statement)]


def core(session: ReadSession, *, limit: int | None = None, through: int | None = None) -> list[MemberRecord]:
    """Core samples in arrival order: the first `limit`, or those that came no later than `through`."""
    columns = (SampleRow.seq, SampleRow.id, SampleRow.digest, SampleRow.label)
    statement = sa.select(*columns).where(SampleRow.role == CORE).order_by(SampleRow.seq).limit(limit)
    if through is not None:
        statement = statement.where(SampleRow.seq <= through)
    return [MemberRecord(*row) for row in session.execute(statement)]


def count_core(session: ReadSession) -> int:
    """The number of core samples."""
    return session.execute(sa.select(sa.func.count()).where(SampleRow.role == CORE)).scalar_one()


def alike(session: ReadSession, pictures: Iterable[tuple[str, str, str, Role]]) -> list[Sample]:
    """Samples that are these images, each given by owner, label, digest and role; in arrival order."""
    wanted = set(pictures)
    owners = sorted({owner for owner, _, _, _ in wanted})
    digests = sorted({digest for _, _, digest, _ in wanted})
    found: list[sa.Row[SampleRow, str]] = []
    for some_digests in chunked(digests):
        for some_owners in chunked(owners):
            statement = _select().where(SampleRow.digest.in_(some_digests), OwnerRow.ref.in_(some_owners))
            found += session.execute(statement).all()
    known = [_record(row) for row in sorted(found, key=lambda row: row[0].seq)]
    return [sample for sample in known if (sample.owner, sample.label, sample.digest, sample.role) in wanted]


def copies(session: ReadSession, pictures: Iterable[tuple[str, str]]) -> Counter[tuple[str, str]]:
    """How many samples to learn from these owners have of these images, by (owner's reference, image digest)."""
    wanted = set(pictures)
    refs = {owner_id: ref for ref, owner_id in _owner_ids(session, sorted({ref for ref, _ in wanted})).items()}
    digests = sorted({digest for _, digest in wanted})
    columns = (SampleRow.owner_id, SampleRow.digest)
    found: Counter[tuple[str, str]] = Counter()
    for chunk in chunked(digests if refs else []):
        theirs = (SampleRow.digest.in_(chunk), SampleRow.owner_id.in_(refs), learned())
        counted = sa.select(*columns, sa.func.count()).where(*theirs).group_by(*columns)
        found.update({(refs[row[0]], row[1]): row[2] for row in session.execute(counted)})
    return found


def count_between(session: ReadSession, lo: int, hi: int) -> int:
    """The number of samples at lo <= position < hi."""
    statement = sa.select(sa.func.count()).where(SampleRow.position >= lo, SampleRow.position < hi)
    return session.execute(statement).scalar_one()


def move(session: WriteSession, *, lo: int, hi: int, cluster: str) -> None:
    """Assign every sample at lo <= position < hi to a cluster."""
    session.execute(
        sa.update(SampleRow)
        .where(SampleRow.position >= lo, SampleRow.position < hi, SampleRow.cluster_id != cluster)
        .values(cluster_id=cluster)
    )


def labels(session: ReadSession) -> list[tuple[str, int]]:
    """Labels that are learned and how many samples have each, in the order of the labels."""
    counted = sa.select(SampleRow.label, sa.func.count()).where(learned())
    statement = counted.group_by(SampleRow.label).order_by(SampleRow.label)
    return [(row[0], row[1]) for row in session.execute(statement)]


def cluster_labels(session: ReadSession, clusters: Sequence[str]) -> dict[str, list[str]]:
    """The labels that each cluster's members have, sorted."""
    statement = (
        sa.select(SampleRow.cluster_id, SampleRow.label)
        .where(SampleRow.cluster_id.in_(clusters))
        .distinct()
        .order_by(SampleRow.label)
    )
    found: dict[str, list[str]] = {cluster: [] for cluster in clusters}
    for cluster, label in session.execute(statement):
        if cluster is not None:  # it is one of those asked for
            found[cluster].append(label)
    return found


def count(session: ReadSession) -> int:
    """The number of samples to learn from, counted row by row: `clusters.count_samples` is faster."""
    return session.execute(sa.select(sa.func.count()).where(learned())).scalar_one()


def any_recorded(session: ReadSession) -> bool:
    """Whether there is any sample to learn from."""
    return session.execute(sa.select(sa.exists(sa.select(SampleRow.id).where(learned())))).scalar_one()


def count_owners(session: ReadSession) -> int:
    """The number of owners with samples. Only for leaving owners are samples looked up."""
    something_left = sa.exists().where(SampleRow.owner_id == OwnerRow.id)
    counted = sa.select(sa.func.count()).select_from(OwnerRow)
    return session.execute(counted.where(sa.or_(~OwnerRow.leaving, something_left))).scalar_one()
