"""Whether a file has changed: its size and its time of change. A start asks this of tens of thousands of files."""

from __future__ import annotations

import os
from collections.abc import Iterable

FileSignature = tuple[int, int]
"""A file's size in bytes and its time of change in ns: the same signature, the same content."""

NO_SIGNATURE: FileSignature = (-1, -1)
"""Of a file that does not exist or cannot be accessed."""


def signatures_of(paths: Iterable[str]) -> dict[str, FileSignature]:
    """By path; NO_SIGNATURE where there is none."""
    signatures = {}
    for path in paths:
        try:
            status = os.stat(path)  # noqa: PTH116 - a Path takes twice the time
        except (OSError, ValueError):
            signatures[path] = NO_SIGNATURE
        else:
            signatures[path] = status.st_size, status.st_mtime_ns
    return signatures
