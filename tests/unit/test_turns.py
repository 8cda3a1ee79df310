"""Callers take turns, requests of one caller take turns, and no caller has every decoder."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from service.decoding.turns import SHARE_BYTES, Piece, Request, Turns


def request(caller: str, files: int, *, share: int = 1, size: int = 10) -> Request[str]:
    return Request([bytes(size)] * files, caller, share, lambda part: None)


def queue(*requests: Request[str], most: int = 100) -> Turns[str]:
    turns: Turns[str] = Turns(most=most)
    for one in requests:
        assert turns.add(one)
    return turns


def order(turns: Turns[str], count: int) -> list[tuple[str, list[int]]]:
    """What is handed out next, while everything is soon done."""
    found = []
    for _ in range(count):
        piece = take(turns)
        found.append((piece.request.caller, piece.places))
        turns.put_back(piece)
    return found


def take(turns: Turns[str]) -> Piece[str]:
    piece = turns.take()
    assert piece is not None
    return piece


def test_one_picture_does_not_wait_for_the_many_of_another_caller() -> None:
    turns = queue(request("many", 64), request("one", 1))
    assert order(turns, 4) == [("many", [0]), ("one", [0]), ("many", [1]), ("many", [2])]


def test_a_caller_of_many_requests_has_no_more_turns_than_another() -> None:
    turns = queue(*(request("many", 2) for _ in range(9)), request("other", 3))
    callers = [caller for caller, _ in order(turns, 6)]
    assert callers == ["many", "other"] * 3


def test_requests_of_one_caller_take_turns() -> None:
    turns = queue(request("me", 3), request("me", 1))
    assert [places for _, places in order(turns, 4)] == [[0], [0], [1], [2]]


def test_a_caller_who_holds_all_it_may_waits_for_others() -> None:
    turns = queue(request("slow", 9), most=2)
    first, _ = take(turns), take(turns)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(turns.take)
        turns.add(request("small", 1))
        piece = waiting.result(30)
        assert piece is not None
        assert piece.request.caller == "small"
        waiting = pool.submit(turns.take)
        turns.put_back(first)
        piece = waiting.result(30)
        assert piece is not None
        assert (piece.request.caller, piece.places) == ("slow", [2])


def test_small_files_are_handed_out_together_and_large_ones_alone() -> None:
    assert order(queue(request("me", 5, share=2)), 3) == [("me", [0, 1]), ("me", [2, 3]), ("me", [4])]
    half = SHARE_BYTES // 2
    assert order(queue(request("me", 5, share=16, size=half)), 3) == [("me", [0, 1]), ("me", [2, 3]), ("me", [4])]
    assert order(queue(request("me", 2, share=16, size=SHARE_BYTES + 1)), 2) == [("me", [0]), ("me", [1])]


def test_what_is_put_back_is_what_comes_next() -> None:
    turns = queue(request("me", 4, share=3))
    piece = take(turns)
    assert piece.places == [0, 1, 2]
    turns.put_back(piece, [1, 2])
    assert order(turns, 1) == [("me", [1, 2, 3])]
    last = queue(request("me", 1))
    piece = take(last)
    last.put_back(piece, [0])  # nothing of it was waiting any more
    assert order(last, 1) == [("me", [0])]


def test_what_nobody_waits_for_is_not_handed_out() -> None:
    gone, other = request("me", 9), request("me", 1)
    turns = queue(gone, other)
    piece = take(turns)
    assert piece.request is gone
    turns.finish(gone)
    turns.put_back(piece, [0])
    assert take(turns).request is other


def test_a_closed_queue_hands_out_nothing_and_tells_all_who_wait() -> None:
    told: list[object] = []
    turns: Turns[str] = Turns(most=1)
    waiting = Request([b"", b""], "me", 1, told.append)
    finished = Request([b""], "me", 1, lambda part: pytest.fail("told"))
    turns.add(waiting)
    turns.add(finished)
    turns.finish(finished)
    take(turns)  # in a decoder's hands: its request waits all the same
    turns.close()
    assert told == [None]
    assert turns.take() is None
    assert not turns.add(request("late", 1))
    assert turns.wait(60)
