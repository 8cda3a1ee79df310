"""Several requests under way at once, results in order."""

import threading
import time
from collections.abc import Iterator

import pytest

from service.cli.concurrency import in_flight


def nobody() -> None:
    raise AssertionError("nobody gave up")


def test_results_come_in_order_whatever_ends_first() -> None:
    def work(number: int) -> int:
        time.sleep(0.02 if number % 3 == 0 else 0.0)
        return number

    assert list(in_flight(work, range(20), most=4, give_up=nobody)) == list(range(20))
    assert list(in_flight(work, [], most=4, give_up=nobody)) == []


@pytest.mark.parametrize("most", [1, 3])
def test_so_many_are_under_way_at_once_and_no_more(most: int) -> None:
    lock, now, peak, meet = threading.Lock(), [0], [0], threading.Barrier(most)

    def work(number: int) -> int:
        with lock:
            now[0] += 1
            peak[0] = max(peak[0], now[0])
        meet.wait(10)  # breaks unless so many are under way together
        with lock:
            now[0] -= 1
        return number

    assert list(in_flight(work, range(6), most=most, give_up=nobody)) == list(range(6))
    assert peak == [most]


def test_with_one_at_a_time_each_begins_after_the_one_before_has_ended() -> None:
    events: list[str] = []

    def work(number: int) -> int:
        events.append(f"begin {number}")
        events.append(f"end {number}")
        return number

    list(in_flight(work, range(3), most=1, give_up=nobody))
    assert events == [f"{what} {number}" for number in range(3) for what in ("begin", "end")]


def test_a_failure_is_raised_in_its_place_and_what_had_not_begun_never_does() -> None:
    begun: list[int] = []
    gone = threading.Event()

    def work(number: int) -> int:
        begun.append(number)
        if number == 1:
            raise ZeroDivisionError
        if number > 1:
            assert gone.wait(10)  # told that nobody waits any more
        return number

    results = in_flight(work, range(100), most=2, give_up=gone.set)
    assert next(results) == 0
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert len(begun) <= 3


def test_an_interrupt_while_items_are_looked_at_ends_it() -> None:
    told: list[bool] = []

    def items() -> Iterator[int]:
        yield 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(in_flight(lambda number: number, items(), most=2, give_up=lambda: told.append(True)))
    assert told == [True]
