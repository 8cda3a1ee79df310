"""A scrape while the registry hangs, fails or refuses: it is over in time, and lets in whom it should."""

import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from service.api.metrics import Collector, Patient
from service.api.routes import metrics
from service.api.routes.metrics import Gate
from service.clock import system_clock
from service.errors import Forbidden, Unauthorized, Unavailable
from service.registry.records import ApiKey

SOON = 0.05  # seconds


def test_an_answer_is_kept_for_a_moment() -> None:
    asked: list[int] = []

    def ask() -> int:
        asked.append(len(asked))
        return asked[-1]

    patient = Patient(ask, kept=SOON)
    assert [patient.answer() for _ in range(3)] == [0, 0, 0]
    time.sleep(2 * SOON)
    assert patient.answer() == 1


def test_a_failure_is_raised_and_not_kept() -> None:
    answers = iter([ValueError("away"), 7])

    def ask() -> Any:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    patient = Patient(ask)
    with pytest.raises(ValueError, match="away"):
        patient.answer()
    assert patient.answer() == 7


def test_a_question_that_hangs_is_not_asked_again() -> None:
    gate, asked = threading.Event(), []

    def ask() -> str:
        asked.append(1)
        assert gate.wait(10)
        return "at last"

    patient = Patient(ask, seconds=SOON, kept=0.0)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            patient.answer()
    gate.set()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            assert patient.answer() == "at last"
            break
        except TimeoutError:
            continue
    assert len(asked) <= 2


def test_what_this_process_knows_by_itself_is_told_while_the_registry_is_away() -> None:
    def away() -> Any:
        raise OSError("no server there")

    queue: Any = SimpleNamespace(depth=3, max_queue=9, refused=2, late=1)
    registry = CollectorRegistry()
    registry.register(Collector(away, lambda: 5, queue))
    text = generate_latest(registry).decode()
    assert "oubli_registry_up 0.0" in text
    assert "oubli_queue_images 3.0" in text
    assert "oubli_queue_refused_images_total 2.0" in text
    assert "oubli_queue_late_images_total 1.0" in text
    assert "oubli_samples" not in text
    assert "oubli_epoch_lag" not in text


# ------------------------------------------------------------------------------------------------- who is let in

Check = Callable[..., None]


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception | None], None]:
    """What the registry says of every key."""

    def say(error: Exception | None) -> None:
        def check(*_: object) -> ApiKey:
            if error is not None:
                raise error
            return ApiKey("k", "", ("read",), created_at=system_clock(), last_used_at=system_clock())

        monkeypatch.setattr(metrics.access, "check", check)

    return say


def scrape(gate: Gate, key: str) -> None:
    running: Any = SimpleNamespace(context=SimpleNamespace(registry=None))
    gate.check(running, key)


def test_who_was_let_in_is_let_in_while_nobody_can_be_asked(answers: Callable[[Exception | None], None]) -> None:
    gate = Gate()
    answers(None)
    scrape(gate, "mine")
    answers(OSError("away"))
    scrape(gate, "mine")
    with pytest.raises(Unavailable):
        scrape(gate, "another")
    answers(Unauthorized("revoked"))
    with pytest.raises(Unauthorized):
        scrape(gate, "mine")
    answers(OSError("away"))
    with pytest.raises(Unavailable):  # it is no longer remembered
        scrape(gate, "mine")


def test_a_key_without_the_scope_is_never_let_in(answers: Callable[[Exception | None], None]) -> None:
    gate = Gate()
    answers(Forbidden("lacks read"))
    with pytest.raises(Forbidden):
        scrape(gate, "mine")
    answers(OSError("away"))
    with pytest.raises(Unavailable):
        scrape(gate, "mine")


def test_keys_are_trusted_for_an_hour_and_not_without_number(
    answers: Callable[[Exception | None], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    answers(None)
    for number in range(metrics.MOST_TRUSTED + 5):
        scrape(gate, f"key {number}")
    assert len(gate._admitted) == metrics.MOST_TRUSTED
    assert not any("key" in known for known in gate._admitted)  # digests
    answers(OSError("away"))
    last = f"key {metrics.MOST_TRUSTED + 4}"
    scrape(gate, last)
    now = time.monotonic()
    monkeypatch.setattr(metrics.time, "monotonic", lambda: now + metrics.TRUSTED_SECONDS)
    with pytest.raises(Unavailable):
        scrape(gate, last)
