"""Room for cached images: what the machine's memory, the disk and the budget leave, and who has to go first."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import shutil
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from data_loader.cache_file import INDEX_SUFFIX, PIXELS_SUFFIX
from utils import distributed
from utils.errors import ConfigError
from utils.signals import StopSignals

logger = logging.getLogger(__name__)

SPARE_BYTES = 256 * 2**20
"""What a cache leaves free of the disk (for checkpoints) and of the memory."""

_GIB = 2**30
_LOCK_FILE = ".lock"
_OWN_NAME = re.compile(r"\.?[0-9a-f]{16}\.")
_PAUSE_SECONDS = 0.1


@dataclass(frozen=True)
class Room:
    """How many bytes may be added, why not more, and what to do if that is too few; setting: whose value it is."""

    num_bytes: int
    reason: str
    remedy: str
    setting: str = "cache"

    def check(self, needed: int) -> None:
        """Raises ConfigError if `needed` bytes are more than there is room for."""
        if needed > self.num_bytes:
            raise ConfigError(
                f"data_loader.args.{self.setting}: the images take {shown_bytes(needed)} more, and {self.reason}; "
                f"{self.remedy}"
            )


def shown_bytes(number: int) -> str:
    for unit, size in (("GiB", _GIB), ("MiB", 2**20)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number / 2**10:.1f} KiB"


@contextmanager
def locked(folder: Path, stop: StopSignals) -> Iterator[None]:
    """While it is entered, no other process changes the folder. Raises OSError, and StopSignal where it waits."""
    try:
        handle = os.open(folder / _LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:  # another user's, which can be locked all the same
        handle = os.open(folder / _LOCK_FILE, os.O_RDONLY)
    try:
        told = False
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not told:
                    logger.info("%s: another process is caching images there; waiting for it", folder)
                told = True
                stop.raise_if_requested()
                time.sleep(_PAUSE_SECONDS)
        yield
    finally:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_UN)  # a process that was forked meanwhile would hold it on
        os.close(handle)


def room_in_memory(budget_bytes: int, held_bytes: int) -> Room:
    """The room for more images, beside those that the process holds; the machine's memory is for all its processes."""
    available, left = (available_memory() - SPARE_BYTES) // distributed.local_world_size(), budget_bytes - held_bytes
    if left <= available:
        return _within_budget(left, budget_bytes, "")
    return Room(
        max(0, available),
        f"the machine has {shown_bytes(max(0, available))} of memory left for them",
        'set data_loader.args.cache to "disk" or "none", or give the run more memory',
    )


def _within_budget(left: int, budget_bytes: int, where: str) -> Room:
    reason = f"the budget of {shown_bytes(budget_bytes)} leaves {shown_bytes(left)}{where}"
    return Room(left, reason, 'raise it, or set data_loader.args.cache to "none"', "cache_budget_gib")


def room_on_disk(folder: Path, budget_bytes: int, needed: int, wanted: Collection[str]) -> Room:
    """The room in `folder`, whose lock is held; if `needed` bytes do not fit, recipes make room that nobody has open
    and whose digest is not in `wanted`, the least recently used first, if that helps. Raises OSError."""
    _remove_remains(folder, wanted)
    room = present_room(folder, budget_bytes)
    if needed > room.num_bytes:
        others = [path for path in _own_files(folder) if path.suffix == INDEX_SUFFIX and path.stem not in wanted]
        unused = [path for path in sorted(others, key=lambda path: path.stat().st_mtime_ns) if not _is_open(path)]
        sizes = [path.stat().st_size + path.with_suffix(PIXELS_SUFFIX).stat().st_size for path in unused]
        if needed <= room.num_bytes + sum(sizes):
            freed = 0
            for path, size in zip(unused, sizes, strict=True):
                if needed <= room.num_bytes + freed:
                    break
                freed += size
                path.unlink()  # first the index: pixels without one are nothing
                path.with_suffix(PIXELS_SUFFIX).unlink()
                logger.info(
                    "%s: images of other transforms, unused for longest, make room (%s)", path, shown_bytes(size)
                )
            room = present_room(folder, budget_bytes)
    return room


def present_room(folder: Path, budget_bytes: int) -> Room:
    """The room in `folder` as it is. Raises OSError."""
    used = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    free = shutil.disk_usage(folder).free - SPARE_BYTES
    left = max(0, budget_bytes - used)
    if left <= free:
        return _within_budget(left, budget_bytes, f" in {folder}, where {shown_bytes(used)} are in use")
    return Room(
        max(0, free),
        f"the disk of {folder} has {shown_bytes(max(0, free))} left for them",
        'free some of it, or set data_loader.args.cache to "none"',
    )


def fits_beside(folder: Path, num_bytes: int) -> bool:
    """Whether the disk holds so much for a while, whatever the budget."""
    return num_bytes <= shutil.disk_usage(folder).free - SPARE_BYTES


def _remove_remains(folder: Path, wanted: Collection[str]) -> None:
    """What dead processes left: files on the way to another name, and pixels or an index without the other."""
    for path in _own_files(folder):
        other = {INDEX_SUFFIX: PIXELS_SUFFIX, PIXELS_SUFFIX: INDEX_SUFFIX}.get(path.suffix)
        alone = path.stem not in wanted and other is not None and not path.with_suffix(other).exists()
        if path.suffix in (".new", ".tmp") or alone:
            path.unlink()


def _own_files(folder: Path) -> list[Path]:
    """What the cache has put there, and nothing of anybody else."""
    return [path for path in folder.iterdir() if _OWN_NAME.match(path.name) and path.is_file()]


def _is_open(index_path: Path) -> bool:
    """Whether a process holds the shared lock that comes with the mapped pixels, or may: it is another user's file."""
    try:
        handle = os.open(index_path.with_suffix(PIXELS_SUFFIX), os.O_RDWR)
    except PermissionError:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that may be taken without swapping: the least of what the machine has and what each control group around
    this process (versions 1 and 2) leaves below its limit, file pages that can be dropped counting as free."""
    found = []
    for line in (root / "proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            found.append(int(line.split()[1]) * 1024)
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            base, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            base = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        here = base / group.lstrip("/")
        for folder in (here, *here.parents):  # a container may see its own group as the root
            if folder.is_relative_to(base) and (left := _left_in_group(folder, *names)) is not None:
                found.append(left)
    return min(found)


def _left_in_group(folder: Path, limit_name: str, usage_name: str, droppable_name: str) -> int | None:
    """None where the group has no limit, or is not to be seen."""
    limit, usage = _text(folder / limit_name).strip(), _text(folder / usage_name).strip()
    if not (limit.isdigit() and usage.isdigit()):
        return None
    droppable = dict(line.split() for line in _text(folder / "memory.stat").splitlines()).get(droppable_name, "0")
    return max(0, int(limit) - int(usage) + int(droppable))


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
