"""Images one behind the other in a file whose index is right about it or void.

A recipe has `<digest>.pixels`, which is only ever added to, and `<digest>.json`, its index, which is
replaced as a whole once the pixels that it names are on the disk. The index holds a checksum of itself and of each
image, and the size and time of change that the pixel file had. Where those are others now (a process died while it
added, the folder was copied, the disk lost something), each image is held against its checksum, and what fails is
made anew. What has to go is never overwritten, since other processes may have it mapped: a new file takes its name."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import secrets
import time
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import repeat
from pathlib import Path
from typing import NamedTuple

from data_loader.file_stamps import Stamp, stamps_of
from data_loader.pixel_store import HEADER_BYTES, PixelStore, Row, write_at
from utils.files import write_atomically

logger = logging.getLogger(__name__)

INDEX_SUFFIX, PIXELS_SUFFIX = ".json", ".pixels"


class _Index(NamedTuple):
    file_id: str
    end: int
    stamp: Stamp  # of the pixel file
    rows: dict[str, Row]


class DiskStore(PixelStore):
    """Images on the disk. The folder's lock is held from `load` to the end of `save`, `leave` or `rewrite`."""

    def __init__(self, folder: Path, digest: str, recipe: str) -> None:
        self._index_path = folder / f"{digest}{INDEX_SUFFIX}"
        self._pixel_path = folder / f"{digest}{PIXELS_SUFFIX}"
        self._recipe = recipe
        self._file_id = ""
        self._saved_end: int | None = None  # what the index names; 0 while there is none; None before `load`
        self._saved_stamp: Stamp | None = None  # that the index has of the pixel file
        super().__init__()

    def _open(self) -> int:
        return -1

    def load_whole(self) -> bool:
        """Opens what is there, if it is just as its index says, without the folder's lock; else False."""
        try:
            index = _read_index(self._index_path, self._recipe)
            if index is None:
                return False
            self._handle = os.open(self._pixel_path, os.O_RDONLY)
            fcntl.flock(self._handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            if not self._is_file_of(index) or self._stamp() != index.stamp:
                return False
        except (OSError, ValueError):
            return False
        self._take(index)
        return True

    def load(self) -> None:
        """Opens what is there and right; the log is told of what is not. Raises OSError."""
        self.close()
        self._saved_end = index = None
        try:
            index = _read_index(self._index_path, self._recipe)
            if index is not None:
                self._handle = os.open(self._pixel_path, os.O_RDWR)
                fcntl.flock(self._handle, fcntl.LOCK_SH)
                if not self._is_file_of(index):
                    raise ValueError
        except (FileNotFoundError, ValueError):
            logger.warning("%s: the image cache is damaged; it is made anew", self._index_path)
            index = None
        if index is None:
            return self._begin()
        self._take(index)
        if self._stamp() != index.stamp:
            self._verify()
        return None

    def _take(self, index: _Index) -> None:
        self._file_id, self.end, self._saved_stamp, self.rows = index
        self._saved_end = self.end
        with suppress(OSError):
            os.utime(self._index_path)  # when it was last used

    def _stamp(self) -> Stamp:
        status = os.fstat(self._handle)
        return status.st_size, status.st_mtime_ns

    def _is_file_of(self, index: _Index) -> bool:
        return os.pread(self._handle, HEADER_BYTES, 0) == _header(index.file_id)

    def _begin(self) -> None:
        self.close()
        self._index_path.unlink(missing_ok=True)
        self._pixel_path.unlink(missing_ok=True)
        self._saved_end = 0
        self._start_file(self._pixel_path)

    def _start_file(self, path: Path) -> None:
        self.rows, self.end, self._file_id = {}, HEADER_BYTES, secrets.token_hex(16)
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        fcntl.flock(self._handle, fcntl.LOCK_SH)
        write_at(self._handle, memoryview(_header(self._file_id)), 0)

    def _verify(self) -> None:
        """Drops the images whose pixels are not those that were written."""

        def is_right(row: Row) -> bool:
            data = os.pread(self._handle, row.nbytes, row.offset)
            return len(data) == row.nbytes and zlib.crc32(data) == row.checksum

        started = time.monotonic()
        with ThreadPoolExecutor() as pool:
            right = list(pool.map(is_right, self.rows.values()))
        logger.info("%s was checked in %.1f s", self._pixel_path, time.monotonic() - started)
        if not all(right):
            kept = dict(item for item, good in zip(self.rows.items(), right, strict=True) if good)
            logger.warning(
                "%s: %d of %d images are damaged; they are made anew", self._pixel_path, right.count(False), len(right)
            )
            self.rewrite(kept)

    def is_saved(self) -> bool:
        return self._saved_end == self.end and self._saved_stamp == self._stamp()

    def save(self) -> None:
        os.ftruncate(self._handle, self.end)  # a dead process may have left more, which no index names
        os.fsync(self._handle)
        rows = self.rows.values()
        text = json.dumps(
            {
                "recipe": json.loads(self._recipe),
                "file_id": self._file_id,
                "end": self.end,
                "stamp": (stamp := self._stamp()),
                "paths": list(self.rows),
                "rows": {name: [row[place] for row in rows] for place, name in enumerate(Row._fields)},
            }
        ).encode()
        write_atomically(self._index_path, hashlib.sha256(text).hexdigest().encode() + b"\n" + text)
        self._saved_end, self._saved_stamp = self.end, stamp

    def leave(self) -> None:
        if self._saved_end is None:
            return
        with suppress(OSError):
            if self.end > self._saved_end and self.rows:
                self.save()
        with suppress(OSError):
            if not self._saved_end:
                self._pixel_path.unlink(missing_ok=True)
            elif self._stamp()[0] != self._saved_end:  # even a truncation that changes nothing changes the time
                os.ftruncate(self._handle, self._saved_end)  # no other process has read beyond it

    def live_rows(self, stamps: Mapping[str, Stamp]) -> dict[str, Row]:
        """The rows of files that are as they were; those that are not in `stamps` are looked at."""
        known = {**stamps, **stamps_of(self.rows.keys() - stamps.keys())}
        return {key: row for key, row in self.rows.items() if self.has(key, known[key])}

    def used_elsewhere(self) -> bool:
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            fcntl.flock(self._handle, fcntl.LOCK_SH)  # a refused change of a lock loses the lock
        return False

    def rewrite(self, kept: Mapping[str, Row]) -> None:
        """Makes a new file of these rows in place of the present one. Raises OSError."""
        new_path = self._pixel_path.with_suffix(".new")
        new_path.unlink(missing_ok=True)
        before = vars(self).copy()
        old = self._handle
        try:
            self._start_file(new_path)
            for key, row in kept.items():
                write_at(self._handle, memoryview(os.pread(old, row.nbytes, row.offset)), self.end)
                self.rows[key] = row._replace(offset=self.end)
                self.end += row.nbytes
            os.fsync(self._handle)
            new_path.replace(self._pixel_path)  # from here on the index is void, until it is saved
        except BaseException:
            if self._handle != old:
                self.close()
            vars(self).update(before)
            new_path.unlink(missing_ok=True)
            raise
        os.close(old)
        self._saved_end = 0
        self.save()


def _header(file_id: str) -> bytes:
    return f"image cache {file_id}\n".encode().ljust(HEADER_BYTES, b"\0")


def _read_index(path: Path, recipe: str) -> _Index | None:
    """None where there is none. Raises OSError, and ValueError where it is damaged or another recipe's."""
    try:
        digest, _, text = path.read_bytes().partition(b"\n")
    except FileNotFoundError:
        return None
    if hashlib.sha256(text).hexdigest().encode() != digest:
        raise ValueError("the checksum is wrong")
    try:
        stored = json.loads(text)
        if stored["recipe"] != json.loads(recipe):
            raise ValueError("it was renamed")
        columns = [stored["rows"][name] for name in Row._fields]
        rows = map(tuple.__new__, repeat(Row), zip(*columns, strict=True))  # Row._make, in half the time
        size, changed = stored["stamp"]
        return _Index(stored["file_id"], stored["end"], (size, changed), dict(zip(stored["paths"], rows, strict=True)))
    except (KeyError, TypeError) as error:
        raise ValueError("the content is of another kind") from error
