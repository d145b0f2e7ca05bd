"""The cache on disk, in a folder that all runs share: each array with its index, which is written last."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from data_loader.cache.image_cache import GIB, SPARE_BYTES, ArrayBuild, ImageCache, format_bytes
from data_loader.cache.prepared_array import (
    ARRAY_SUFFIX,
    INDEX_SUFFIX,
    PreparedArray,
    read_array,
    signature_of,
    write_index,
)
from data_loader.records.file_signatures import FileSignature
from utils.errors import ConfigError, StorageFullError
from utils.files import FULL
from utils.signals import StopSignals

logger = logging.getLogger(__name__)

IMAGE_CACHE_FOLDER = "image_cache"
"""In a config's save_dir."""

_OWN_NAME = re.compile(r"\.?[0-9a-f]{16}[.-]")
_LOCK_SECONDS = 0.2


class DiskCache(ImageCache):
    """Keeps arrays in a folder. Whoever has an array mapped keeps it, also where another process removes it."""

    def __init__(self, folder: Path, budget_gib: float, show_progress: bool = False) -> None:
        super().__init__(budget_gib, show_progress)
        self.folder, self.description = folder, f"image cache in {folder}"

    def find(self, key: str, files: Mapping[str, FileSignature]) -> PreparedArray | None:
        for index_path in reversed(self._indexes(key)):
            array = read_array(index_path)
            if array is not None and array.key == key and array.has(files):
                with suppress(OSError):
                    os.utime(index_path)  # it was used
                return array
        return None

    def _indexes(self, key: str | None = None) -> list[Path]:
        """Those of a key, or all, the least recently used first."""
        found = []
        for path in self.folder.glob(f"{_digest(key)}-*{INDEX_SUFFIX}" if key else f"*{INDEX_SUFFIX}"):
            with suppress(FileNotFoundError):  # another process has just removed it
                if _OWN_NAME.match(path.name):
                    found.append((path.stat().st_mtime_ns, path))
        return [path for _, path in sorted(found)]

    def arrays(self, key: str) -> list[PreparedArray]:
        found = map(read_array, self._indexes(key))
        return [array for array in found if array is not None and array.key == key]

    @contextmanager
    def lock(self, stop: StopSignals) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        lock, waits = FileLock(self.folder / ".lock", mode=0o666), False
        while not lock.is_locked:
            try:
                lock.acquire(timeout=_LOCK_SECONDS if waits else 0)
            except Timeout:
                if not waits:
                    logger.info("%s: another process is building it; waiting for it", self.description)
                waits = True
                stop.raise_if_requested()
        try:
            yield
        finally:
            lock.release()

    def make_room(self, num_bytes: int, keep: Collection[str]) -> None:
        self.discard()
        unused = [path for path in self._indexes() if path.stem not in keep]
        sizes = [path.stat().st_size + path.with_suffix(ARRAY_SUFFIX).stat().st_size for path in unused]
        used = sum(path.stat().st_size for path in self.folder.iterdir())
        all_free = shutil.disk_usage(self.folder).free
        free = all_free - SPARE_BYTES
        self.check_budget(used - sum(sizes) + num_bytes)
        if num_bytes > free + sum(sizes):
            raise ConfigError(
                f"data_loader.args.cache: the images take {format_bytes(num_bytes)}, and the disk of {self.folder} has "
                f"{format_bytes(all_free + sum(sizes))} free, of which {format_bytes(SPARE_BYTES)} are for checkpoints "
                'and logs; free some of it, or set it to "none"'
            )
        lacking = num_bytes - min(self.budget_gib * GIB - used, free)
        for path, size in zip(unused, sizes, strict=True):
            if lacking > 0:
                logger.info("%s: %s, unused for longest, makes room (%s)", self.description, path, format_bytes(size))
                _remove(path)
                lacking -= size

    def create(self, build: ArrayBuild) -> int:
        return os.open(self._temporary(build), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)

    def publish(self, build: ArrayBuild) -> PreparedArray:
        os.fsync(build.handle)
        index_path = self.folder / f"{_name(build)}{INDEX_SUFFIX}"
        self._temporary(build).replace(index_path.with_suffix(ARRAY_SUFFIX))  # an earlier one's index is void now
        write_index(index_path, build.key, signature_of(build.handle), build.files)
        for array in self.arrays(build.key):
            if array.name != index_path.stem and array.files.keys() <= build.files.keys():  # of use to nobody
                _remove(self.folder / f"{array.name}{INDEX_SUFFIX}")
        return PreparedArray(build.handle, index_path.stem, build.key, build.files)

    def _temporary(self, build: ArrayBuild) -> Path:
        return self.folder / f".{_name(build)}{ARRAY_SUFFIX}.tmp"

    def discard(self) -> None:
        """Also what dead processes and earlier versions have left, and what is damaged."""
        for path in [*self.folder.iterdir()]:
            if not _OWN_NAME.match(path.name):
                continue
            is_half = path.suffix in (ARRAY_SUFFIX, INDEX_SUFFIX)
            if not is_half or read_array(path.with_suffix(INDEX_SUFFIX)) is None:
                if path.suffix == INDEX_SUFFIX:
                    logger.warning("%s: is damaged or of an earlier version, and is removed", path)
                path.unlink(missing_ok=True)

    def storage_error(self, error: OSError) -> ConfigError | StorageFullError:
        if error.errno in FULL:
            return StorageFullError(
                f"{self.folder}: the disk is full ({error.strerror}), and images were to be cached there; free some of "
                'it, or set data_loader.args.cache to "none"'
            )
        reason = error.strerror if error.filename in (None, str(self.folder)) else f"{error.strerror}: {error.filename}"
        return ConfigError(
            f"{self.folder}: images cannot be cached there ({reason}); let it be a folder on a disk that can be "
            'written to, or set data_loader.args.cache to "none"'
        )


def _name(build: ArrayBuild) -> str:
    """What the key is, and what the set of files is."""
    return f"{_digest(build.key)}-{_digest(chr(0).join(sorted(build.files)))}"


def _digest(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:16]


def _remove(index_path: Path) -> None:
    index_path.unlink(missing_ok=True)  # first: an array without one is nothing
    index_path.with_suffix(ARRAY_SUFFIX).unlink(missing_ok=True)
