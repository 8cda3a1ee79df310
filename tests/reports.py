"""Quality reports of replicas, and samples to report on, for tests."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

import pytest

from models.embedding import Descriptor
from service.core.intake import NewSample
from service.registry.feed import Added
from service.serving.closed_form import ClosedFormTier
from service.serving.held_out import HeldOut
from service.serving.quality import Measured, Quality
from tests.world import World, accepted

LABELS = ["cat", "dog", "emu"]


def quality_of(tier: ClosedFormTier) -> Quality:
    """Of a replica, as the application puts it together."""
    found = Quality(tier._context, tier)
    tier.before_report = found.forget
    return found


def held_out_of(tier: ClosedFormTier) -> HeldOut:
    """The measuring with the evaluation set, of a replica, as the application puts it together."""
    found = HeldOut(tier._context, tier)
    tier.before_report = found.let_go
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
