"""`make test-times`: what each test file protects, and what it cost in the last run of it.

As a part of every run (tests/conftest.py) it adds up the seconds of each file, set-up and clearing away included, and
keeps them in pytest's cache. As a command it prints them, dearest first, each with the first sentence of its file.
"""

import ast
import json
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
KEPT = "oubli/times"  # in pytest's cache: {file: [seconds, tests]}


class Recorder:
    """Adds up what pytest reports; of several processes, only the one that they report to keeps it."""

    def __init__(self, config: pytest.Config) -> None:
        self._cache = getattr(config, "cache", None)  # `-p no:cacheprovider`, as for mutants, has none
        self._seconds: Counter[str] = Counter()
        self._tests: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        file = report.location[0]
        self._seconds[file] += report.duration
        self._tests[file] += report.when == "call"

    def pytest_sessionfinish(self) -> None:
        if self._cache is None:
            return
        earlier = self._cache.get(KEPT, {})
        now = {file: [round(seconds, 2), self._tests[file]] for file, seconds in self._seconds.items()}
        self._cache.set(KEPT, {**earlier, **now})


def promise(file: Path) -> str:
    """The first sentence of a module's docstring."""
    said = ast.get_docstring(ast.parse(file.read_text())) or ""
    return " ".join(said.split("\n\n")[0].split())


def main() -> None:
    """Print the table."""
    path = ROOT / ".pytest_cache" / "v" / KEPT
    if not path.is_file():
        raise SystemExit("Nothing has been timed yet. Run `make test` or `make test-all` first.")
    kept = {file: cost for file, cost in json.loads(path.read_text()).items() if (ROOT / file).is_file()}
    table = Table("seconds", "tests", "file", "protects")
    for column in table.columns[:2]:
        column.justify = "right"
    for file, (seconds, tests) in sorted(kept.items(), key=lambda item: -item[1][0]):
        table.add_row(f"{seconds:,.1f}", str(tests), file.removeprefix("tests/"), promise(ROOT / file))
    table.add_section()
    total, count = (sum(cost[place] for cost in kept.values()) for place in (0, 1))
    table.add_row(f"{total:,.1f}", str(count), "all, one after the other", "")
    Console().print(table)


if __name__ == "__main__":
    main()
