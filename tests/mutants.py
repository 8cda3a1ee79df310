"""`make mutants`: remove each safeguard in turn; some test must fail.

For every row of `tests.safeguards` the working tree is copied, the safeguard removed there, and the named tests run on
the copy. One that fails proves that more than good will holds the safeguard up. A mutant that no longer applies, cannot
be imported or fails no test fails the check. Before that, the same tests must pass on an untouched copy.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.safeguards import MUTANTS, ROOT, Mutant

PASSED, FAILED, STRANGE = 0, 1, 70  # exit statuses: pytest's own two, and ours for modules that are not the copy's
TEST_SECONDS = 120  # a mutant may well wait for ever

# The package is installed from the working tree, so a copy that was not first on the path would test the original.
_RUN = """
import sys, pytest
copy, strange, *arguments = sys.argv[1:]
status = pytest.main(arguments)
ours = ("migrations", "models", "service", "tests", "workers")
files = [getattr(m, "__file__", None) for name, m in sys.modules.items() if name.partition(".")[0] in ours]
elsewhere = [file for file in files if file and not file.startswith(copy + "/")]
print(*elsewhere, sep="\\n")
sys.exit(int(strange) if elsewhere else status)
"""


class Unsound(Exception):
    """The check itself cannot be made; the message says why."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", metavar="NAME", help="this mutant; may be given more than once")
    parser.add_argument("--list", action="store_true", help="say which mutants there are")
    asked = parser.parse_args()
    chosen = [mutant for mutant in MUTANTS if not asked.only or mutant.name in asked.only]
    if unknown := set(asked.only or ()) - {mutant.name for mutant in chosen}:
        parser.error(f"no such mutant: {', '.join(sorted(unknown))}")
    if asked.list:
        for mutant in chosen:
            print(f"{mutant.name:<20} {mutant.safeguard}")
        return
    sys.exit(_check(chosen))


def _check(mutants: Sequence[Mutant]) -> int:
    """Exit status 0 if every mutant is caught."""
    width = max(len(mutant.safeguard) for mutant in mutants)
    tests = list(dict.fromkeys(test for mutant in mutants for test in mutant.tests))
    started = time.monotonic()
    try:
        _pass_unmutated(tests)
        print(f"{'all in place':<{width}}  {len(tests)} tests pass  {time.monotonic() - started:.1f} s", flush=True)
    except Unsound as reason:
        print(reason)
        return 1
    missed = 0
    for mutant in mutants:
        started = time.monotonic()
        try:
            verdict = _catch(mutant)
        except (Unsound, ValueError) as reason:
            verdict = f"NOT CAUGHT: {reason}"
            missed += 1
        print(f"{mutant.safeguard:<{width}}  {verdict}  {time.monotonic() - started:.1f} s", flush=True)
    print(f"{len(mutants) - missed} of {len(mutants)} mutants caught")
    return 1 if missed else 0


def _pass_unmutated(tests: Sequence[str]) -> None:
    with _copy() as folder:
        status, output = _run(folder, tests)
    if status != PASSED:
        raise Unsound(f"{output}\nThe tests must pass before anything is removed (exit status {status}).")


def _catch(mutant: Mutant) -> str:
    """The first test that fails without the safeguard. Raises Unsound if none does, ValueError if it is not there."""
    source = mutant.source()
    with _copy() as folder:
        (folder / mutant.file).write_text(source)
        status, output = _run(folder, mutant.tests)
    if status == PASSED:
        raise Unsound("every test passes without it")
    caught = re.search(r"^(?:FAILED|ERROR) (tests/.*?)(?: - .*)?$", output, re.MULTILINE)
    if status != FAILED or caught is None:
        raise Unsound(f"pytest ended with exit status {status}\n{output}")
    return caught[1]


@contextmanager
def _copy() -> Iterator[Path]:
    """The working tree as it would be committed, in a folder of its own that goes with the block."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    with tempfile.TemporaryDirectory(prefix="oubli-mutant-") as parent:
        folder = Path(parent).resolve() / "copy"
        for name in filter(None, names):
            if (ROOT / name).is_file():  # a deletion may not be committed yet
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        yield folder


def _run(folder: Path, tests: Sequence[str]) -> tuple[int, str]:
    """Run tests on a copy: exit status and output. Raises Unsound if any other code than the copy's was imported."""
    options = ["-x", "-q", "--no-cov", "-p", "no:cacheprovider", "--timeout", str(TEST_SECONDS)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    environment |= {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    options += ["--basetemp", str(folder.parent / "tests")]
    command = [sys.executable, "-P", "-c", _RUN, str(folder), str(STRANGE), *options, *tests]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    output = done.stdout + done.stderr
    if done.returncode == STRANGE:
        raise Unsound(f"Tests did not run on the copy.\n{output}")
    return done.returncode, output


if __name__ == "__main__":
    main()
