"""Python's garbage collector while a process loads, and when it ends.

What is loaded (modules, weights, recorded passes: a million objects) stays for the life of the process. The collector
would look through all of it again and again while it comes, and once more as the process ends. Measured with the
default backbone on an idle core: imports take 3.3 s instead of 4.2, the end of a process 0.3 s instead of 1.6. Objects
made afterwards are collected as ever.
"""

from __future__ import annotations

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def loading() -> Iterator[None]:
    """What is made within the block is never looked through for garbage: only what stays belongs here."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        atexit.unregister(gc.freeze)
        atexit.register(gc.freeze)  # what has come since need not be looked through either: all of it goes
