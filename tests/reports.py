"""Quality reports of replicas, and samples to report on, for tests."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Event
from typing import NamedTuple

import pytest

from models.embedding import Descriptor
from service.core.intake import NewSample
from service.registry.feed import Added
from service.registry.records import Sample
from service.serving.closed_form import ClosedFormTier
from service.serving.held_out import HeldOut
from service.serving.quality import Measured, Quality
from tests.replicas import is_stored
from tests.world import World, accepted

LABELS = ["cat", "dog", "emu"]
MOMENT = 0.3  # seconds: enough for another thread to do what it can, if nothing blocks it


def quality_of(tier: ClosedFormTier) -> Quality:
    """Of a replica, as the application puts it together."""
    found = Quality(tier._context, tier)
    tier.before_report = found.forget
    return found


def held_out_of(tier: ClosedFormTier) -> HeldOut:
    """The measuring with the evaluation set, of a replica, as the application puts it together."""
    found = HeldOut(tier._context, tier)
    tier.let_go = found.let_go
    return found


def give(world: World, count: int, seed: int = 0) -> list[NewSample]:
    """So many samples of three labels."""
    chance = random.Random(seed)
    given = [world.new_sample(chance.choice(LABELS)) for _ in range(count)]
    for found in world.take_in(given):
        accepted(found)
    return given


def is_right(world: World, measured: Measured | None) -> bool:
    """Whether it is the report of all survivors, as computed from nothing."""
    assert measured is not None
    assert measured.report.samples == len(world.survivors)
    return (measured.digest, measured.report) == (world.closed_form_digest(), world.quality_report())


def while_reading(
    monkeypatch: pytest.MonkeyPatch, tier: ClosedFormTier, what: Callable[[], object], *, after: int = 0
) -> None:
    """Do something, once, when the descriptors of a portion of samples are about to be read."""
    read, left = tier.descriptors, [after]

    def hooked(of: Sequence[Added]) -> Iterator[tuple[Descriptor, list[str]]]:
        if left and left[0] == 0:
            left.pop()
            what()
        elif left:
            left[0] -= 1
        return read(of)

    monkeypatch.setattr(tier, "descriptors", hooked)


class LetGo(NamedTuple):
    """What was seen of an erasure that came while a report was being computed."""

    computed: object  # the report, which nothing of may be kept
    had_waited: bool  # the replica's report of the erasure, for the computation
    was_stored: bool  # the erased sample's object, meanwhile


def erase_while_computing(
    world: World, tier: ClosedFormTier, compute: Callable[[], object], victim: Sample, patch: pytest.MonkeyPatch
) -> LetGo:
    """Erase a sample while `compute` reads descriptors, and have the replica report meanwhile."""
    reached, go_on = Event(), Event()
    while_reading(patch, tier, lambda: (reached.set(), go_on.wait(60)))
    with ThreadPoolExecutor(2) as threads:
        computed = threads.submit(compute)
        assert reached.wait(60)
        world.erase(victim.id)
        kept = threads.submit(tier.keep)
        with suppress(TimeoutError):
            kept.exception(MOMENT)
        world.reconcile()
        had_waited, was_stored = not kept.done(), is_stored(world, victim)
        go_on.set()
        found = LetGo(computed.result(60), had_waited, was_stored)
        kept.result(60)
    return found
