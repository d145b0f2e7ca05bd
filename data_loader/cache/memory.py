"""The cache in memory: gone with the process, shared with the workers that it forks."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import ClassVar

from data_loader.cache.image_cache import GIB, SPARE_BYTES, ArrayBuild, ImageCache, format_bytes
from data_loader.cache.prepared_array import PreparedArray
from data_loader.records.file_signatures import FileSignature
from utils import distributed
from utils.errors import ConfigError
from utils.signals import StopSignals


class MemoryCache(ImageCache):
    """Keeps arrays until the process ends, for the next fold's loader too. The budget is for all of a machine's
    processes, each of which builds its own."""

    description = "image cache in memory"
    _arrays_by_name: ClassVar[dict[str, PreparedArray]] = {}

    def find(self, key: str, files: Mapping[str, FileSignature]) -> PreparedArray | None:
        return next((array for array in self.arrays(key) if array.has(files)), None)

    def arrays(self, key: str) -> list[PreparedArray]:
        return [array for array in self._arrays_by_name.values() if array.key == key]

    def lock(self, stop: StopSignals) -> AbstractContextManager[None]:  # noqa: ARG002
        return nullcontext()

    def make_room(self, num_bytes: int, keep: Collection[str]) -> None:
        processes = distributed.local_world_size()
        sizes = {name: array.images.nbytes for name, array in self._arrays_by_name.items()}
        self.check_budget(sum(sizes[name] for name in keep) + num_bytes, processes)
        if sum(sizes.values()) + num_bytes > self.budget_gib * GIB / processes:
            for name in sizes.keys() - keep:
                del self._arrays_by_name[name]
        available = max(0, (available_memory() - SPARE_BYTES) // processes)
        if num_bytes > available:
            raise ConfigError(
                f"data_loader.args.cache: the images take {format_bytes(num_bytes)}, and the machine has "
                f'{format_bytes(available)} of memory left for them; set it to "disk" or "none", or give the run more '
                "memory"
            )

    def create(self, build: ArrayBuild) -> int:  # noqa: ARG002
        return os.memfd_create("image_cache")  # has no name, and does not count as /dev/shm

    def publish(self, build: ArrayBuild) -> PreparedArray:
        array = PreparedArray(build.handle, f"{len(self._arrays_by_name)}", build.key, build.files)
        self._arrays_by_name[array.name] = array
        return array

    def discard(self) -> None:
        pass

    def storage_error(self, error: OSError) -> ConfigError:
        return ConfigError(
            f"data_loader.args.cache: the machine's memory cannot hold the images ({error.strerror}); set it to "
            '"disk" or "none"'
        )


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that may be taken without swapping: the least of what the machine has and what each control group around
    this process (version 2) leaves below its limit, file pages that can be dropped counting as free."""
    meminfo = dict(line.split(":", 1) for line in _text(root / "proc/meminfo").splitlines())
    left = int(meminfo["MemAvailable"].split()[0]) * 1024
    base = root / "sys/fs/cgroup"
    group = base / _text(root / "proc/self/cgroup").strip().rpartition("::")[2].lstrip("/")
    for folder in (group, *group.parents):  # a container may see its own group as the root
        limit, used = _text(folder / "memory.max").strip(), _text(folder / "memory.current").strip()
        if folder.is_relative_to(base) and limit.isdigit() and used.isdigit():
            statistics = dict(line.split() for line in _text(folder / "memory.stat").splitlines())
            left = min(left, int(limit) - int(used) + int(statistics.get("inactive_file", 0)))
    return max(0, left)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
