"""How the C library's allocator deals with memory that was freed."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""glibc's names for what `mallopt` sets (malloc.h)."""


def keep_freed_memory() -> None:
    """From now on, this process and those that it forks keep freed memory for their next allocation.

    glibc gives large blocks back to the system at once, and each of their pages has to be had anew, zeroed, when the
    next image or activation needs them: on virtual machines that is up to half of the time of decoding a photograph,
    and a twentieth to a quarter of a training step on the CPU. The most that a process takes stays the same, but it
    holds it to its end. Does nothing where the C library has no such setting."""
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    set_option(_M_MMAP_MAX, 0)
    set_option(_M_TRIM_THRESHOLD, 2**31 - 1)
