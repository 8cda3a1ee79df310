"""A clock that is set back, or leaps ahead: nothing waits for a time noted before, and nothing known is taken away."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime

import pytest

from service.core.idempotency import RUNNING, Ticket, once
from service.core.reconcile import mend_times
from service.core.tidy import UNRECORDED_KEPT, tidy
from service.registry import samples
from tests.world import DAY, MakeWorld, World, lease, meanwhile


def resumes_within(world: World, seconds: float) -> bool:
    """Whether a worker finds something to train, if all look once a second from now on."""
    for _ in range(int(seconds) + 1):
        world.reconcile()
        if world.train("heir"):
            return True
        world.time.advance(1)
    return False


@pytest.fixture(params=[3600.0, DAY], ids=["an hour", "a day"])
def set_back(request: pytest.FixtureRequest) -> float:
    return float(request.param)


def test_a_lease_outlives_no_clock_that_is_set_back(planned: World, set_back: float) -> None:
    assert planned.kill_at("build")
    planned.time.advance(-set_back)
    assert resumes_within(planned, lease(planned))


def test_a_pause_after_a_failure_outlives_no_clock_that_is_set_back(
    planned: World, monkeypatch: pytest.MonkeyPatch, set_back: float
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(planned.context.store, "put", lambda name, data: 1 / 0)
        planned.train()
    planned.time.advance(-set_back)
    assert resumes_within(planned, planned.context.settings.training.retry_seconds)


def test_a_quiet_time_outlives_no_clock_that_is_set_back(make_world: MakeWorld, set_back: float) -> None:
    patient = make_world(training={"settle_seconds": 5, "settle_max_seconds": 12})
    patient.add(4)
    patient.time.advance(-set_back)
    assert resumes_within(patient, patient.context.settings.training.settle_max_seconds)


def test_an_idempotency_key_of_a_dead_request_outlives_no_clock_that_is_set_back(world: World, set_back: float) -> None:
    def request() -> AbstractContextManager[Ticket]:
        return once(world.context, "POST /samples", "key", "d" * 64, caller="app")

    with request():
        world.time.advance(-set_back)
        tidy(world.context)
        world.time.advance(RUNNING.total_seconds() + 1)
        with request() as ticket:
            assert ticket.key_digest is not None


def test_what_others_write_after_the_clock_was_read_is_no_clock_set_back(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    patient = make_world(training={"settle_seconds": 5})
    clock = patient.context.clock

    def slow_clock() -> datetime:
        """Read, and then another process takes a sample in before whoever has read it goes on."""
        monkeypatch.setattr(patient, "context", replace(patient.context, clock=clock))
        read = clock()
        patient.time.advance(1)
        patient.add(1)
        return read

    patient.context = replace(patient.context, clock=slow_clock)
    mend_times(patient.context)
    assert "clock" not in caplog.text


@pytest.mark.parametrize("step", ["build", "epoch 1", "publish"])
def test_a_training_goes_on_when_the_clock_is_set_back(planned: World, set_back: float, step: str) -> None:
    assert planned.train(step=meanwhile(step, lambda: planned.time.advance(-set_back)))
    assert len(planned.serving_keys()) == 1
    assert planned.is_idle()
    planned.check()


@pytest.mark.parametrize("left", ["a lease", "a failure", "a quiet time"])
def test_an_erasure_waits_for_no_time_that_was_noted_before_the_clock_was_set_back(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch, set_back: float, left: str
) -> None:
    world = make_world(training={"settle_seconds": 5})
    world.add(8)
    world.settle()
    world.add(2)
    world.time.advance(5 if left != "a quiet time" else 0)
    world.reconcile()
    if left == "a lease":
        assert world.kill_at("commit")
    elif left == "a failure":
        with monkeypatch.context() as patch:
            patch.setattr(world.context.store, "put", lambda name, data: 1 / 0)
            assert world.train()
    world.time.advance(-set_back)
    found = world.erase(world.samples()[0].id)
    assert resumes_within(world, 0)
    world.reconcile()
    assert world.erasure(found.id).state == "completed"
    world.check()


def test_tidying_takes_nothing_that_is_known_when_the_clock_is_set_back_and_forth(idle: World, set_back: float) -> None:
    for seconds in (-set_back, 2 * set_back, -set_back):
        idle.time.advance(seconds)
        tidy(idle.context)
        idle.check()


def test_a_clock_that_leaps_ahead_costs_no_sample_that_is_being_taken_in(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_many = world.context.store.put_many

    def leap(items: Sequence[tuple[str, bytes]]) -> None:
        monkeypatch.setattr(world.context.store, "put_many", put_many)
        put_many(items)
        world.time.advance(2 * UNRECORDED_KEPT.total_seconds())
        tidy(world.context)
        assert world.objects() == set()

    monkeypatch.setattr(world.context.store, "put_many", leap)
    world.add(1)
    assert world.objects() == {samples.object_name(sample.id) for sample in world.samples()}
