"""`make model`: the life cycle keeps its promises in every state that can be reached. One line, or the history that
breaks one.

`--wide` goes through a larger scope instead: 1.3 million states, two minutes and about 1 GB.
"""

import sys
from collections.abc import Sequence

from tests.formal.books import Scope
from tests.formal.explore import explore

# Together small enough for every check; the wide one, where all of it meets, is for changes of the life cycle.
SCOPES = (
    Scope("one cluster, where everything may go wrong at any time", at_first=0b0100, coming=0b1000, answers=True),
    Scope("two clusters and one fault", at_first=0b0111, coming=0, messages=1, faults=1),
    Scope("two clusters and an arrival", at_first=0b0111, coming=0b1000, messages=1, faults=0),
)
WIDE = (
    Scope("two clusters, an arrival, answers and one fault", at_first=0b0111, coming=0b1000, faults=1, answers=True),
)


def main(scopes: Sequence[Scope]) -> int:
    """Explore, say what was found; the exit status."""
    states, transitions, seconds = 0, 0, 0.0
    for scope in scopes:
        report = explore(scope)
        if report.counterexample is not None:
            print(f"life cycle, {scope.name}: broken\n  {report.counterexample}")
            return 1
        states += report.states
        transitions += report.transitions
        seconds += report.seconds
    print(f"life cycle: {states:,} states, {transitions:,} transitions, {seconds:.1f} s; every promise holds")
    return 0


if __name__ == "__main__":
    sys.exit(main(WIDE if "--wide" in sys.argv[1:] else SCOPES))
