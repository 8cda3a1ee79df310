"""`oubli evaluate`, as people call it: a quick look with the real backbone, and what is done is done once."""

import json
import subprocess
import sys

import pytest

from service.evaluation.methods import METHODS

pytestmark = pytest.mark.thorough


def evaluate(tmp_path, *arguments):
    command = [sys.executable, "-m", "service.cli", "evaluate", "--out", str(tmp_path / "out"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=tmp_path, check=False)


@pytest.mark.real
@pytest.mark.timeout(660)
def test_a_quick_look_at_every_method(tmp_path):
    done = evaluate(tmp_path, "--quick")
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "out" / "figures.json").read_text())
    rows = {row["method"]: row for row in content["rows"]}
    assert set(rows) == set(METHODS)
    assert all(row["exact"] is True for row in rows.values())
    assert rows["ridge"]["accuracy"][0] > 0.5
    assert all(name in done.stdout for name in ("ridge", "table.md"))
    assert content["about"]["environment"]["torch"]


def test_what_is_done_is_not_done_again(tmp_path):
    arguments = ("--quick", "--backbone", "tiny", "--method", "linear", "--method", "ridge", "--jobs", "1")
    assert evaluate(tmp_path, *arguments).returncode == 0
    runs = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "runs").iterdir()}
    assert evaluate(tmp_path, *arguments).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "runs").iterdir()} == runs
