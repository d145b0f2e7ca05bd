"""Threads for work on many files: as many as there are cores."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


def number_of_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def thread_pool() -> Iterator[ThreadPoolExecutor]:
    """A thread for each core, for work that releases the interpreter's lock: decoders and OpenCV do.

    On exit, also after an error or a signal, what was not begun is dropped, and what was begun is waited for."""
    pool = ThreadPoolExecutor(number_of_cores())
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
