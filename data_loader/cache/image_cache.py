"""What every image cache does: it uses the arrays that are there, and builds those that are not."""

from __future__ import annotations

import copy
import json
import logging
import math
import os
import platform
import threading
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import PIL

from data_loader.cache.prepared_array import CachedImages, PreparedArray, array_header
from data_loader.records.file_signatures import FileSignature, absolute_paths, signatures_of
from data_loader.records.image_check import number_of_cores
from data_loader.transforms import DeterministicPrefix
from utils.errors import ConfigError, UserError
from utils.images import DECODING_RULES, read_rgb
from utils.progress import with_progress
from utils.signals import StopSignals

logger = logging.getLogger(__name__)

DEFAULT_CACHE_BUDGET_GIB = 16
GIB = 2**30

SPARE_BYTES = 256 * 2**20
"""What a cache leaves free of the disk (for checkpoints) and of the memory."""

_VERSIONS = {
    "format": 2,
    "decoding": DECODING_RULES,
    "albumentations": version("albumentations"),
    "albucore": version("albucore"),
    "opencv": cv2.__version__,
    "pillow": PIL.__version__,
    "simplejpeg": version("simplejpeg"),
    "numpy": np.__version__,
    "machine": platform.machine(),
}
"""What pixels depend on besides the file and the transforms. format: raised when arrays are laid out in another way."""


class ImageCache(ABC):
    """Keeps prepared images. What subclasses add is where.

    budget_gib: GiB that all arrays may take
    show_progress: whether it is shown how far building is
    """

    description: str

    def __init__(self, budget_gib: float, show_progress: bool = False) -> None:
        self.budget_gib, self.show_progress = budget_gib, show_progress

    def prepare(
        self,
        requests: Sequence[tuple[Sequence[Path], DeterministicPrefix]],
        signatures: Mapping[str, FileSignature] | None = None,
    ) -> list[CachedImages | None]:
        """For each request what its prefix makes of its files, in order; None where their size depends on the image.

        signatures: of files that were looked at a moment ago, by absolute path; the others are looked at now

        Raises DataError for an image that cannot be read or that the transforms cannot take; ConfigError where the
        images do not fit or the place cannot be used; StorageFullError where the disk is full all the same; StopSignal.
        """
        known = dict(signatures or {})
        builds: dict[str, ArrayBuild] = {}
        asked: list[tuple[str, list[str]]] = []
        for paths, prefix in requests:
            absolute = absolute_paths(paths)
            known |= signatures_of([path for path in absolute if path not in known])
            key = json.dumps({**prefix.key, "versions": _VERSIONS}, sort_keys=True)
            asked.append((key, absolute))
            if prefix.image_hw is None:
                logger.info("%s: images of several sizes, which no Resize made equal, are not kept", self.description)
            elif paths:
                builds.setdefault(key, ArrayBuild(key, prefix)).files |= {path: known[path] for path in absolute}
        try:
            arrays = self._arrays([*builds.values()])
        except _OtherImageError as error:
            logger.info("%s: no images are kept: %s", self.description, error)
            arrays = {}
        except OSError as error:
            raise self.storage_error(error) from error
        return [arrays[key].of(paths) if key in arrays else None for key, paths in asked]

    def _arrays(self, builds: Sequence[ArrayBuild]) -> dict[str, PreparedArray]:
        """By key, an array that has the files of each."""
        found = self._found(builds)
        if len(found) < len(builds):
            with StopSignals() as stop, self.lock(stop):
                found = self._found(builds)  # another process may have built it meanwhile
                if missing := [build for build in builds if build.key not in found]:
                    num_bytes = sum(build.num_bytes for build in missing)
                    self.make_room(num_bytes, {array.name for array in found.values()})
                    found |= self._built(missing, stop)
        elif builds:
            logger.info("%s: all images are there", self.description)
        return found

    def _found(self, builds: Sequence[ArrayBuild]) -> dict[str, PreparedArray]:
        return {build.key: array for build in builds if (array := self.find(build.key, build.files)) is not None}

    def _built(self, builds: Sequence[ArrayBuild], stop: StopSignals) -> dict[str, PreparedArray]:
        """The arrays of all, or none. Each file is decoded once for all of them."""
        files = [*dict.fromkeys(path for build in builds for path in build.files)]
        num_bytes = format_bytes(sum(build.num_bytes for build in builds))
        logger.info("%s: preparing %s images, %s", self.description, f"{len(files):,}", num_bytes)
        pool = ThreadPoolExecutor(number_of_cores())  # decoders release the interpreter's lock
        try:
            for build in builds:
                build.begin(self.create(build), self.arrays(build.key))
            done = pool.map(lambda path: _prepare(path, builds), files)
            for _ in with_progress(done, len(files), "caching images", self.show_progress):
                stop.raise_if_requested()
            return {build.key: self.publish(build) for build in builds}
        finally:
            pool.shutdown(cancel_futures=True)
            for build in builds:
                build.close()
            self.discard()

    @abstractmethod
    def find(self, key: str, files: Mapping[str, FileSignature]) -> PreparedArray | None:
        """An array of the key that has all of the files as they are."""

    @abstractmethod
    def arrays(self, key: str) -> list[PreparedArray]:
        """All of a key."""

    @abstractmethod
    def lock(self, stop: StopSignals) -> AbstractContextManager[None]:
        """Keeps other processes from changing the cache, which is asked for before what follows.

        Raises OSError, and StopSignal while it waits."""

    @abstractmethod
    def make_room(self, num_bytes: int, keep: Collection[str]) -> None:
        """Makes room for so many bytes: the least recently used arrays go, but for those whose names are in `keep`.

        Raises ConfigError, and removes nothing, where that would not be enough; OSError."""

    @abstractmethod
    def create(self, build: ArrayBuild) -> int:
        """A handle of an empty file to build the array in, which nobody takes for one yet. Raises OSError."""

    @abstractmethod
    def publish(self, build: ArrayBuild) -> PreparedArray:
        """The array that was built, from now on for everybody. Raises OSError."""

    @abstractmethod
    def discard(self) -> None:
        """Removes what was created and not published. Raises OSError."""

    @abstractmethod
    def storage_error(self, error: OSError) -> UserError:
        """The error for the user."""

    def check_budget(self, num_bytes: int, processes: int = 1) -> None:
        """Raises ConfigError if that is more than the budget, which the processes share."""
        if num_bytes > self.budget_gib * GIB / processes:
            shared = f" for {processes} processes" if processes > 1 else ""
            raise ConfigError(
                f"data_loader.args.cache_budget_gib = {self.budget_gib:g}{shared}: the images take "
                f'{format_bytes(num_bytes)}; raise it, or set data_loader.args.cache to "none"'
            )


class _OtherImageError(Exception):
    """A prepared image is not as its array has them."""


class ArrayBuild:
    """An array that is asked for, and that threads write row by row if it is not there.

    key: see data_loader.cache
    prefix: makes images of one size
    files: by absolute path, the signature of the file of each row, in order
    """

    def __init__(self, key: str, prefix: DeterministicPrefix) -> None:
        self.key, self.prefix = key, prefix
        self.files: dict[str, FileSignature] = {}
        self.handle = -1

    @property
    def shape(self) -> tuple[int, ...]:
        assert self.prefix.image_hw is not None
        return (len(self.files), *self.prefix.image_hw, 3)

    @property
    def num_bytes(self) -> int:
        return len(array_header(self.shape)) + math.prod(self.shape)

    def begin(self, handle: int, earlier: Sequence[PreparedArray]) -> None:
        """handle: of an empty file, closed by `close`; earlier: arrays of the same key, whose rows may be copied."""
        self.handle, self._earlier = handle, earlier
        self._rows = {path: row for row, path in enumerate(self.files)}
        self._of_thread = threading.local()
        header = array_header(self.shape)
        self._offset = len(header)
        write_at(handle, memoryview(header), 0)

    def close(self) -> None:
        if self.handle >= 0:
            os.close(self.handle)
        self.handle = -1

    def lacks(self, path: str) -> bool:
        """Whether the array is to have a row of the file, and it cannot be copied. If it can, it has been."""
        if path not in self.files:
            return False
        found = (array.row(path, self.files[path]) for array in self._earlier)
        image = next((row for row in found if row is not None), None)
        if image is not None:
            self._write_row(path, image)
        return image is None

    def write(self, path: str, decoded: np.ndarray) -> None:
        """Prepares the image of a file and writes its row. Raises DataError, OSError."""
        if not hasattr(self._of_thread, "prefix"):
            self._of_thread.prefix = _copy_of(self.prefix)
        image = self._of_thread.prefix(decoded, path)
        if image.shape != self.shape[1:] or image.dtype != np.uint8:
            expected = " x ".join(map(str, self.shape[1:]))
            raise _OtherImageError(f"{path} is prepared as {image.shape} {image.dtype}, not {expected} uint8")
        self._write_row(path, np.ascontiguousarray(image))

    def _write_row(self, path: str, image: np.ndarray) -> None:
        write_at(self.handle, image.data.cast("B"), self._offset + self._rows[path] * image.nbytes)


def _prepare(path: str, builds: Sequence[ArrayBuild]) -> None:
    lacking = [build for build in builds if build.lacks(path)]
    for bits in {build.prefix.bits_used_of_16 for build in lacking}:
        decoded = read_rgb(Path(path), bits)
        for build in lacking:
            if build.prefix.bits_used_of_16 == bits:
                build.write(path, decoded.copy())  # transforms may write into what they are given


def _copy_of(prefix: DeterministicPrefix) -> DeterministicPrefix:
    """For one thread: transforms keep what they work with. They share their generators, of which these draw nothing."""
    shared = [each for transform in prefix.transforms for each in (transform.random_generator, transform.py_random)]
    return copy.deepcopy(prefix, {id(each): each for each in shared})


def write_at(handle: int, data: memoryview, offset: int) -> None:
    """Not through a map: on a full disk that would end the process, and here it is an error."""
    while data:
        written = os.pwrite(handle, data, offset)
        data, offset = data[written:], offset + written


def format_bytes(number: int) -> str:
    for unit, size in (("GiB", GIB), ("MiB", 2**20)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number / 2**10:.1f} KiB"
