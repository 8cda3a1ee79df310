"""A short round of `make bench BENCH_ARGS=soak`: all that came is deleted, on the production shape, none left over."""

import json
import subprocess
import sys

import pytest

from tests.integration.harness import REPOSITORY, environment

pytestmark = [pytest.mark.thorough, pytest.mark.postgres, pytest.mark.redis]

SOAK = "import json; from benchmarks import soak; print(json.dumps(soak.measure(60)))"


def test_all_that_came_is_forgotten_and_the_audit_is_clean() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SOAK],
        cwd=REPOSITORY,
        env=environment({}),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["erasures"] == {"completed": 60}
    assert figures["audit_exit"] == 0
    assert figures["restarts"] == {}
    assert set(figures["growth"]) == {"api-0", "api-1", "worker-0", "worker-1"}
