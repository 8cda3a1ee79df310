"""Counters of events: trainings and their seconds, completed erasures and how long they took.

A counter is raised by the transaction that it counts, so it is right for any number of workers and restarts, and a
transaction that is rolled back has counted nothing. Only numbers are kept.

Raising locks a row until the commit. So it is the last lock of its transaction, and no counter is raised where an
erasure is accepted: that path waits for no other transaction's counting.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from service.registry.engine import ReadSession, WriteSession
from service.registry.statements import upsert
from service.registry.tables import CounterRow

INFINITE = "+Inf"
PLAIN = ""  # `le` of a counter that is no histogram


@dataclass(frozen=True)
class Histogram:
    """A counter by size: `bounds` are the upper bounds of its buckets, ascending; one more bucket has no bound."""

    name: str
    bounds: tuple[float, ...]


TRAINING = Histogram("training_seconds", (0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600))
COMPLETION = Histogram("time_to_complete_seconds", (1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 14400, 86400, 604800))
SAMPLE_EPOCHS = "training_sample_epochs"
FAILURES = "training_failures"


@dataclass(frozen=True)
class CounterValue:
    """The number of events, and the sum of their sizes."""

    count: int
    total: float


@dataclass(frozen=True)
class CounterValues:
    """All counters at one moment, by name and bucket."""

    rows: Mapping[tuple[str, str], CounterValue]

    def plain(self, name: str) -> CounterValue:
        """The value of a counter that is not a histogram."""
        return self.rows.get((name, PLAIN), CounterValue(0, 0.0))

    def buckets(self, histogram: Histogram) -> list[tuple[str, int]]:
        """(upper bound, number of events up to it), cumulative as in Prometheus.

        Recorded bounds of an earlier release stay, so no counted event moves to another bucket.
        """
        found = {le: counter.count for (name, le), counter in self.rows.items() if name == histogram.name}
        sizes = sorted({*map(_text, histogram.bounds), INFINITE, *found}, key=float)
        cumulative, counted = 0, []
        for le in sizes:
            cumulative += found.get(le, 0)
            counted.append((le, cumulative))
        return counted

    def count(self, histogram: Histogram) -> int:
        """The number of events."""
        return self.buckets(histogram)[-1][1]

    def total(self, histogram: Histogram) -> float:
        """The sum of the events' sizes."""
        return sum(counter.total for (name, _), counter in self.rows.items() if name == histogram.name)


def observe(session: WriteSession, histogram: Histogram, value: float) -> None:
    """Count an event of this size. The last step of its transaction."""
    raise_by(session, {(histogram.name, bucket(histogram, value)): CounterValue(1, max(value, 0.0))})


def add(session: WriteSession, name: str, amount: float = 1.0) -> None:
    """Count an event. The last step of its transaction."""
    raise_by(session, {(name, PLAIN): CounterValue(1, amount)})


def raise_by(session: WriteSession, amounts: Mapping[tuple[str, str], CounterValue]) -> None:
    """Raise several counters, in sorted order, as every transaction does."""
    for (name, le), more in sorted(amounts.items()):
        new = {"name": name, "le": le, "count": more.count, "total": more.total}
        raised = {"count": CounterRow.count + more.count, "total": CounterRow.total + more.total}
        upsert(session, CounterRow, new, key=["name", "le"], otherwise=raised)


def every(session: ReadSession) -> CounterValues:
    """All counters: a few dozen rows."""
    rows: Sequence[CounterRow] = session.execute(sa.select(CounterRow)).scalars().all()
    return CounterValues({(row.name, row.le): CounterValue(row.count, row.total) for row in rows})


def bucket(histogram: Histogram, value: float) -> str:
    """The upper bound of the bucket that a value belongs to."""
    place = bisect_left(histogram.bounds, value)
    return _text(histogram.bounds[place]) if place < len(histogram.bounds) else INFINITE


def _text(bound: float) -> str:
    return repr(float(bound))
