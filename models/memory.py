"""Freed memory is kept for the next batch rather than given back to the system after each.

Every batch needs the same tens of megabytes. By default glibc hands large blocks back as soon as they are free, and the
system has to clear each page anew when they are asked for again: a tenth of the time of serving and of training
(measured).
"""

from __future__ import annotations

import ctypes
import platform

_MIB = 1 << 20
_GLIBC = {  # parameters of mallopt(3), and their values in bytes
    -3: 64 * _MIB,  # M_MMAP_THRESHOLD: only larger blocks (photos of 20 megapixels and more) go back at once
    -1: 256 * _MIB,  # M_TRIM_THRESHOLD: what may lie free at the end of the heap
    -2: 16 * _MIB,  # M_TOP_PAD: by how much the heap grows
}


def keep_freed() -> bool:
    """Call once, before the first batch; whether the allocator has taken it. Others than glibc's are left alone."""
    if platform.libc_ver()[0] != "glibc":
        return False
    allocator = ctypes.CDLL(None)
    taken = [allocator.mallopt(parameter, value) == 1 for parameter, value in _GLIBC.items()]
    return all(taken)
