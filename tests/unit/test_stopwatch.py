"""The time that a stopwatch has run."""

from service.serving.stopwatch import Stopwatch


def test_it_counts_the_time_that_it_runs_and_no_other():
    now = [10.0]
    watch = Stopwatch(lambda: now[0])
    found = []
    for seconds, running in ((1, True), (2, True), (4, False), (8, False), (16, True), (32, True)):
        watch.run(running)
        now[0] += seconds
        found.append(watch.seconds)
    assert found == [1, 3, 3, 3, 19, 51]
