"""The cache on disk: whole or absent, within its budget, whatever dies, is damaged or comes at the same time."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import resource
import shutil
import signal
import threading
from collections import namedtuple
from collections.abc import Callable
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from data_loader.cache import disk, image_cache
from data_loader.cache.image_cache import SPARE_BYTES
from tests.data_loader.cache.cached_photos import (
    ARRAY_BYTES,
    assert_right,
    cached,
    count_reads,
    names,
    resized,
)
from utils.errors import ConfigError, StopSignal, StorageFullError
from utils.images import read_rgb

FORK = multiprocessing.get_context("fork")
PREFIXES = [resized(), resized(interpolation=0), resized(interpolation=2), resized(interpolation=3)]
"""They take the same room."""


def only(folder: Path, suffix: str) -> Path:
    (path,) = folder.glob(f"*{suffix}")
    return path


def used(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def test_the_array_is_a_npy_file_in_the_order_of_the_paths(paths: list[Path], folder: Path) -> None:
    cached(paths, folder)
    array = np.load(only(folder, ".npy"))
    assert array.nbytes + 128 == ARRAY_BYTES == only(folder, ".npy").stat().st_size
    np.testing.assert_array_equal(array, [resized()(read_rgb(path)) for path in paths])
    index = json.loads(only(folder, ".json").read_bytes().split(b"\n", 1)[1])
    assert index["paths"] == [str(path) for path in paths]
    assert index["sizes"] == [path.stat().st_size for path in paths]


def build_slowly(paths: list[Path], folder: Path, half_done: Event, go_on: Event) -> None:
    def read(path: Path, bits: Any = 16) -> np.ndarray:
        if path == paths[10]:
            half_done.set()
            go_on.wait(60)
        return read_rgb(path, bits)

    vars(image_cache)["read_rgb"] = read
    cached(paths, folder)


def test_a_killed_build_leaves_nothing_that_is_believed(
    paths: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half_done = FORK.Event()
    process = FORK.Process(target=build_slowly, args=(paths, folder, half_done, FORK.Event()))
    process.start()
    assert half_done.wait(60)
    process.kill()
    process.join()
    assert [Path(name).suffix for name in names(folder)] == [".tmp"]
    reads = count_reads(monkeypatch)
    assert_right(cached(paths, folder), paths)
    assert len(reads) == 20
    assert [Path(name).suffix for name in names(folder)] == [".json", ".npy"]


@pytest.mark.parametrize("same", [True, False])
def test_a_second_process_waits_and_finds_it_done(
    paths: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, same: bool
) -> None:
    caplog.set_level("INFO")
    half_done, go_on = FORK.Event(), FORK.Event()
    process = FORK.Process(target=build_slowly, args=(paths if same else paths[:12], folder, half_done, go_on))
    process.start()
    assert half_done.wait(60)
    reads = count_reads(monkeypatch)
    monkeypatch.setattr(disk.logger, "info", lambda text, *_: go_on.set() if "waiting" in text else None)
    images = cached(paths, folder)
    process.join()
    assert (process.exitcode, go_on.is_set()) == (0, True)
    assert len(reads) == (0 if same else 8)
    assert_right(images, paths)


def test_a_signal_ends_the_waiting(paths: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir(parents=True)
    monkeypatch.setattr(disk.logger, "info", lambda *_: os.kill(os.getpid(), signal.SIGTERM))  # when it waits
    with FileLock(folder / ".lock"), pytest.raises(StopSignal, match="SIGTERM"):
        cached(paths, folder)
    monkeypatch.undo()
    assert_right(cached(paths, folder), paths)


def test_what_is_whole_is_read_while_another_key_is_built(paths: list[Path], folder: Path) -> None:
    cached(paths, folder)
    with FileLock(folder / ".lock"):
        assert_right(cached(paths, folder), paths)


def test_many_processes_at_once(paths: list[Path], folder: Path) -> None:
    def build(first: int) -> None:
        for prefix in PREFIXES[:2]:
            assert_right(cached(paths[first : first + 14], folder, prefix), paths[first : first + 14], prefix)

    processes = [FORK.Process(target=build, args=(first,)) for first in (0, 3, 6, 0)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    path.write_bytes(data)


DAMAGE: dict[str, Callable[[Path, Path], object]] = {
    "index cut": lambda index, _: os.truncate(index, 700),
    "index empty": lambda index, _: os.truncate(index, 0),
    "index with another digit": lambda index, _: flip(index, index.read_bytes().index(b'"sizes"') + 10),
    "index gone": lambda index, _: index.unlink(),
    "index of another kind": lambda index, _: index.write_text("{}"),
    "array without its last byte": lambda _, array: os.truncate(array, ARRAY_BYTES - 1),
    "array empty": lambda _, array: os.truncate(array, 0),
    "array gone": lambda _, array: array.unlink(),
    "a pixel changed": lambda _, array: flip(array, 5000),
    "a header changed": lambda _, array: flip(array, 20),
    "copied without its time": lambda _, array: os.utime(array),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_what_is_damaged_is_built_anew(
    paths: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    cached(paths, folder)
    DAMAGE[name](only(folder, ".json"), only(folder, ".npy"))
    reads = count_reads(monkeypatch)
    assert_right(cached(paths, folder), paths)
    assert len(reads) == 20
    assert ("damaged" in caplog.text) == (name != "index gone")
    reads.clear()
    caplog.clear()
    assert_right(cached(paths, folder), paths)
    assert (reads, caplog.text, len(names(folder))) == ([], "", 2)


def test_files_that_were_renamed_are_of_no_other_key(paths: list[Path], folder: Path) -> None:
    cached(paths, folder)
    first = names(folder)
    cached(paths, folder, PREFIXES[1])
    for name in set(names(folder)) - set(first):
        (folder / name).replace(folder / next(each for each in first if each[-4:] == name[-4:]))
    assert_right(cached(paths, folder), paths)


def test_a_cache_that_was_copied_with_its_times_serves(
    paths: list[Path], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached(paths, folder)
    shutil.copytree(folder, tmp_path / "copy")
    reads = count_reads(monkeypatch)
    assert_right(cached(paths, tmp_path / "copy"), paths)
    assert reads == []


def test_remains_and_what_is_superseded_are_removed_and_strangers_are_not(paths: list[Path], folder: Path) -> None:
    cached(paths[:15], folder)
    cached(paths, folder, PREFIXES[1])
    remains = ["0123456789abcdef.pixels", "0123456789abcdef.json", ".0123456789abcdef-0123456789abcdef.npy.tmp"]
    strangers = {"notes.json", "holiday.npy", "a.tmp"}
    for name in (*remains, *strangers):
        (folder / name).write_bytes(b"something")
    assert_right(cached(paths, folder), paths)
    left = {*names(folder)}
    assert strangers <= left
    assert len(left - strangers) == 4  # the array of all 20 took the place of that of 15


@pytest.mark.parametrize("images", [0, 7.5])
def test_a_full_disk_is_one_line_and_leaves_nothing(
    paths: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch, images: float
) -> None:
    """images: that the disk has room for."""
    cached(paths[:4], folder, PREFIXES[1])
    before = names(folder)
    room, real, one_at_a_time = int(images * 960), os.pwrite, threading.Lock()

    def pwrite(handle: int, data: memoryview, offset: int) -> int:
        nonlocal room
        with one_at_a_time:
            if room == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            written = real(handle, data[:room], offset)  # as much as there is room for
            room -= written
        return written

    with monkeypatch.context() as full:
        full.setattr(os, "pwrite", pwrite)
        with pytest.raises(StorageFullError, match=r"^[^\n]*image_cache: .*No space.*\"none\"$"):
            cached(paths, folder)
    assert names(folder) == before
    assert_right(cached(paths, folder), paths)


@pytest.mark.parametrize("name", ["write_index", "fsync"])
def test_a_disk_that_is_full_at_the_end(
    paths: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    with monkeypatch.context() as full:
        full.setattr(disk if name == "write_index" else os, name, fail)
        with pytest.raises(StorageFullError):
            cached(paths, folder)
    assert names(folder) == []
    assert_right(cached(paths, folder), paths)


def test_a_limit_on_the_size_of_files(paths: list[Path], folder: Path) -> None:
    """A real refusal by the kernel, in a process of its own."""

    def build() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (ARRAY_BYTES // 2,) * 2)
        with pytest.raises(StorageFullError):
            cached(paths, folder)

    process = FORK.Process(target=build)
    process.start()
    process.join(30)
    assert process.exitcode == 0
    assert names(folder) == []


def test_the_least_recently_used_makes_room(paths: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, prefix in enumerate(PREFIXES[:3]):
        before = set(folder.glob("*.json"))
        held = cached(paths, folder, prefix)
        (index,) = set(folder.glob("*.json")) - before
        os.utime(index, (number, number))
    cached(paths[:3], folder, PREFIXES[0])  # used again
    budget = used(folder) + 5000
    assert_right(cached(paths, folder, PREFIXES[3], budget_bytes=budget), paths, PREFIXES[3])
    assert used(folder) <= budget
    assert_right(held, paths, PREFIXES[2])
    reads = count_reads(monkeypatch)
    for prefix in (PREFIXES[0], PREFIXES[2], PREFIXES[3]):
        cached(paths, folder, prefix)
    assert reads == []
    cached(paths, folder, PREFIXES[1])
    assert len(reads) == 20


def test_what_does_not_fit_is_told_and_nothing_is_removed_in_vain(
    paths: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached(paths, folder)
    before = names(folder)
    reads = count_reads(monkeypatch)
    with pytest.raises(ConfigError, match=r"^data_loader\.args\.cache_budget_gib = .*75\.1 KiB; raise it.*\"none\"$"):
        cached(paths, folder, resized(32, 40), budget_bytes=70_000)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, SPARE_BYTES + 10_000))
    with pytest.raises(ConfigError, match=r"^data_loader\.args\.cache: .*75\.1 KiB.* the disk of .* has .*\"none\"$"):
        cached(paths, folder, resized(32, 40))
    assert (reads, names(folder)) == ([], before)


def test_the_array_that_the_other_side_of_the_split_uses_makes_no_room(paths: list[Path], folder: Path) -> None:
    cached(paths, folder)
    cache = disk.DiskCache(folder, (used(folder) + ARRAY_BYTES // 2) / 2**30)
    with pytest.raises(ConfigError, match="cache_budget_gib"):
        cache.prepare([(paths, PREFIXES[0]), (paths, PREFIXES[1])])


def test_a_file_in_the_folders_place(paths: list[Path], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "image_cache"):
        with pytest.raises(ConfigError, match=r"^[^\n]*file.*cannot be cached.*\"none\"$"):
            cached(paths, folder)


def test_a_folder_that_cannot_be_written_to_serves_what_is_whole(
    paths: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached(paths[:9], folder)
    real = os.open

    def read_only(path: str | Path, flags: int, mode: int = 0o777, **how: int) -> int:
        if flags & (os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return real(path, flags, mode, **how)

    def no_times(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "open", read_only)
    monkeypatch.setattr(os, "utime", no_times)
    assert_right(cached(paths[2:9], folder), paths[2:9])
    with pytest.raises(ConfigError, match="Read-only file system"):
        cached(paths, folder)


def test_a_cache_may_be_larger_than_the_memory(folder: Path) -> None:
    build = image_cache.ArrayBuild("key", resized(2**10, 2**10))
    build.files |= {f"{number}": (1, 1) for number in range(2**18)}
    folder.mkdir(parents=True)
    with (folder / "hole").open("w+b") as file:
        build.begin(file.fileno(), [])
        file.truncate(build.num_bytes)  # takes no room
        array = image_cache.PreparedArray(file.fileno(), "", "key", build.files)
    assert (array.images.shape, int(array.images[-1, -1, -1, -1])) == ((2**18, 2**10, 2**10, 3), 0)
