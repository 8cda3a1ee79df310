"""When a worker has stalled, and when it has not."""

import pytest

from workers.liveness import Liveness


class Scene:
    """A worker asked every second, with a broker that takes notifications or does not."""

    def __init__(self) -> None:
        self.now = 0.0
        self.takes = True
        self.sent = 0
        self.liveness = Liveness(60, notify=self._notify, clock=lambda: self.now)

    def _notify(self) -> bool:
        self.sent += 1
        return self.takes

    def stalled_after(self, seconds: int, *, work_waits: bool = True) -> float | None:
        """Seconds until it counts as stalled; None if it does not within those."""
        started = self.now
        for _ in range(seconds):
            if self.liveness.is_stalled(work_waits=work_waits):
                return self.now - started
            self.now += 1
        return None


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_an_idle_worker_that_hears_nothing_of_waiting_work_is_stalled_after_that_time(scene: Scene) -> None:
    assert scene.stalled_after(100) == 60


def test_half_the_time_it_waits_quietly_then_it_notifies_itself(scene: Scene) -> None:
    assert scene.stalled_after(30) is None
    assert scene.sent == 0
    scene.stalled_after(10)
    assert scene.sent == 10


def test_without_work_no_worker_stalls_and_nothing_is_sent(scene: Scene) -> None:
    assert scene.stalled_after(1000, work_waits=False) is None
    assert scene.sent == 0


def test_a_broker_that_takes_nothing_stalls_no_worker(scene: Scene) -> None:
    scene.takes = False
    assert scene.stalled_after(1000) is None


def test_after_the_broker_is_back_there_is_time_to_hear_it(scene: Scene) -> None:
    scene.takes = False
    scene.stalled_after(1000)
    scene.takes = True
    assert scene.stalled_after(1000) == 30


def test_a_broker_that_comes_and_goes_stalls_no_worker(scene: Scene) -> None:
    for second in range(1000):
        scene.takes = second % 20 != 0
        assert scene.stalled_after(1) is None


def test_a_notification_begins_it_all_anew(scene: Scene) -> None:
    assert scene.stalled_after(59) is None
    scene.liveness.heard()
    scene.liveness.done()
    assert scene.stalled_after(100) == 60


def test_a_long_training_is_no_stall(scene: Scene) -> None:
    scene.liveness.heard()
    assert scene.stalled_after(5000) is None
    scene.liveness.done()
    assert scene.stalled_after(100) == 60


def test_a_notification_that_arrives_while_it_is_sent_counts(scene: Scene) -> None:
    def notify() -> bool:
        scene.liveness.heard()
        scene.liveness.done()
        return True

    scene.liveness = Liveness(60, notify=notify, clock=lambda: scene.now)
    assert scene.stalled_after(1000) is None
