"""What is loaded is not looked through for garbage; what comes after it is."""

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import gc, weakref
from service.loading import loading

class Node:
    pass

def ring():
    node = Node()
    node.itself = node
    return weakref.ref(node)

with loading():
    assert not gc.isenabled()
    kept = ring()
assert gc.isenabled()
assert gc.get_freeze_count() > 0
gone = ring()
gc.collect()
assert kept() is not None and gone() is None
try:
    with loading():
        raise KeyError
except KeyError:
    assert gc.isenabled()
print("done")
"""


def test_only_what_comes_later_is_collected() -> None:
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
