"""Arrays of prepared images: one that is being built, one that is finished, and a loader's images of one."""

from __future__ import annotations

import copy
import math
import mmap
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from data_loader.records.file_signatures import FileSignature
from data_loader.transforms import DeterministicPrefix
from utils.errors import DataError
from utils.images import visit_rgb

_MAP_NORESERVE = 0x4000
"""Linux's value, which not every Python exports. Without it the system refuses maps larger than its memory."""


class CachedImages:
    """Images by number, 0 to n - 1. Forked workers share their memory.

    images: (N, H, W, 3) uint8
    rows: (n,) int64, the row of each image
    """

    def __init__(self, images: np.ndarray, rows: np.ndarray) -> None:
        self._images, self._rows = images, rows
        self._read_only = images.view()
        self._read_only.flags.writeable = False  # not of `_images`: torch warns of arrays that cannot be written to

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> np.ndarray:
        """(H, W, 3) uint8, read-only."""
        return self._read_only[self._rows[index]]

    def gather(self, indices: Sequence[int] | np.ndarray, out: np.ndarray) -> None:
        """Copies B images to `out`, (B, H, W, 3) uint8."""
        np.take(self._images, self._rows[indices], axis=0, out=out, mode="clip")  # "raise" would go through a copy

    def contiguous(self, indices: np.ndarray) -> np.ndarray | None:
        """A view of B images, (B, H, W, 3) uint8, not to be written to; None unless their rows are consecutive."""
        rows = self._rows[indices]
        if not len(rows) or (np.diff(rows) != 1).any():
            return None
        return self._images[rows[0] : rows[0] + len(rows)]


class PreparedArray:
    """A finished array.

    path: of its .npy file, which is mapped here and may be removed afterwards
    files: by absolute path, the signature of each row's file, in order
    images: (N, H, W, 3) uint8
    rows: by absolute path, the row of a file

    Raises OSError, or another error, where the file is no such array.
    """

    def __init__(self, path: Path, files: Mapping[str, FileSignature]) -> None:
        self.path, self.files = path, files
        stored = np.load(path, mmap_mode="r")
        with path.open("rb") as file:  # privately: a write to an image reaches neither the file nor other processes
            flags, protection = mmap.MAP_PRIVATE | _MAP_NORESERVE, mmap.PROT_READ | mmap.PROT_WRITE
            mapped = mmap.mmap(file.fileno(), 0, flags, protection)
        self.images = np.frombuffer(mapped, np.uint8, offset=stored.offset).reshape(stored.shape)
        if len(files) != len(self.images):  # a damaged index may name one file twice: rows would belong to others
            raise ValueError(f"{len(self.images)} rows of {len(files)} files")
        self.rows = {path: row for row, path in enumerate(files)}

    def select(self, paths: Sequence[str]) -> CachedImages:
        """The images of these files, all of which have a row."""
        return CachedImages(self.images, np.array([self.rows[path] for path in paths], np.int64))


class ArrayBuild:
    """An array that is needed: what it is to hold, and, once it is open, its .npy file, which threads write.

    key: the cache key, see data_loader.cache
    prefix: prepares the images; its image_hw is known
    files: by absolute path, the signature of each row's file, in order
    """

    def __init__(self, key: str, prefix: DeterministicPrefix) -> None:
        self.key, self.prefix = key, prefix
        self.files: dict[str, FileSignature] = {}
        self._of_thread = threading.local()

    @property
    def shape(self) -> tuple[int, ...]:
        assert self.prefix.image_hw is not None
        return (len(self.files), *self.prefix.image_hw, 3)

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape)

    @contextmanager
    def open(self, path: Path, earlier: Sequence[PreparedArray]) -> Iterator[None]:
        """Creates the file `path`, which is flushed to the disk on exit. Raises OSError.

        earlier: arrays of the same key, whose rows of unchanged files are copied"""
        self._earlier, self._rows = earlier, {path: row for row, path in enumerate(self.files)}
        with path.open("wb", buffering=0) as self._file:
            header = {"descr": "|u1", "fortran_order": False, "shape": self.shape}
            np.lib.format.write_array_header_1_0(self._file, header)
            self._offset = self._file.tell()
            yield
            os.fsync(self._file)

    def copy_row(self, path: str) -> bool:
        """Copies the row of a file from an earlier array. False where none has the file in its present state."""
        for array in self._earlier:
            if array.files.get(path) == self.files[path]:
                self.write_row(path, array.images[array.rows[path]])
                return True
        return False

    def prepare(self, decoded: np.ndarray, path: str) -> np.ndarray:
        """Applies the deterministic prefix to a decoded image. Raises DataError."""
        if not hasattr(self._of_thread, "prefix"):
            self._of_thread.prefix = copy.deepcopy(self.prefix)  # a transform keeps the parameters of its last call
        prepared: np.ndarray = self._of_thread.prefix(decoded, path)
        return prepared

    def write_row(self, path: str, image: np.ndarray) -> None:
        """Not through a map: so a full disk is an OSError, and not a SIGBUS."""
        if image.shape != self.shape[1:] or image.dtype != np.uint8:
            made, expected = (f"{height} x {width} pixels" for height, width, *_ in (image.shape, self.shape[1:]))
            raise DataError(f"{path}: the transforms make {made} ({image.dtype}), not {expected}; put a Resize last")
        data = np.ascontiguousarray(image).data.cast("B")
        offset = self._offset + self._rows[path] * len(data)
        while data:
            written = os.pwrite(self._file.fileno(), data, offset)
            data, offset = data[written:], offset + written


def write_rows(path: str, builds: Sequence[ArrayBuild]) -> None:
    """Writes the row of a file in each array that has one. A file is decoded once for each
    `bits_used_of_16`, or not at all.

    Raises DataError, OSError."""
    missing = [build for build in builds if path in build.files and not build.copy_row(path)]
    for bits in {build.prefix.bits_used_of_16 for build in missing}:
        alike = [build for build in missing if build.prefix.bits_used_of_16 == bits]

        def prepared(image: np.ndarray, alike: Sequence[ArrayBuild] = alike) -> list[np.ndarray]:
            return [build.prepare(image.copy(), path) for build in alike]  # transforms may write into their image

        for build, row in zip(alike, visit_rgb(Path(path), prepared, bits), strict=True):
            build.write_row(path, row)
