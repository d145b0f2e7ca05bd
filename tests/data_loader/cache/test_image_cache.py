"""Prepared images: the pixels that decoding gives, made once, whole or absent, within the budget."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import resource
import shutil
import signal
from collections import namedtuple
from collections.abc import Callable
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from data_loader.cache import arrays, image_cache
from data_loader.cache.image_cache import SPARE_BYTES, available_memory
from data_loader.transforms import DeterministicPrefix
from tests.data_loader.cache.conftest import ARRAY_BYTES, HEIGHT, WIDTH, Storage, assert_right, draw, resized, stacked
from utils import distributed, files
from utils.errors import DataError, InvalidConfig, KeyboardStop, StopSignal, StorageFullError
from utils.images import read_rgb, visit_rgb

FORK = multiprocessing.get_context("fork")
GIB = 2**30
PREFIXES = [resized(), resized(interpolation=0), resized(interpolation=2), resized(interpolation=3)]


def refused(error: pytest.ExceptionInfo[InvalidConfig]) -> str:
    (problem,) = error.value.problems
    return str(problem)


# The images


def test_images_are_what_decoding_gives(paths: list[Path], storage: Storage) -> None:
    images = storage.prepare(paths)
    assert_right(images, paths)
    with pytest.raises(ValueError, match="read-only"):
        images[3][0, 0, 0] = 1
    assert storage.folder.exists() == (storage.kind == "disk")
    process = FORK.Process(target=lambda: assert_right(images, paths))
    process.start()
    process.join(30)
    assert process.exitcode == 0


def test_batches_are_gathered_or_views(paths: list[Path], storage: Storage) -> None:
    images = storage.prepare(paths)
    every = stacked(images)
    out = np.empty((6, HEIGHT, WIDTH, 3), np.uint8)
    for indices in ([19, 0, 0, 7, 3, 11], np.array([5, 4, 3, 2, 1, 0])):
        images.gather(indices, out)
        np.testing.assert_array_equal(out, every[indices])
    with pytest.raises(IndexError):
        images.gather([0, 1, 2, 3, 4, 20], out)
    view = images.contiguous(np.arange(3, 9))
    assert view is not None
    np.testing.assert_array_equal(view, every[3:9])
    for indices in ([4, 3], [3, 5], [3, 3], []):
        assert images.contiguous(np.array(indices, np.int64)) is None
    view[0] = 255 - view[0]  # a write to a view stays in this process
    assert not np.array_equal(images[3], every[3])
    if storage.kind == "disk":
        np.testing.assert_array_equal(storage.prepare(paths)[3], every[3])


def test_a_subset_needs_no_decoding(paths: list[Path], storage: Storage, reads: list[str]) -> None:
    storage.prepare(paths)
    reads.clear()
    twice = [paths[12], *paths[::-2], paths[12]]
    assert_right(storage.prepare(twice), twice)
    assert reads == []


def test_images_are_decoded_once_for_all_requests(paths: list[Path], storage: Storage, reads: list[str]) -> None:
    requests = [(paths[:15], resized()), (paths, resized(12, 12)), (paths[5:], resized()), ([], resized(9, 9))]
    for _ in range(2):
        *made, empty = storage.cache().prepare(requests)
        for images, (some, prefix) in zip(made, requests, strict=False):
            assert_right(images, some, prefix)
        assert empty is None
        assert sorted(reads) == [path.name for path in paths]


def test_rows_of_unchanged_files_are_copied(paths: list[Path], disk: Storage, reads: list[str]) -> None:
    held = disk.prepare(paths[:15])
    before = stacked(held)
    status = paths[4].stat()
    draw(paths[4], seed=1)
    draw(paths[5], 41, seed=1)
    os.utime(paths[5], ns=(status.st_atime_ns, paths[5].stat().st_mtime_ns))
    os.utime(paths[6])
    reads.clear()
    assert_right(disk.prepare(paths), paths)
    assert sorted(reads) == [path.name for path in [*paths[4:7], *paths[15:]]]
    np.testing.assert_array_equal(stacked(held), before)  # an array that is in use stays


def test_other_transforms_or_libraries_are_another_key(
    paths: list[Path], disk: Storage, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk.prepare(paths)
    reads.clear()
    assert_right(disk.prepare(paths, PREFIXES[1]), paths, PREFIXES[1])
    assert len(reads) == 20
    for name in ("format", "decoding", "opencv", "pillow"):
        reads.clear()
        with monkeypatch.context() as other:
            other.setitem(image_cache.VERSIONS, name, "another")
            assert_right(disk.prepare(paths[:3]), paths[:3])
        assert len(reads) == 3, name


def test_images_of_several_sizes_are_not_kept(tmp_path: Path, storage: Storage) -> None:
    paths = [draw(tmp_path / f"{number}.png", 20 + number // 8, 31) for number in range(9)]
    assert storage.cache().prepare([(paths, DeterministicPrefix([], [], None))]) == [None]
    with pytest.raises(DataError, match=r"8\.png: .* 21 x 31 pixels .*, not 20 x 31"):
        storage.cache().prepare([(paths, DeterministicPrefix([], [], (20, 31)))])
    assert [name for name in storage.names() if name.endswith((".npy", ".json"))] == []


@pytest.mark.parametrize("defect", ["missing", "damaged", "small"])
def test_a_bad_image_is_the_error_of_decoding_and_leaves_nothing(
    paths: list[Path], storage: Storage, defect: str
) -> None:
    if defect == "missing":
        paths[12].unlink()
    elif defect == "damaged":
        paths[12].write_bytes(paths[12].read_bytes()[:-40])
    else:
        draw(paths[12], 5, 5)
    with pytest.raises(DataError) as plain:
        resized()(read_rgb(paths[12]), str(paths[12]))
    with pytest.raises(DataError) as error:
        storage.prepare(paths)
    assert str(error.value) == str(plain.value)
    assert storage.names() == []
    draw(paths[12])
    assert_right(storage.prepare(paths), paths)


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGTERM, StopSignal), (signal.SIGINT, KeyboardStop)])
def test_a_signal_stops_building_and_leaves_nothing(
    paths: list[Path], disk: Storage, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, kind: type[StopSignal]
) -> None:
    def visit(path: Path, *how: Any) -> Any:
        if path == paths[9]:
            os.kill(os.getpid(), number)
        return visit_rgb(path, *how)

    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patched:
        patched.setattr(arrays, "visit_rgb", visit)
        with pytest.raises(kind, match=number.name):
            disk.prepare(paths)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers
    assert disk.names() == []
    assert_right(disk.prepare(paths), paths)


# On disk


def build_slowly(paths: list[Path], disk: Storage, half_done: Event, resume: Event) -> None:
    def visit(path: Path, *how: Any) -> Any:
        if path == paths[10]:
            half_done.set()
            resume.wait(60)
        return visit_rgb(path, *how)

    vars(arrays)["visit_rgb"] = visit
    disk.prepare(paths)


def test_a_killed_build_leaves_nothing_that_is_used(paths: list[Path], disk: Storage, reads: list[str]) -> None:
    half_done = FORK.Event()
    process = FORK.Process(target=build_slowly, args=(paths, disk, half_done, FORK.Event()))
    process.start()
    assert half_done.wait(60)
    process.kill()
    process.join()
    assert [Path(name).suffix for name in disk.names()] == [".npy"]
    assert_right(disk.prepare(paths), paths)
    assert len(reads) == 20
    assert [Path(name).suffix for name in disk.names()] == [".json", ".npy"]


@pytest.mark.parametrize("same", [True, False])
def test_a_second_process_waits_and_uses_what_the_first_has_built(
    paths: list[Path], disk: Storage, reads: list[str], monkeypatch: pytest.MonkeyPatch, same: bool
) -> None:
    half_done, resume = FORK.Event(), FORK.Event()
    process = FORK.Process(target=build_slowly, args=(paths if same else paths[:12], disk, half_done, resume))
    process.start()
    assert half_done.wait(60)
    monkeypatch.setattr(files.logger, "info", lambda text, *_: resume.set() if "waiting" in text else None)
    images = disk.prepare(paths)
    process.join()
    assert (process.exitcode, resume.is_set()) == (0, True)
    assert len(reads) == (0 if same else 8)
    assert_right(images, paths)


def test_a_signal_ends_the_waiting(paths: list[Path], disk: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    disk.folder.mkdir(parents=True)
    monkeypatch.setattr(files.logger, "info", lambda *_: os.kill(os.getpid(), signal.SIGTERM))  # when it waits
    with (disk.folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # as another process
        with pytest.raises(StopSignal, match="SIGTERM"):
            disk.prepare(paths)
    monkeypatch.undo()
    assert_right(disk.prepare(paths), paths)


def test_a_whole_array_is_read_while_another_is_built(paths: list[Path], disk: Storage) -> None:
    disk.prepare(paths)
    with FileLock(disk.folder / ".lock"):
        assert_right(disk.prepare(paths), paths)


DAMAGE: dict[str, Callable[[Path, Path], object]] = {
    "index cut": lambda index, _: os.truncate(index, 700),
    "index gone": lambda index, _: index.unlink(),
    "index of an earlier version": lambda index, _: index.write_text(f"0123\n{index.read_text()}"),
    "index that names a file twice": lambda index, _: index.write_text(index.read_text().replace("/03.png", "/02.png")),
    "array without its last byte": lambda _, array: os.truncate(array, array.stat().st_size - 1),
    "array gone": lambda _, array: array.unlink(),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_array_is_built_anew(paths: list[Path], disk: Storage, reads: list[str], name: str) -> None:
    """A bit makes 03.png of 02.png: the rows after it would be those of other files."""
    disk.prepare(paths)
    DAMAGE[name](disk.only(".json"), disk.only(".npy"))
    reads.clear()
    for _ in range(2):
        assert_right(disk.prepare(paths), paths)
        assert (len(reads), len(disk.names())) == (20, 2)


def test_remains_are_removed_and_other_files_are_not(paths: list[Path], disk: Storage) -> None:
    disk.prepare(paths)
    remains = ["0123456789abcdef.pixels", "0123456789abcdef.json", ".0123456789abcdef-0123456789abcdef.npy.tmp"]
    others = {"notes.json", "holiday.npy", "a.tmp"}
    for name in (*remains, *others):
        (disk.folder / name).write_bytes(b"something")
    disk.prepare(paths, PREFIXES[1])
    assert others <= {*disk.names()}
    assert len({*disk.names()} - others) == 4


@pytest.mark.parametrize("name", ["write_atomically", "fsync"])
def test_a_disk_that_is_full_at_the_end(
    paths: list[Path], disk: Storage, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(os if name == "fsync" else image_cache, name, fail)
    with pytest.raises(StorageFullError):
        disk.prepare(paths)
    assert disk.names() == []


def test_a_disk_that_fills_up_is_exit_code_74_and_leaves_nothing(paths: list[Path], disk: Storage) -> None:
    """A real refusal by the kernel, in a process of its own."""
    disk.prepare(paths[:4], PREFIXES[1])
    before = disk.names()

    def build() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (ARRAY_BYTES // 2,) * 2)
        with pytest.raises(StorageFullError, match=r"^[^\n]*image_cache: .*\"none\"$"):
            disk.prepare(paths)

    process = FORK.Process(target=build)
    process.start()
    process.join(30)
    assert process.exitcode == 0
    assert disk.names() == before
    assert_right(disk.prepare(paths), paths)


def test_the_least_recently_used_array_goes(paths: list[Path], disk: Storage, reads: list[str]) -> None:
    for number, prefix in enumerate(PREFIXES[:3]):
        before = set(disk.folder.glob("*.json"))
        held = disk.prepare(paths, prefix)
        (index,) = set(disk.folder.glob("*.json")) - before
        os.utime(index, (number, number))
    disk.prepare(paths[:3], PREFIXES[0])  # used again
    budget = disk.num_bytes() + 5000
    assert_right(disk.prepare(paths, PREFIXES[3], budget), paths, PREFIXES[3])
    assert disk.num_bytes() <= budget
    assert_right(held, paths, PREFIXES[2])
    reads.clear()
    for prefix in (PREFIXES[0], PREFIXES[2], PREFIXES[3]):
        disk.prepare(paths, prefix)
    assert reads == []
    disk.prepare(paths, PREFIXES[1])
    assert len(reads) == 20


def test_what_does_not_fit_is_refused_and_nothing_is_removed(
    paths: list[Path], disk: Storage, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk.prepare(paths)
    before = disk.names()
    reads.clear()
    with pytest.raises(InvalidConfig) as error:
        disk.prepare(paths, resized(32, 40), budget_bytes=70_000)
    assert all(word in refused(error) for word in ("cache_budget_gib", "75.0", "raise it", '"none"'))
    with pytest.raises(InvalidConfig, match="cache_budget_gib"):  # an array in use does not go
        disk.cache(disk.num_bytes() + ARRAY_BYTES // 2).prepare([(paths, PREFIXES[0]), (paths, PREFIXES[1])])
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, SPARE_BYTES + 10_000))
    with pytest.raises(InvalidConfig) as error:
        disk.prepare(paths, resized(32, 40))
    assert all(word in refused(error) for word in ("cache ", "75.0", str(disk.folder), '"none"'))
    assert (reads, disk.names()) == ([], before)


def test_a_folder_that_cannot_be_made(paths: list[Path], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "image_cache"):
        with pytest.raises(InvalidConfig) as error:
            Storage("disk", folder).prepare(paths)
        assert all(word in refused(error) for word in ("cache ", str(tmp_path / "file"), '"none"'))


def test_a_read_only_folder_gives_what_it_has(
    paths: list[Path], disk: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk.prepare(paths[:9])
    real = os.open

    def read_only(path: str | Path, flags: int, mode: int = 0o777, **how: int) -> int:
        if flags & (os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return real(path, flags, mode, **how)

    def no_times(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "open", read_only)
    monkeypatch.setattr(os, "utime", no_times)
    assert_right(disk.prepare(paths[2:9]), paths[2:9])
    with pytest.raises(InvalidConfig, match="Read-only file system"):
        disk.prepare(paths)


# In memory


def test_other_arrays_take_the_place_of_earlier_ones(paths: list[Path], memory: Storage, reads: list[str]) -> None:
    first = memory.prepare(paths, budget_bytes=ARRAY_BYTES)
    for prefix in (PREFIXES[1], PREFIXES[0]):
        assert_right(memory.prepare(paths, prefix, ARRAY_BYTES), paths, prefix)
    assert_right(first, paths)  # it is still in use
    assert len(reads) == 60


@pytest.mark.parametrize("processes", [1, 4])
def test_memory_is_bounded_by_the_budget_and_by_the_machine(
    paths: list[Path], memory: Storage, reads: list[str], monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    """For all processes of the machine together."""
    monkeypatch.setattr(distributed, "local_world_size", lambda: processes)
    needed = processes * ARRAY_BYTES
    with pytest.raises(InvalidConfig) as error:
        memory.prepare(paths, budget_bytes=needed - 1)
    assert all(word in refused(error) for word in ("cache_budget_gib", "raise it"))
    monkeypatch.setattr(image_cache, "available_memory", lambda: SPARE_BYTES + needed - 1)
    with pytest.raises(InvalidConfig) as error:
        memory.prepare(paths)
    assert all(word in refused(error) for word in ("cache ", "memory", '"none"'))
    assert reads == []
    monkeypatch.setattr(image_cache, "available_memory", lambda: SPARE_BYTES + needed)
    assert_right(memory.prepare(paths, budget_bytes=needed), paths)


@pytest.mark.parametrize(
    ("groups", "limits", "expected"),
    [
        ("", {}, 8 * GIB),
        ("0::/a/b\n", {"a/b/": ("max", 1, 0)}, 8 * GIB),
        ("0::/a/b\n", {"a/b/": (5 * GIB, 2 * GIB, GIB), "a/": (9 * GIB, 8 * GIB, 0)}, GIB),
        ("0::/../x\n", {"": (GIB, 2 * GIB, 0)}, 0),
    ],
)
def test_available_memory_is_the_least_of_machine_and_control_groups(
    tmp_path: Path, groups: str, limits: dict[str, tuple[Any, int, int]], expected: int
) -> None:
    texts = {
        "proc/meminfo": f"MemTotal: 99 kB\nMemAvailable:   {8 * GIB // 1024} kB\n",
        "proc/self/cgroup": groups,
    }
    for group, (largest, current, inactive) in limits.items():
        texts[f"sys/fs/cgroup/{group}memory.max"] = str(largest)
        texts[f"sys/fs/cgroup/{group}memory.current"] = str(current)
        texts[f"sys/fs/cgroup/{group}memory.stat"] = f"anon 7\ninactive_file {inactive}\n"
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert available_memory(tmp_path) == expected
