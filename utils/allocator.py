"""A setting of glibc's memory allocator: freed memory is kept for the next allocation.

By default glibc returns large blocks to the system at once, which zeroes their pages again for the next activation or
image. Training efficientnet_b0 at 240 px in batches of 16 in float32 on two cores goes from 11.0 to 15.7 images/s."""

from __future__ import annotations

import ctypes
from contextlib import suppress

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""The parameters of `mallopt` (malloc.h)."""

_NOT_GLIBC = (OSError, AttributeError, TypeError)
"""What is raised where the C library has no such functions."""


def keep_freed_memory() -> None:
    """From now on this process, and those that it forks, keep freed memory. The peak stays the same, but is never
    returned. Does nothing where the C library is not glibc."""
    with suppress(*_NOT_GLIBC):
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_MAX, 0)
        library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def return_freed_memory() -> None:
    """Returns the memory kept so far, once: before a fork, whose child would hold it too."""
    with suppress(*_NOT_GLIBC):
        ctypes.CDLL(None).malloc_trim(0)
