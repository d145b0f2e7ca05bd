"""The caches on disk and in memory: they use the arrays that exist, and build those that are missing."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import re
import secrets
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar

import cv2
from tqdm import tqdm

from data_loader.cache.arrays import ArrayBuild, CachedImages, PreparedArray, write_rows
from data_loader.records.file_signatures import signatures_of
from data_loader.transforms import DeterministicPrefix
from utils import distributed
from utils.errors import FULL, InvalidConfig, Problem, StorageFullError
from utils.files import folder_lock, write_atomically
from utils.images import DECODING_RULES
from utils.progress import with_progress
from utils.signals import StopSignals
from utils.threads import thread_pool

logger = logging.getLogger(__name__)

IMAGE_CACHE_FOLDER = "image_cache"
"""In a config's save_dir."""

DEFAULT_CACHE_BUDGET_GIB = 16

SPARE_BYTES = 256 * 2**20
"""What a cache leaves free of the disk (for checkpoints) and of the memory."""

VERSIONS = {
    "format": 3,
    "decoding": DECODING_RULES,
    "machine": platform.machine(),
    "opencv": cv2.__version__,
    **{name: version(name) for name in ("albumentations", "albucore", "numpy", "pillow", "simplejpeg")},
}
"""What pixels depend on besides the file and the transforms. format: of arrays and indexes."""


class ImageCache(ABC):
    """Prepared images that later loaders find again.

    budget_gib: GiB that all arrays may take
    show_progress: whether building shows its progress
    """

    description: str

    def __init__(self, budget_gib: float, show_progress: bool = False) -> None:
        self.budget_bytes, self.show_progress = int(budget_gib * 2**30), show_progress

    def prepare(self, requests: Sequence[tuple[Sequence[Path], DeterministicPrefix]]) -> list[CachedImages | None]:
        """The images of each request's files, in order; None where the prefix does not make them equal in size.

        requests: files, by absolute path, and the deterministic prefix that prepares them

        Raises DataError for an image that cannot be read, that the transforms cannot take, or that they make of another
        size; InvalidConfig ("cache", "cache_budget_gib") where the images do not fit or cannot be stored;
        StorageFullError where the disk fills up while they are written; StopSignal.
        """
        signatures = signatures_of({str(path) for paths, _ in requests for path in paths})
        builds: dict[str, ArrayBuild] = {}
        keyed: list[tuple[str, list[str]]] = []
        for paths, prefix in requests:
            absolute = [str(path) for path in paths]
            key = json.dumps({**prefix.key, "versions": VERSIONS}, sort_keys=True)
            keyed.append((key, absolute))
            if prefix.image_hw is None:
                logger.info("%s: images differ in size (no Resize), and are not cached", self.description)
            elif paths:
                builds.setdefault(key, ArrayBuild(key, prefix)).files |= {path: signatures[path] for path in absolute}
        try:
            arrays = self._arrays([*builds.values()])
        except OSError as error:
            if error.errno in FULL:
                text = f'{self.description}: is full ({error.strerror}); free some space, or set cache to "none"'
                raise StorageFullError(text) from error
            text = f"cannot be used: {error.filename or self.description}: {error.strerror}"
            raise InvalidConfig([Problem(("cache",), f'{text}; set it to "none", or repair it')]) from error
        return [arrays[key].select(paths) if key in arrays else None for key, paths in keyed]

    @abstractmethod
    def _arrays(self, builds: Sequence[ArrayBuild]) -> dict[str, PreparedArray]:
        """By cache key, an array that has the files of each build: one that exists, or one that is built now."""

    @abstractmethod
    def _stored(self, key: str) -> list[PreparedArray]:
        """The arrays of a cache key."""

    def _found(self, builds: Sequence[ArrayBuild]) -> tuple[dict[str, PreparedArray], list[ArrayBuild]]:
        """By cache key, the arrays that exist; and the builds for which none does."""
        found = {
            build.key: array
            for build in builds
            for array in self._stored(build.key)
            if build.files.items() <= array.files.items()
        }
        return found, [build for build in builds if build.key not in found]

    def _built(self, builds: Mapping[Path, ArrayBuild], stop: StopSignals) -> dict[str, PreparedArray]:
        """Builds arrays, each in the file of its path; an image is decoded once for all of them."""
        files = [*dict.fromkeys(file for build in builds.values() for file in build.files)]
        num_bytes = sum(build.num_bytes for build in builds.values())
        logger.info("%s: preparing %s images, %s", self.description, f"{len(files):,}", format_bytes(num_bytes))
        with ExitStack() as opened:
            for path, build in builds.items():
                opened.enter_context(build.open(path, self._stored(build.key)))
            pool = opened.enter_context(thread_pool())
            done = pool.map(lambda file: write_rows(file, [*builds.values()]), files)
            for _ in with_progress(done, len(files), "caching images", self.show_progress):
                stop.raise_if_requested()
        return {build.key: PreparedArray(path, build.files) for path, build in builds.items()}


class DiskCache(ImageCache):
    """Arrays in a folder that runs share: a .npy file, and an index of its files (.json), which is written last.

    The index's time of change is that of its last use. An array without an index is incomplete, and ignored.

    folder: made when the first array is built
    """

    def __init__(self, folder: Path, budget_gib: float, show_progress: bool = False) -> None:
        super().__init__(budget_gib, show_progress)
        self.folder, self.description = folder, f"image cache in {folder}"

    def _arrays(self, builds: Sequence[ArrayBuild]) -> dict[str, PreparedArray]:
        found, missing = self._found(builds)
        if missing:
            with StopSignals() as stop, folder_lock(self.folder, self.description, stop):
                found, missing = self._found(builds)  # another process may have built them meanwhile
                if missing:
                    self._free_space(sum(build.num_bytes for build in missing), {each.path for each in found.values()})
                    by_path = {
                        self.folder / f"{_digest(each.key)}-{secrets.token_hex(8)}.npy": each for each in missing
                    }
                    try:
                        found |= self._built(by_path, stop)
                        for path, build in by_path.items():
                            write_atomically(path.with_suffix(".json"), json.dumps({"files": build.files}).encode())
                    finally:
                        self._remove_remains()
        for array in found.values():
            with suppress(OSError):  # of a folder that cannot be written to
                os.utime(array.path.with_suffix(".json"))
        return found

    def _stored(self, key: str) -> list[PreparedArray]:
        found = map(_read_array, self.folder.glob(f"{_digest(key)}-*.json"))
        return [array for array in found if array is not None]

    def _free_space(self, num_bytes: int, in_use: set[Path]) -> None:
        """Removes the least recently used arrays, until so many bytes fit. Raises InvalidConfig, and removes nothing,
        where they would not fit either way."""
        self._remove_remains()
        unused = [path for path in self.folder.glob("*.npy") if _OWN_NAME.match(path.name) and path not in in_use]
        unused.sort(key=lambda path: path.with_suffix(".json").stat().st_mtime_ns)
        sizes = [path.stat().st_size + path.with_suffix(".json").stat().st_size for path in unused]
        budget = self.budget_bytes - sum(path.stat().st_size for path in self.folder.iterdir())
        free = shutil.disk_usage(self.folder).free - SPARE_BYTES
        _check_fits(num_bytes, budget + sum(sizes), free + sum(sizes), f"the disk of {self.folder}")
        lacking = num_bytes - min(budget, free)
        for path, size in zip(unused, sizes, strict=True):
            if lacking > 0:
                logger.info("%s: removing %s, unused for longest (%s)", self.description, path, format_bytes(size))
                path.with_suffix(".json").unlink()
                path.unlink()
                lacking -= size

    def _remove_remains(self) -> None:
        """Removes what is not a complete array: interrupted builds, damaged files, those of earlier versions."""
        whole = set[str]()
        for index in self.folder.glob("*.json"):
            if _read_array(index) is not None:
                whole.add(index.stem)
            elif _OWN_NAME.match(index.name):
                logger.warning("%s: it or its .npy file is missing or damaged; the images are prepared again", index)
        for path in [*self.folder.iterdir()]:
            if _OWN_NAME.match(path.name) and path.stem not in whole:
                path.unlink(missing_ok=True)


class MemoryCache(ImageCache):
    """Arrays that stay until the process ends or a loader needs others: a fold finds those of the fold before it.

    The processes of a machine share the budget; each builds its own arrays, and the workers that it forks share them.
    """

    description = "image cache in memory"
    _kept: ClassVar[dict[str, PreparedArray]] = {}

    def _arrays(self, builds: Sequence[ArrayBuild]) -> dict[str, PreparedArray]:
        found, missing = self._found(builds)
        MemoryCache._kept = found
        if missing:
            processes = distributed.local_world_size()
            num_bytes = processes * sum(build.num_bytes for build in missing)
            kept = processes * sum(array.images.nbytes for array in found.values())
            _check_fits(num_bytes, self.budget_bytes - kept, available_memory() - SPARE_BYTES, "the memory")
            handles = [os.memfd_create("image_cache") for _ in missing]  # not limited as /dev/shm is
            try:
                files = {Path(f"/dev/fd/{handle}"): build for handle, build in zip(handles, missing, strict=True)}
                with StopSignals() as stop:
                    found |= self._built(files, stop)
            finally:
                for handle in handles:
                    os.close(handle)
        return found

    def _stored(self, key: str) -> list[PreparedArray]:
        return [self._kept[key]] if key in self._kept else []


_OWN_NAME = re.compile(r"\.?[0-9a-f]{16}[.-]")


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def _read_array(index: Path) -> PreparedArray | None:
    """None where the index or its array is missing or damaged."""
    try:
        files = {path: (size, changed) for path, (size, changed) in json.loads(index.read_bytes())["files"].items()}
        return PreparedArray(index.with_suffix(".npy"), files)
    except Exception:  # the header of a damaged array makes numpy raise errors of Python's tokenizer, and others
        return None


def _check_fits(num_bytes: int, budget: int, free: int, holder: str) -> None:
    """Raises InvalidConfig for images that take more bytes than the budget or the holder has left."""
    taken = f"the images take {format_bytes(num_bytes)}"
    if num_bytes > budget:
        text = f'allows {format_bytes(budget)}, and {taken}; raise it, or set cache to "none"'
        raise InvalidConfig([Problem(("cache_budget_gib",), text)])
    if num_bytes > free:
        text = (
            f'cannot be used: {taken}, and {holder} has {format_bytes(free)} to spare; free some, or set it to "none"'
        )
        raise InvalidConfig([Problem(("cache",), text)])


def format_bytes(number: int) -> str:
    return tqdm.format_sizeof(max(0, number), "iB", 1024).replace("kiB", "KiB")


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that can be taken without swapping: the least of what the machine has and what each control group around
    this process (version 2) leaves below its limit, where file pages that can be dropped count as free."""
    meminfo = dict(line.split(":") for line in (root / "proc/meminfo").read_text().splitlines())
    free = [int(meminfo["MemAvailable"].split()[0]) * 1024]
    base = root / "sys/fs/cgroup"
    with suppress(OSError):
        group = base / (root / "proc/self/cgroup").read_text().strip().rpartition("::")[2].lstrip("/")
        for folder in (group, *group.parents):  # a container may see its own group as the root
            with suppress(OSError, ValueError):  # no such group, or a limit of "max"
                limit, used = (int((folder / name).read_text()) for name in ("memory.max", "memory.current"))
                statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                free.append(limit - used + int(statistics["inactive_file"]))
    return max(0, min(free))
