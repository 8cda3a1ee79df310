"""The memory allocator: freed memory is kept for the next batch, instead of being returned to the system after each.

Every batch needs the same tens of megabytes. By default glibc returns large blocks as soon as they are free, and the
system has to clear each page again when they are next allocated: a tenth of the time of serving and of training
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
    """Configure the allocator, once, before the first batch; whether it has accepted. False for others than glibc's."""
    if platform.libc_ver()[0] != "glibc":
        return False
    allocator = ctypes.CDLL(None)
    taken = [allocator.mallopt(parameter, value) == 1 for parameter, value in _GLIBC.items()]
    return all(taken)
