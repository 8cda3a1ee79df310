"""Memory that is freed stays with the process: pages are not cleared anew for every batch."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

BATCHES = """
import resource, sys
import numpy as np
from models import memory

if sys.argv[1] == "kept":
    assert memory.keep_freed()
np.ones(10 << 20, np.float32)  # the first one must be cleared in any case
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    np.ones(10 << 20, np.float32)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators are left alone")
def test_pages_of_a_batch_are_used_again() -> None:
    faults = {name: int(_run(name)) for name in ("given back", "kept")}
    assert faults["kept"] < faults["given back"] / 10


def _run(name: str) -> str:
    return subprocess.run([sys.executable, "-c", BATCHES, name], stdout=subprocess.PIPE, text=True, check=True).stdout
