"""The layout in force: what recorded positions mean, and which samples it was fitted on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from service.registry.engine import ReadSession, WriteSession
from service.registry.records import LayoutInForce
from service.registry.statements import chunked
from service.registry.tables import LayoutAnchorRow, StateRow


def current(session: ReadSession) -> LayoutInForce:
    """The layout in force, with those of its anchors that still decide where samples are routed."""
    columns = (StateRow.layout_digest, StateRow.layout, StateRow.layout_failure)
    digest, how, failure = session.execute(sa.select(*columns)).one()
    how = how or {"spec": {}, "object": None, "checksum": None}
    kept: tuple[int, ...] = ()
    if how["object"] is not None:
        kept = tuple(place for place, _ in anchors(session))
    return LayoutInForce(digest, how["spec"], how["object"], how["checksum"], kept, failure)


def digest(session: ReadSession) -> str | None:
    """Digest of the layout in force; None while positions mean nothing."""
    return session.execute(sa.select(StateRow.layout_digest)).scalar_one()


def anchors(session: ReadSession) -> list[tuple[int, str]]:
    """(place, sample id) of the anchors that still decide where samples are routed."""
    rows = session.execute(sa.select(LayoutAnchorRow.place, LayoutAnchorRow.sample_id).order_by(LayoutAnchorRow.place))
    return [(row[0], row[1]) for row in rows]


def put_in_force(
    session: WriteSession,
    digest: str,
    *,
    spec: Mapping[str, Any],
    object_name: str | None,
    checksum: str | None,
    anchors: Sequence[str],
) -> str | None:
    """Replace the layout in force; the object of the old one, if it had any. `anchors` are sample ids, in order."""
    old: dict[str, Any] | None = session.execute(sa.select(StateRow.layout)).scalar_one()
    how = {"spec": dict(spec), "object": object_name, "checksum": checksum}
    session.execute(sa.update(StateRow).values(layout_digest=digest, layout=how, layout_failure=None))
    session.execute(sa.delete(LayoutAnchorRow))
    rows = [{"place": place, "sample_id": sample_id} for place, sample_id in enumerate(anchors)]
    if rows:
        session.execute(sa.insert(LayoutAnchorRow), rows)
    return old["object"] if old is not None else None


def forget_anchors(session: WriteSession, sample_ids: Sequence[str]) -> bool:
    """Take erased samples out of the anchors; whether any of them was one.

    The rest is another layout, with another digest, so that no process takes it for the one before: not even if a copy
    of the erased image becomes an anchor, and the layout that is wanted has the old digest again.
    """
    gone = 0
    for chunk in chunked(sample_ids):
        statement = sa.delete(LayoutAnchorRow).where(LayoutAnchorRow.sample_id.in_(chunk))
        gone += len(session.execute(statement.returning(LayoutAnchorRow.place)).all())
    if gone:
        kept = ",".join(str(place) for place, _ in anchors(session))
        name = hashlib.sha256(f"oubli/layout/kept/1 {digest(session)} {kept}".encode()).hexdigest()
        session.execute(sa.update(StateRow).where(StateRow.layout_digest.is_not(None)).values(layout_digest=name))
    return gone > 0


def lose(session: WriteSession) -> None:
    """Give up the layout in force, which cannot be restored: positions mean nothing until all samples are relocated."""
    session.execute(sa.update(StateRow).values(layout_digest=None))


def note_failure(session: WriteSession, failure: str | None) -> None:
    """Record why the relayout is blocked, for people to see; None: it is not blocked, or not needed."""
    session.execute(sa.update(StateRow).values(layout_failure=failure))


def failure(session: ReadSession) -> str | None:
    """Why the relayout is blocked; None if it is not."""
    return session.execute(sa.select(StateRow.layout_failure)).scalar_one()
