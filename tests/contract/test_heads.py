"""Two heads of one sum: the quick one at once after an erasure, the whole one later, neither with an erased sample."""

import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from models.closed_form import FEW
from service.api.deps import Service
from service.registry import samples
from service.registry.records import Marks, Sample
from service.serving import closed_form as tier_module
from service.serving import closed_form_updater as updater_module
from service.serving.closed_form import ClosedFormTier, Solved
from service.serving.closed_form_updater import ClosedFormUpdater
from tests.front import Front
from tests.integration.harness import digit_pictures, until, upload
from tests.replicas import erase_first, findings, first, is_right, is_stored, live_replicas, start
from tests.world import Killed, World, accepted

FRONT: dict[str, Any] = {"worker": {"heartbeat_seconds": 0.05}, "quality": {"enabled": False}}
LABELS = ("cat", "dog", "fox")


@pytest.fixture
def tier(world: World) -> ClosedFormTier:
    """A replica that knows eight samples of two labels; nothing is trained."""
    world.add(8)
    return start(world)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many samples each whole head is solved of, from now on."""
    solve, found = tier_module.solve, []

    def solved(state: Any, **how: Any) -> object:
        found.append(state.samples)
        return solve(state, **how)

    monkeypatch.setattr(tier_module, "solve", solved)
    return found


def while_reading(world: World, monkeypatch: pytest.MonkeyPatch, sample: Sample, what: Callable[[], object]) -> None:
    """Do something, once, when the object of that sample is about to be read."""
    get, left = world.context.store.get, [what]

    def hooked(name: str) -> bytes:
        if name == samples.object_name(sample.id) and left:
            left.pop()()
        return get(name)

    monkeypatch.setattr(world.context.store, "get", hooked)


def answers(tier: ClosedFormTier) -> Solved:
    solved = tier.current()
    assert solved is not None
    return solved


# ------------------------------------------------------------------------------------------------------- over the API


def predicted(client: httpx.Client) -> tuple[str | None, list[str]]:
    """Which head answered, and the labels that it knows."""
    answer = client.post("/predict", files=upload("image", digit_pictures(1)), params={"top_k": 10})
    (one,) = answer.json()["predictions"]
    return one["head"], sorted(score["label"] for score in one["scores"])


def told(client: httpx.Client) -> tuple[str | None, float]:
    """The head that /status names, and the seconds that /metrics counts."""
    (seconds,) = (
        sample.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
        if sample.name == "oubli_quick_head_seconds_total"
    )
    return client.get("/status").json()["closed_form"]["head"], seconds


def test_after_a_deletion_the_quick_head_answers_and_later_the_whole_one(
    front: Front, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    service: Service = front.app.state.service
    assert service.closed_form is not None
    assert client.get("/status").json()["closed_form"]["head"] is None
    for picture, label in zip(digit_pictures(6), LABELS * 2, strict=True):
        words = {"label": label, "owner": label}
        assert client.post("/samples", files=upload("image", [picture]), data=words).status_code == 201
    until(lambda: predicted(client) == ("whole", ["cat", "dog", "fox"]), what="a whole head of all labels")
    until(lambda: told(client)[0] == "whole", what="a status of it")
    before, solve, may_solve = told(client)[1], service.closed_form._solve_whole, threading.Event()

    def solve_later() -> None:
        assert may_solve.wait(60)
        solve()

    monkeypatch.setattr(service.closed_form, "_solve_whole", solve_later)
    assert client.delete("/owners/fox").status_code == 202
    assert predicted(client) == ("quick", ["cat", "dog"])
    head, seconds = told(client)
    assert head == "quick"
    assert seconds > before
    may_solve.set()
    until(lambda: predicted(client) == ("whole", ["cat", "dog"]), what="the whole head")
    head, seconds = told(client)
    assert (head, told(client)[1]) == ("whole", seconds)  # the time stands still


# ------------------------------------------------------------------------------- a thread that answers only subtracts


def test_a_removal_does_not_wait_for_additions_that_are_read(
    world: World, tier: ClosedFormTier, monkeypatch: pytest.MonkeyPatch
) -> None:
    (new,) = world.add(1)
    seen: list[Solved] = []

    def removed() -> None:
        erase_first(world)
        seen.append(answers(tier))  # would wait for ever if the reader held the lock

    while_reading(world, monkeypatch, new, removed)
    assert tier.catch_up() is not None
    assert [(solved.samples, solved.whole) for solved in seen] == [(7, False)]
    assert is_right(world, tier)
    assert (answers(tier).samples, answers(tier).whole) == (8, True)


@pytest.mark.parametrize("count", [2, FEW + 2])
def test_a_newcomer_that_is_removed_while_it_is_read_is_in_no_sum(
    world: World, tier: ClosedFormTier, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    new = world.add(count)

    def removed() -> None:
        world.erase(new[0].id)
        assert answers(tier).whole  # the head does not know it

    while_reading(world, monkeypatch, new[-1], removed)
    monkeypatch.setattr(tier, "start", None)
    tier.keep()
    assert is_right(world, tier)
    world.add(1)
    erase_first(world)
    tier.keep()
    assert is_right(world, tier)
    assert findings(world) == []


def test_one_that_came_and_went_costs_no_solve_and_is_not_missed(
    world: World, tier: ClosedFormTier, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, solved = answers(tier), counted(monkeypatch)
    gone, stays = world.add(2)
    world.erase(gone.id)
    assert answers(tier).head is before.head
    monkeypatch.setattr(tier, "start", None)
    erase_first(world)
    assert answers(tier).samples == 7
    world.add(1)
    tier.keep()
    assert solved == [9]
    assert is_right(world, tier)
    world.erase(stays.id)
    assert is_right(world, tier)


def test_additions_that_have_come_together_are_solved_together(
    world: World, tier: ClosedFormTier, monkeypatch: pytest.MonkeyPatch
) -> None:
    solved = counted(monkeypatch)
    for _ in range(5):
        world.add(1)
        assert answers(tier).samples == 8
    tier.keep()
    assert solved == [13]
    assert is_right(world, tier)


def test_nothing_is_reported_while_another_thread_reads_what_is_removed(
    world: World, tier: ClosedFormTier, monkeypatch: pytest.MonkeyPatch
) -> None:
    (new,) = world.add(1)
    reads, may_end = threading.Event(), threading.Event()

    def hang() -> None:
        reads.set()
        assert may_end.wait(60)

    while_reading(world, monkeypatch, new, hang)
    reader = threading.Thread(target=tier.summary)
    reader.start()
    assert reads.wait(60)
    world.erase(new.id)
    assert answers(tier).marks.removals == 1
    reporter = threading.Thread(target=tier.report)
    reporter.start()
    reporter.join(0.2)
    world.reconcile()
    assert is_stored(world, new)
    may_end.set()
    reader.join(60)
    reporter.join(60)
    world.reconcile()
    assert not is_stored(world, new)
    assert is_right(world, tier)


def test_a_tier_that_starts_while_it_is_asked_is_not_taken_for_up_to_date(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.add(8)
    tier = ClosedFormTier(world.context, name="one")
    subtract = tier._subtract

    def started_meanwhile() -> object:
        found = subtract()
        tier.start()
        return found

    monkeypatch.setattr(tier, "_subtract", started_meanwhile)
    assert tier.current(Marks(8, 1)) is None  # of a removal that the start has not read yet


# ------------------------------------------------------------------------------------------------------- in a long run


def test_killed_between_the_quick_and_the_whole_head_its_successor_is_right_and_the_erasure_completes(
    world: World, tier: ClosedFormTier, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = first(world)
    asked = world.erase(victim.id)
    assert not answers(tier).whole

    def die(*_given: object, **_how: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(tier_module, "solve", die)
        with pytest.raises(Killed):
            tier.keep()
    world.reconcile()
    assert is_stored(world, victim)  # it has not said that it is done
    successor = start(world, "one")
    assert (answers(successor).samples, answers(successor).whole) == (7, True)
    assert is_right(world, successor)
    world.settle()
    assert not is_stored(world, victim)
    assert world.erasure(asked.id).state == "completed"
    assert findings(world) == []


def test_deletions_in_a_row_are_answered_without_by_the_quick_head_every_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.take_in([world.new_sample(LABELS[i % 3]) for i in range(30)])
    tier = start(world)
    monkeypatch.setattr(tier, "start", None)
    for left in reversed(range(1, 30)):
        erase_first(world)
        solved = answers(tier)
        assert (solved.samples, solved.whole) == (left, False)
        assert solved.head is not None
        assert set(solved.head.labels) == {sample.label for sample in world.survivors.values()}
    tier.keep()
    assert is_right(world, tier)
    assert answers(tier).whole
    assert live_replicas(world)["one"].marks == Marks(30, 29)


def test_the_updater_rests_between_solves_unless_a_sample_is_removed(
    world: World, tier: ClosedFormTier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(updater_module, "REST", 1e9)
    monkeypatch.setattr(updater_module, "LONGEST_REST", 3600.0)
    solved = counted(monkeypatch)
    updater = ClosedFormUpdater(tier, 3600)
    updater.start()
    try:
        accepted(world.add(1)[0])
        updater.wake()
        until(lambda: solved == [9], what="the first update")
        for _ in range(3):
            world.add(1)
            updater.wake()
        time.sleep(0.1)
        assert solved == [9]
        erase_first(world)
        updater.wake()
        until(lambda: solved == [9, 11], what="an update with all that have come")
    finally:
        updater.stop()
