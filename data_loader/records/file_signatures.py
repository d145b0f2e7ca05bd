"""Which file it is, and whether it has changed: its absolute path, its size and its time of change.

A start asks this of tens of thousands of files, several times."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable
from pathlib import Path

FileSignature = tuple[int, int]
"""A file's size in bytes and its time of change in ns: the same signature, the same content."""

NO_SIGNATURE: FileSignature = (-1, -1)
"""Of a file that is not there or cannot be looked at: reading it says why."""


def absolute_paths(paths: Iterable[Path]) -> list[str]:
    """os.path.abspath of each, which takes ten times as long: a Path has no empty part and no "." in it already.

    Where a ".." follows a link to a folder, which abspath strikes out as text, it is what the system takes it for."""
    here = os.getcwd().rstrip("/")  # noqa: PTH109 - text is needed
    collapsed = functools.cache(_collapsed)
    return [
        (text if text[0] == "/" else f"{here}/{text}")
        if ".." not in text
        else os.path.join(collapsed(os.path.dirname(text)), os.path.basename(text))  # noqa: PTH118, PTH119, PTH120
        for text in map(str, paths)
    ]


def _collapsed(folder: str) -> str:
    """Without "..", and links as they are where that names the same folder."""
    plain, real = os.path.abspath(folder), os.path.realpath(folder)  # noqa: PTH100
    return plain if os.path.realpath(plain) == real else real


def signatures_of(paths: Iterable[str]) -> dict[str, FileSignature]:
    """By path; NO_SIGNATURE where there is none."""
    stat, signatures = os.stat, {}
    for path in paths:
        try:
            status = stat(path)
        except (OSError, ValueError):
            signatures[path] = NO_SIGNATURE
        else:
            signatures[path] = status.st_size, status.st_mtime_ns
    return signatures
