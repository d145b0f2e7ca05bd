"""Locks between the workers of a machine, which end with the processes that hold them."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def try_lock(file: Path) -> int | None:
    """The descriptor of a lock file that this process holds now, and every process that is forked from it, until all
    have closed it or were killed. None where another process holds it."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """No other worker of this machine asks for a trial while it is entered."""
    with (folder / "ask.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
