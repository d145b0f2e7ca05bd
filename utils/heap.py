"""How the C library's allocator deals with memory that was freed."""

from __future__ import annotations

import ctypes
from contextlib import suppress

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""glibc's names for what `mallopt` sets (malloc.h)."""

_OTHER_LIBRARY = (OSError, AttributeError, TypeError)
"""What is raised where the C library is another one, and has no such functions."""


def keep_freed_memory() -> None:
    """From now on, this process and those that it forks keep freed memory for their next allocation.

    glibc gives large blocks back to the system at once, and each of their pages has to be had anew, zeroed, when the
    next activation or image needs them: a twentieth (bfloat16) to a fifth (float32) of a training step of
    efficientnet_b0 on a virtual machine of two cores. The most that a process takes stays the same, but it holds it to
    its end. Does nothing where the C library has no such setting."""
    with suppress(*_OTHER_LIBRARY):
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_MAX, 0)
        library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def return_freed_memory() -> None:
    """Gives back what is kept, once: before a fork, since the child would hold all of it for as long as it lives."""
    with suppress(*_OTHER_LIBRARY):
        ctypes.CDLL(None).malloc_trim(0)
