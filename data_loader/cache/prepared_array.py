"""An array of prepared images, its index on disk, and reading from it."""

from __future__ import annotations

import hashlib
import io
import json
import mmap
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from data_loader.records.file_signatures import FileSignature
from utils.files import write_atomically

ARRAY_SUFFIX, INDEX_SUFFIX = ".npy", ".json"

_MAP_NORESERVE = 0x4000
"""Linux's value; not every Python names it. Without it the system refuses a map that is larger than its memory."""


class PreparedArray:
    """Images (N, H, W, 3) uint8, a row for each of `files`, in order.

    handle: an open .npy file, which is mapped and may be closed then
    name: of this array, in its storage
    key: the cache key, see data_loader.cache
    files: by absolute path, the signature of the file that the row was made of

    Raises ValueError for a file of another kind.
    """

    def __init__(self, handle: int, name: str, key: str, files: Mapping[str, FileSignature]) -> None:
        self.name, self.key, self.files = name, key, dict(files)
        with os.fdopen(os.dup(handle), "rb") as file:
            file.seek(0)
            np.lib.format.read_magic(file)
            shape, _, _ = np.lib.format.read_array_header_1_0(file)
            offset = file.tell()
        # Private: whoever writes into an image, which nobody is to do, changes what he sees and nothing else.
        mapped = mmap.mmap(handle, 0, mmap.MAP_PRIVATE | _MAP_NORESERVE, mmap.PROT_READ | mmap.PROT_WRITE)
        self.images = np.frombuffer(mapped, np.uint8, offset=offset).reshape(shape)
        self._rows = {path: row for row, path in enumerate(self.files)}

    def has(self, files: Mapping[str, FileSignature]) -> bool:
        """True if each of the files has a row, made of the file as it is."""
        return files.items() <= self.files.items()

    def row(self, path: str, signature: FileSignature) -> np.ndarray | None:
        """The image (H, W, 3) of a file; None where there is none of the file as it is."""
        return self.images[self._rows[path]] if self.files.get(path) == signature else None

    def of(self, paths: Iterable[str]) -> CachedImages:
        """The images of these files, which it has."""
        return CachedImages(self.images, np.array([self._rows[path] for path in paths], np.int64))


class CachedImages:
    """Images of an array by number, 0 to n - 1; forked workers share the memory that they are in.

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
        """(H, W, 3) uint8, which cannot be written to."""
        return self._read_only[self._rows[index]]

    def gather(self, indices: Sequence[int] | np.ndarray, out: np.ndarray) -> None:
        """Copies B images to `out`, (B, H, W, 3) uint8."""
        np.take(self._images, self._rows[indices], axis=0, out=out, mode="clip")  # "raise" would go through a copy

    def contiguous(self, indices: np.ndarray) -> np.ndarray | None:
        """B images without a copy, (B, H, W, 3) uint8, not to be written to; None unless their rows are consecutive."""
        rows = self._rows[indices]
        if not len(rows) or (np.diff(rows) != 1).any():
            return None
        return self._images[rows[0] : rows[0] + len(rows)]


def array_header(shape: tuple[int, ...]) -> bytes:
    """What a .npy file of uint8 begins with."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return header.getvalue()


def write_index(path: Path, key: str, array: FileSignature, files: Mapping[str, FileSignature]) -> None:
    """Writes the index of the array that has the signature `array`, with a checksum. Raises OSError."""
    sizes, times = zip(*files.values(), strict=True)
    content = {"key": key, "array": array, "paths": list(files), "sizes": sizes, "times": times}
    text = json.dumps(content).encode()
    write_atomically(path, hashlib.sha256(text).hexdigest().encode() + b"\n" + text)


def read_array(index_path: Path) -> PreparedArray | None:
    """The array of an index; None where either is missing or damaged, or the index is of another array."""
    try:
        checksum, _, text = index_path.read_bytes().partition(b"\n")
        if hashlib.sha256(text).hexdigest().encode() != checksum:
            return None
        index = json.loads(text)
        handle = os.open(index_path.with_suffix(ARRAY_SUFFIX), os.O_RDONLY)
        try:
            if signature_of(handle) != tuple(index["array"]):
                return None
            files = dict(zip(index["paths"], zip(index["sizes"], index["times"], strict=True), strict=True))
            return PreparedArray(handle, index_path.stem, index["key"], files)
        finally:
            os.close(handle)
    except (OSError, ValueError, KeyError):
        return None


def signature_of(handle: int) -> FileSignature:
    """Of an open file."""
    status = os.fstat(handle)
    return status.st_size, status.st_mtime_ns
