"""A short round of `make bench BENCH_ARGS=soak`: all that came is deleted, on the production shape, none left over."""

import pytest

from benchmarks import soak

pytestmark = [pytest.mark.thorough, pytest.mark.postgres, pytest.mark.redis]


def test_all_that_came_is_forgotten_and_the_audit_is_clean() -> None:
    figures = soak.measure(60)
    assert figures["erasures"] == {"completed": 60}
    assert figures["audit_exit"] == 0
    assert figures["restarts"] == {}
    assert set(figures["growth"]) == {"api-0", "api-1", "worker-0", "worker-1"}
