"""When the answers to a batch are still valid, and which of its votes are: told by values alone."""

from types import SimpleNamespace
from typing import Any

import pytest

from models.bank import BankRow
from service.errors import Invalid
from service.serving.votes import Moment, Round, Vote

LAYOUT, OTHER_LAYOUT = object(), object()
ROW = BankRow("key", 0, ("cat",), 10)
REFILLED = BankRow("key", 0, ("cat",), 10)
VOTES = (Vote("a", degraded=False, row=ROW, is_computed=True), Vote("b", degraded=True), Invalid("no direction"))


def moment(*rows: BankRow, layout: object = LAYOUT, removals: int | None = 3) -> Any:
    snapshot: Any = SimpleNamespace(layout=layout, serves=lambda row: any(row is one for one in rows))
    solved: Any = SimpleNamespace(marks=SimpleNamespace(removals=removals)) if removals is not None else None
    return Moment(snapshot, solved)


BEFORE = Round(moment(ROW), VOTES, answers=())


def test_answers_are_valid_while_nothing_is_withdrawn() -> None:
    assert BEFORE.is_valid(moment(ROW))
    assert BEFORE.valid_votes(moment(ROW)) == list(VOTES)


@pytest.mark.parametrize("rows", [(), (REFILLED,)], ids=["dropped", "filled again"])
def test_a_vote_is_computed_again_once_its_row_is_another(rows: tuple[BankRow, ...]) -> None:
    assert not BEFORE.is_valid(moment(*rows))
    assert BEFORE.valid_votes(moment(*rows)) == [None, *VOTES[1:]]


def test_votes_stay_valid_beside_a_closed_form_head_that_has_taken_a_sample_out() -> None:
    assert not BEFORE.is_valid(moment(ROW, removals=4))
    assert BEFORE.valid_votes(moment(ROW, removals=4)) == list(VOTES)


@pytest.mark.parametrize(
    "now", [moment(ROW, layout=OTHER_LAYOUT), moment(ROW, removals=None)], ids=["another layout", "no closed form"]
)
def test_all_is_computed_again_where_images_are_routed_otherwise(now: Any) -> None:
    assert not BEFORE.is_valid(now)
    assert BEFORE.valid_votes(now) == [None, None, None]
