"""The hot statements use indexes: nothing that a request or a pass does grows with the number of samples."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from service.core import erasure, intake
from service.core.context import Context
from service.core.idempotency import once
from service.core.reconcile import reconcile
from service.registry import erasures, feed, samples
from tests.crowd import Plans, fill, new_sample
from tests.world import MakeWorld, World, postgres_only

pytestmark = [postgres_only, pytest.mark.postgres]

HELD = 20_000
# Those that grow with the samples. Clusters are read as a whole by a plan: there are a thousand times fewer of them.
LARGE = ("samples", "prompt_members", "owners", "erasure_samples", "erasure_clusters", "erasures", "idempotency")


@pytest.fixture
def crowded(make_world: MakeWorld) -> World:
    world = make_world(partition={"cap": 400, "min": 100})
    assert fill(world.context, HELD) >= 50
    return world


def some_id(context: Context, place: int) -> str:
    with context.registry.read() as session:
        return samples.arrivals(session, limit=place)[-1][0]


def the_owner(context: Context, sample_id: str) -> str:
    with context.registry.read() as session:
        found = samples.get(session, sample_id)
    assert found is not None
    return found.owner


def test_a_crowd_is_what_it_says(crowded: World) -> None:
    """Nothing is left to do, so what is measured on it is what is asked for, and no more."""
    assert reconcile(crowded.context) == 0
    with crowded.context.registry.read() as session:
        assert samples.count(session) == HELD
        assert len(feed.since(session, feed.marks(session), kind=crowded.context.backbone.kind.name).added) == 0


def forget_one(context: Context) -> None:
    erasure.erase_sample(context, some_id(context, 500))


def forget_an_owner(context: Context) -> None:
    erasure.erase_owner(context, the_owner(context, some_id(context, 900)))


def take_one_in(context: Context) -> None:
    with once(context, "POST /samples", "key", "d" * 64, caller="app") as ticket:
        (taken,) = intake.take_in(context, [new_sample(context, 1)], idempotency_key=ticket.key_digest)
    assert isinstance(taken, intake.Sample)


def look_again(context: Context) -> None:
    reconcile(context)


def look_after_forgetting(context: Context) -> None:
    reconcile(context)
    reconcile(context)


def note_what_has_changed(context: Context) -> None:
    with context.registry.read() as session:
        now = feed.marks(session)
        feed.since(session, now._replace(additions=now.additions - 5), kind=context.backbone.kind.name)


def follow(context: Context) -> None:
    with context.registry.read() as session:
        erasures.oldest_unfinished(session)
        erasures.running_for(session, some_id(context, 5))
        samples.page(session, limit=50, owner="owner-3")
        samples.page(session, limit=50)


@pytest.mark.parametrize(
    ("before", "work"),
    [
        (None, forget_one),
        (None, forget_an_owner),
        (None, take_one_in),
        (None, look_again),
        (forget_one, look_after_forgetting),
        (forget_an_owner, look_after_forgetting),
        (take_one_in, note_what_has_changed),
        (None, follow),
    ],
    ids=lambda work: getattr(work, "__name__", "-"),
)
def test_no_request_reads_a_large_table_from_end_to_end(
    crowded: World, before: Callable[[Context], None] | None, work: Callable[[Context], None]
) -> None:
    if before is not None:
        before(crowded.context)
    with Plans(crowded.context) as plans:
        work(crowded.context)
    assert plans.count > 0
    assert plans.scans(LARGE) == []
