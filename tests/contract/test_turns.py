"""An exclusive writer waits for its turn and delays no other without need; waiting for a training costs nothing."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from service.core import reconcile, replan
from service.registry import clusters, erasure_progress, erasures, state
from service.registry.engine import Needless, Registry
from tests.world import World, postgres_only

pytestmark = pytest.mark.sql

MOMENT = 0.5  # seconds


@pytest.fixture
def other() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(max_workers=1) as executor:
        yield executor


def try_alone(registry: Registry, *, needed: bool) -> str:
    try:
        with registry.write(exclusive=True, needed=lambda session: needed) as session:
            state.bump_epoch(session)
            return "done"
    except Needless:
        return "needless"


def test_what_is_no_longer_needed_is_not_done(registry: Registry) -> None:
    assert try_alone(registry, needed=False) == "needless"
    assert try_alone(registry, needed=True) == "done"
    with registry.read() as session:
        assert state.epoch(session) == 1


@postgres_only
def test_what_is_no_longer_needed_waits_for_no_writer(registry: Registry, other: ThreadPoolExecutor) -> None:
    with registry.write() as session:
        state.ensure(session)
        assert other.submit(try_alone, registry, needed=False).result(10) == "needless"
        waiting = other.submit(try_alone, registry, needed=True)
        with pytest.raises(TimeoutError):
            waiting.result(MOMENT)
    assert waiting.result(10) == "done"


@postgres_only
def test_whether_it_is_needed_is_asked_after_those_before(registry: Registry, other: ThreadPoolExecutor) -> None:
    """Two processes see the same work: the second finds it done."""

    def work() -> str:
        try:
            with registry.write(exclusive=True, needed=lambda session: state.epoch(session) == 0) as session:
                state.bump_epoch(session)
                return "done"
        except Needless:
            return "needless"

    with registry.write(exclusive=True) as session:
        second = other.submit(work)
        with pytest.raises(TimeoutError):
            second.result(MOMENT)
        state.bump_epoch(session)
    assert second.result(10) == "needless"


@postgres_only
def test_a_note_waits_for_no_change_of_the_partition(registry: Registry, other: ThreadPoolExecutor) -> None:
    noted = Event()

    def note() -> None:
        with registry.write_beside_plans() as session:
            state.fence(session)
            noted.set()

    with registry.write(exclusive=True):
        other.submit(note).result(10)
    assert noted.is_set()


def test_a_plan_that_somebody_else_has_made_is_not_made_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both see that there is something to plan; when the second one's turn comes, there is not."""
    world.add(8)
    asked = clusters.to_plan
    answers = []

    def first_true_then_done(*args: object) -> list[str]:
        if not answers:
            answers.append(asked(*args))  # type: ignore[arg-type]
            with monkeypatch.context() as patch:
                patch.setattr(clusters, "to_plan", asked)
                assert replan.replan(world.context)
            return answers[0]
        return asked(*args)  # type: ignore[arg-type]

    with world.context.registry.read() as session:
        before = state.epoch(session)
    with monkeypatch.context() as patch:
        patch.setattr(clusters, "to_plan", first_true_then_done)
        assert replan.replan(world.context)
    with world.context.registry.read() as session:
        assert state.epoch(session) == before + 1  # one plan, not two
    world.settle()
    world.check()


def test_erasures_that_only_wait_for_a_training_are_not_looked_at(idle: World) -> None:
    for sample in list(idle.survivors)[:8]:
        idle.erase(sample)
    reconcile.reconcile(idle.context)
    most = idle.context.settings.training.attempts
    with idle.context.registry.read() as session:
        assert erasures.counts(session) == {"completed": 8}
        assert erasures.count_unrestored(session) == 8
        assert erasure_progress.open_erasures(session) == []
        assert [
            one for one in erasure_progress.affected_clusters(session, attempts=most) if one.serving_key is None
        ] == []
    idle.settle()
    idle.check()
    with idle.context.registry.read() as session:
        assert erasure_progress.open_erasures(session) == []
