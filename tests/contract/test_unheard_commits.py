"""A commit whose answer was lost, or that is still under way: nothing that it records is destroyed."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event, Thread
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from service.core import erasure, intake, layouts, training
from service.core.audit import Scope, audit
from service.errors import NotFound, Unavailable
from service.registry import destructions
from tests.layouts import anchors
from tests.world import World, postgres_only

pytestmark = pytest.mark.sql

AWAY = "does not answer"


class Unheard:
    """From `begin` on, the next commit takes place and its acknowledgement is lost. PostgreSQL only."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch
        self._commit: Callable[[sa.Connection], None] = sa.Connection._commit_impl

    def begin(self) -> None:
        def lose(connection: sa.Connection) -> None:
            self._patch.setattr(sa.Connection, "_commit_impl", self._commit)
            self._commit(connection)
            cut = psycopg.OperationalError("server closed the connection unexpectedly")
            raise sa.exc.OperationalError("COMMIT", {}, cut, connection_invalidated=True)

        self._patch.setattr(sa.Connection, "_commit_impl", lose)


@pytest.fixture
def unheard(monkeypatch: pytest.MonkeyPatch) -> Unheard:
    return Unheard(monkeypatch)


def differences(world: World) -> list[str]:
    found = audit(world.context, Scope(embeddings=True))
    return [f"{finding.subject}: {finding.reason}" for finding in found if finding.comparable]


@postgres_only
def test_an_erasure_is_found_by_asking_again(idle: World, unheard: Unheard) -> None:
    sample = next(iter(idle.survivors))
    unheard.begin()
    with pytest.raises(Unavailable, match=AWAY):
        erasure.erase_sample(idle.context, sample)
    assert erasure.erase_sample(idle.context, sample).samples == 1
    del idle.survivors[sample]
    idle.settle()
    with pytest.raises(NotFound):
        erasure.erase_sample(idle.context, sample)
    idle.check()


@postgres_only
def test_a_prompt_that_is_published_stays(planned: World, unheard: Unheard) -> None:
    def step(name: str) -> None:
        if name == "commit":
            unheard.begin()

    assert training.train_one(planned.context, worker="w", step=step)
    (cluster,) = planned.clusters()
    assert cluster.serving_key == cluster.desired_key
    with planned.context.registry.read() as session:
        assert destructions.pending(session) == []
    planned.reconcile()
    assert differences(planned) == []
    planned.check()


def test_a_prompt_whose_transaction_was_undone_goes(planned: World) -> None:
    def step(name: str) -> None:
        if name == "commit":
            raise Unavailable("The registry is away.")

    assert training.train_one(planned.context, worker="w", step=step)
    (cluster,) = planned.clusters()
    assert (cluster.serving_key, cluster.leased_until, cluster.attempts) == (None, None, 0)
    planned.reconcile()
    assert list(planned.context.store.names("prompts")) == []
    planned.settle()
    assert differences(planned) == []
    planned.check()


@postgres_only
def test_a_layout_that_is_in_force_stays(anchored: World, unheard: Unheard, monkeypatch: pytest.MonkeyPatch) -> None:
    anchored.erase(anchors(anchored)[0])
    stored = anchored.context.store.put

    def put(name: str, data: bytes) -> None:
        stored(name, data)
        if name.startswith("layouts/"):
            unheard.begin()  # storing it is the last step before the commit

    with monkeypatch.context() as patch:
        patch.setattr(anchored.context.store, "put", put)
        with pytest.raises(Unavailable, match=AWAY):
            anchored.reconcile()
    with anchored.context.registry.read() as session:
        assert layouts.is_in_force(anchored.context, session)
    assert layouts.in_force(anchored.context)[1] is not None
    anchored.settle()
    assert differences(anchored) == []
    anchored.check()


def test_a_newcomer_whose_commit_is_still_under_way_keeps_its_object(
    idle: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A query that is sent at once would not see the row yet."""
    context = idle.context
    committing: list[Thread] = []

    def cut_off(_: Any, new_samples: Any, ids: list[str], key: str | None, **given: Any) -> Any:
        entered = Event()

        def commit_late() -> None:
            with context.registry.write() as session:
                located = intake._locate(context, new_samples)
                intake._record_all(context, session, new_samples, ids, located, exclusive=False)
                entered.set()
                time.sleep(0.7)

        committing.append(Thread(target=commit_late))
        committing[0].start()
        assert entered.wait(10)
        raise Unavailable("The registry's database does not answer just now.")

    before = set(context.store.names("samples"))
    with monkeypatch.context() as patch:
        patch.setattr(intake, "_record", cut_off)
        with pytest.raises(Unavailable):
            intake.take_in(context, [idle.new_sample()])
    committing[0].join()
    (late,) = {sample.id for sample in idle.samples()} - set(idle.survivors)
    assert set(context.store.names("samples")) - before == {f"samples/{late}.safetensors"}


def test_a_newcomer_that_was_not_recorded_leaves_no_object(idle: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*arguments: object, **keywords: object) -> None:
        raise Unavailable("The registry's database does not answer just now.")

    before = set(idle.context.store.names("samples"))
    with monkeypatch.context() as patch:
        patch.setattr(intake, "_record", away)
        with pytest.raises(Unavailable):
            intake.take_in(idle.context, [idle.new_sample()])
    assert set(idle.context.store.names("samples")) == before
