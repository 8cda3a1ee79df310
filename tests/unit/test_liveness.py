"""When a worker is deaf, and when it is not."""

import pytest

from workers.liveness import Liveness


class Scene:
    """A worker asked every second, with a broker that takes rings or does not."""

    def __init__(self) -> None:
        self.now = 0.0
        self.takes = True
        self.rung = 0
        self.liveness = Liveness(60, ring=self._ring, clock=lambda: self.now)

    def _ring(self) -> bool:
        self.rung += 1
        return self.takes

    def deaf_after(self, seconds: int, *, work_waits: bool = True) -> float | None:
        """Seconds until it is deaf; None if it is not within those."""
        started = self.now
        for _ in range(seconds):
            if self.liveness.is_stalled(work_waits=work_waits):
                return self.now - started
            self.now += 1
        return None


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_an_idle_worker_that_hears_nothing_of_waiting_work_is_deaf_after_that_time(scene: Scene) -> None:
    assert scene.deaf_after(100) == 60


def test_half_the_time_it_waits_quietly_then_it_rings_itself(scene: Scene) -> None:
    assert scene.deaf_after(30) is None
    assert scene.rung == 0
    scene.deaf_after(10)
    assert scene.rung == 10


def test_without_work_nobody_is_deaf_and_nobody_rings(scene: Scene) -> None:
    assert scene.deaf_after(1000, work_waits=False) is None
    assert scene.rung == 0


def test_a_broker_that_takes_no_ring_is_not_deafness(scene: Scene) -> None:
    scene.takes = False
    assert scene.deaf_after(1000) is None


def test_after_the_broker_is_back_there_is_time_to_hear_it(scene: Scene) -> None:
    scene.takes = False
    scene.deaf_after(1000)
    scene.takes = True
    assert scene.deaf_after(1000) == 30


def test_a_broker_that_comes_and_goes_is_not_deafness(scene: Scene) -> None:
    for second in range(1000):
        scene.takes = second % 20 != 0
        assert scene.deaf_after(1) is None


def test_a_bell_begins_it_all_anew(scene: Scene) -> None:
    assert scene.deaf_after(59) is None
    scene.liveness.heard()
    scene.liveness.done()
    assert scene.deaf_after(100) == 60


def test_a_long_training_is_no_deafness(scene: Scene) -> None:
    scene.liveness.heard()
    assert scene.deaf_after(5000) is None
    scene.liveness.done()
    assert scene.deaf_after(100) == 60


def test_a_ring_that_is_heard_while_it_is_rung_counts(scene: Scene) -> None:
    def ring() -> bool:
        scene.liveness.heard()
        scene.liveness.done()
        return True

    scene.liveness = Liveness(60, ring=ring, clock=lambda: scene.now)
    assert scene.deaf_after(1000) is None
