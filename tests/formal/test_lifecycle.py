from dataclasses import replace

import pytest

from tests.formal import __main__ as command
from tests.formal.books import COMPLETED, FAILED, WITHDRAWN, Safeguard, Scope
from tests.formal.explore import Counterexample, Promise, explore

ONE, TWO, ARRIVAL = command.SCOPES

EVERYTHING = {
    *("add", "erase", "ask"),
    *("plan", "destroy", "advance erasures", "notify", "lose a message", "deliver a message twice"),
    *("claim", "list members and train", "publish", "give up", "renew", "fail", "be interrupted"),
    *("die", "die after storing", "start the dead worker again of", "let the lease expire of"),
    *("discard the damaged artifact of", "answer", "compute again"),
    *("destroy all but what no erasure asked for", "destroy all but an erasure's"),
    *(WITHDRAWN, COMPLETED, FAILED),
}


def break_in(scope: Scope, safeguard: Safeguard) -> Counterexample:
    found = explore(replace(scope, without=frozenset({safeguard}))).counterexample
    assert found is not None
    return found


@pytest.mark.parametrize("scope", [TWO, ARRIVAL], ids=["two", "arrival"])
def test_no_promise_is_broken(scope: Scope) -> None:
    assert explore(scope).counterexample is None


def test_no_promise_is_broken_and_everything_does_happen() -> None:
    report = explore(ONE)
    assert report.counterexample is None
    assert report.seen == EVERYTHING


@pytest.mark.parametrize(
    ("safeguard", "promise"),
    [
        (Safeguard.SWAP, Promise.ONE_PUBLISHER),
        (Safeguard.FENCING, Promise.FORGOTTEN),
        (Safeguard.WITHDRAWAL, Promise.FORGOTTEN),
        (Safeguard.EPOCH, Promise.CLEAN_ANSWERS),
        (Safeguard.RECHECK, Promise.CLEAN_ANSWERS),
        (Safeguard.REPLACED, Promise.OWED_OR_DONE),
        (Safeguard.DESTRUCTION, Promise.OWED_OR_DONE),
        (Safeguard.OLDER, Promise.OWED_OR_DONE),
        (Safeguard.APART, Promise.NO_TRAINING),
    ],
)
@pytest.mark.thorough
def test_without_a_safeguard_a_promise_is_broken(safeguard: Safeguard, promise: Promise) -> None:
    assert promise in break_in(ONE, safeguard).broken


@pytest.mark.thorough
def test_fencing_is_needed_though_no_picture_comes_twice() -> None:
    assert break_in(TWO, Safeguard.FENCING).broken == (Promise.OWED_OR_DONE,)


def test_without_a_timer_one_lost_message_is_enough() -> None:
    found = break_in(replace(ONE, answers=False, erasures=1), Safeguard.TIMER)
    assert found.broken == (Promise.ENDS,)
    assert found.history == ("lose a message",)


# Known limit. An object may reach a slow store after its transaction has died with its connection.
@pytest.mark.thorough
def test_known_limit() -> None:
    assert break_in(ONE, Safeguard.CONNECTION).broken == (Promise.OWED_OR_DONE,)


def test_a_counterexample_is_the_shortest_history() -> None:
    assert break_in(ONE, Safeguard.DESTRUCTION).history == ("erase 0100", "plan", "advance erasures")


def test_the_command_says_what_was_found(capsys: pytest.CaptureFixture[str]) -> None:
    small = replace(ONE, erasures=1, answers=False, faults=1)
    assert command.main([small]) == 0
    assert capsys.readouterr().out.count("\n") == 1
    assert command.main([small, replace(small, without=frozenset({Safeguard.WITHDRAWAL}))]) == 1
    assert Promise.FORGOTTEN in capsys.readouterr().out
