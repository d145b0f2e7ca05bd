"""Images one behind the other in one piece of memory, and what is known of each."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from data_loader.file_stamps import Stamp

HEADER_BYTES = 4096
"""Where the first image begins. What stands before it names the file, so that no index is taken for another's."""

_MAP_NORESERVE = 0x4000
"""Linux's value; not every Python names it."""


class Row(NamedTuple):
    """One image: the stamp of its file, where its pixels begin, their height and width, and their CRC-32."""

    size: int
    changed: int
    offset: int
    height: int
    width: int
    checksum: int

    @property
    def nbytes(self) -> int:
        return self.height * self.width * 3


class PixelStore:
    """Images in memory (a file without a name or a disk): gone with the processes that have them, shared by forks.

    rows: by key, which is the absolute path of an image's file; end: in bytes, where the next image will begin."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.end = HEADER_BYTES
        self._handle = self._open()

    def _open(self) -> int:
        handle = os.memfd_create("image_cache")
        os.ftruncate(handle, HEADER_BYTES)  # an empty file cannot be mapped
        return handle

    def has(self, key: str, stamp: Stamp) -> bool:
        return not self.lacking([key], {key: stamp})

    def lacking(self, keys: Iterable[str], stamps: Mapping[str, Stamp]) -> list[str]:
        """The keys whose images are not there, or of a file that was another, in order."""
        rows, none = self.rows, (-1, -1)
        return [key for key in keys if rows.get(key, none)[:2] != (stamp := stamps[key]) or stamp[0] < 0]

    def add(self, key: str, stamp: Stamp, image: np.ndarray, checksum: int) -> None:
        """Appends an image, (H, W, 3) uint8, contiguous. Raises OSError."""
        assert image.dtype == np.uint8, f"{key}: {image.dtype}"
        assert image.shape[2:] == (3,), f"{key}: {image.shape}"
        write_at(self._handle, image.data.cast("B"), self.end)
        self.rows[key] = Row(*stamp, self.end, image.shape[0], image.shape[1], checksum)
        self.end += image.nbytes

    def is_saved(self) -> bool:
        """Whether `save` would change nothing."""
        return False

    def save(self) -> None:
        """Makes the images that were added good to be read, here and elsewhere. Raises OSError."""
        os.ftruncate(self._handle, self.end)

    def leave(self) -> None:
        """To be called where building ends before its time: keeps what can be kept. Raises nothing."""

    def pixels(self) -> np.ndarray:
        """All bytes up to `end`, (end,) uint8, mapped; what was saved before. They outlive this object, and with them
        the lock that says that the file is in use: a map has its own handle of it. Nobody is to write to them; if
        somebody does, it changes nothing but his own memory."""
        # Without a reserve: else the system refuses a cache that is larger than its memory.
        flags = mmap.MAP_PRIVATE | _MAP_NORESERVE
        mapped = mmap.mmap(self._handle, self.end, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        return np.frombuffer(mapped, np.uint8)

    def close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
        self._handle = -1


def write_at(handle: int, data: memoryview, offset: int) -> None:
    """Not through a map: on a full disk that would end the process, and here it is an error."""
    while data:
        written = os.pwrite(handle, data, offset)
        data, offset = data[written:], offset + written
