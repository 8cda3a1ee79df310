"""Callers take turns, and one caller's items keep their order."""

from collections import Counter
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from service.fair_queue import FairQueue


def queue(items: Iterable[str]) -> FairQueue[str]:
    """`a1` is an item of the caller `a`."""
    found: FairQueue[str] = FairQueue()
    for item in items:
        found.add(item[0], item)
    return found


def taken(queue: FairQueue[str], most: int = 1_000) -> list[str]:
    found = []
    while len(found) < most and (one := queue.take()):
        found.append(one[1])
    return found


def test_one_item_does_not_wait_for_the_many_of_another_caller() -> None:
    many = [f"a{number}" for number in range(256)]
    waiting = queue([*many, "b0"])
    assert taken(waiting, 3) == ["a0", "b0", "a1"]
    assert len(waiting) == 254
    assert taken(waiting) == many[2:]
    assert not waiting
    assert waiting.take() is None


def test_who_comes_back_is_behind_who_waits() -> None:
    waiting = queue(["a0", "b0", "c0"])
    assert taken(waiting, 1) == ["a0"]
    waiting.add("a", "a1")
    assert taken(waiting) == ["b0", "c0", "a1"]


def test_who_may_not_is_passed_over_and_keeps_its_turn() -> None:
    waiting = queue(["a0", "a1", "b0"])
    assert waiting.take(lambda caller: caller != "a") == ("b", "b0")
    assert waiting.take(lambda caller: caller != "a") is None
    assert taken(waiting) == ["a0", "a1"]


def test_what_is_discarded_is_never_taken() -> None:
    waiting = queue(["a0", "a1", "b0"])
    for caller, item in (("a", "a0"), ("b", "b0"), ("b", "b0"), ("c", "c0")):
        waiting.discard(caller, item)
    assert len(waiting) == 1
    assert list(waiting.firsts()) == ["a1"]
    assert taken(waiting) == ["a1"]


@given(st.lists(st.sampled_from("abcd"), max_size=30), st.integers(0, 40), st.integers(0, 40))
def test_what_is_put_back_is_taken_as_if_it_had_not_been(callers: list[str], before: int, tried: int) -> None:
    counts: Counter[str] = Counter()
    items = [f"{caller}{counts.update(caller) or counts[caller]}" for caller in callers]
    plain, other = queue(items), queue(items)
    taken(other, before)
    pairs = [one for _ in range(tried) if (one := other.take())]
    other.put_back(pairs)
    assert taken(other) == taken(plain)[before:]
    assert len(other) == 0
