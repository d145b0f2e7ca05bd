"""What happens to the cache when a process dies, a file is damaged, or the disk refuses."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import resource
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_loader import cache_file, cache_filling
from data_loader.image_cache import cache_images
from data_loader.pixel_store import HEADER_BYTES
from tests.data_loader.cached_photos import (
    BUDGET,
    IMAGE_BYTES,
    assert_right,
    cached,
    count_reads,
    draw,
    only,
    resized,
    sizes,
)
from utils.errors import ConfigError, KeyboardStop, StopSignal, StorageFullError
from utils.images.decoding import read_rgb

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    return [draw(tmp_path / f"{number:02}.png") for number in range(20)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "image_cache"


def build_slowly(paths: list[Path], folder: Path, saved_bytes: int) -> None:
    def read(path: Path) -> np.ndarray:
        time.sleep(0.02)
        return read_rgb(path)

    cache_filling.read_rgb = read  # type: ignore[assignment]
    cache_filling._SAVED_BYTES = saved_bytes
    cached(paths, folder)


@pytest.mark.parametrize("saved", [True, False])
def test_after_a_kill_nothing_is_taken_for_whole(
    paths: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch, saved: bool
) -> None:
    process = FORK.Process(target=build_slowly, args=(paths, folder, 2 * IMAGE_BYTES if saved else 2**30))
    process.start()
    enough = HEADER_BYTES + 8 * IMAGE_BYTES
    while sizes(folder).get(".pixels", 0) < enough if folder.exists() else True:
        assert process.is_alive()
        time.sleep(0.001)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert (".json" in sizes(folder)) == saved
    reads = count_reads(monkeypatch)
    assert_right(cached(paths, folder), paths)
    assert (2 <= 20 - len(reads) < 20) if saved else len(reads) == 20
    reads.clear()
    assert_right(cached(paths, folder), paths)
    assert reads == []
    assert sizes(folder)[".pixels"] == HEADER_BYTES + 20 * IMAGE_BYTES


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    path.write_bytes(data)


def cut(path: Path, *lengths: int) -> None:
    for length in lengths:
        os.truncate(path, length)


DAMAGE: dict[str, tuple[Callable[[Path, Path], None], int]] = {
    "index cut": (lambda index, _: cut(index, 700), 20),
    "index empty": (lambda index, _: cut(index, 0), 20),
    "index without its last byte": (lambda index, _: cut(index, index.stat().st_size - 1), 20),
    "index with another digit": (lambda index, _: flip(index, index.read_bytes().index(b'"offset"') + 14), 20),
    "index gone": (lambda index, _: index.unlink(), 20),
    "pixels cut": (lambda _, pixels: cut(pixels, HEADER_BYTES + 5 * IMAGE_BYTES - 1), 16),
    "pixels without the last byte": (lambda _, pixels: cut(pixels, pixels.stat().st_size - 1), 1),
    "pixels empty": (lambda _, pixels: cut(pixels, 0), 20),
    "pixels filled up": (
        lambda _, pixels: cut(pixels, HEADER_BYTES + 9 * IMAGE_BYTES, HEADER_BYTES + 20 * IMAGE_BYTES),
        11,
    ),
    "a pixel changed": (lambda _, pixels: flip(pixels, HEADER_BYTES + 7 * IMAGE_BYTES + 5), 1),
    "pixels of another file": (lambda _, pixels: flip(pixels, 20), 20),
    "pixels gone": (lambda _, pixels: pixels.unlink(), 20),
    "both copied": (lambda _, pixels: os.utime(pixels), 0),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_what_is_damaged_is_made_anew(
    paths: list[Path],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    name: str,
) -> None:
    cached(paths, folder)
    damage, lost = DAMAGE[name]
    damage(only(folder, ".json"), only(folder, ".pixels"))
    reads = count_reads(monkeypatch)
    caplog.set_level(logging.WARNING)
    assert_right(cached(paths, folder), paths)
    assert len(reads) == lost
    assert ("made anew" in caplog.text) == (lost > 0 and name != "index gone")
    reads.clear()
    caplog.clear()
    assert_right(cached(paths, folder), paths)
    assert (reads, caplog.text) == ([], "")
    assert sizes(folder)[".pixels"] == HEADER_BYTES + 20 * IMAGE_BYTES


def test_files_that_were_renamed_are_no_other_recipes(paths: list[Path], folder: Path) -> None:
    def files() -> set[Path]:
        return {path for path in folder.iterdir() if path.suffix in (".json", ".pixels")}

    cached(paths, folder)
    first = files()
    cached(paths, folder, resized(interpolation=0))
    for path in files() - first:
        path.replace(next(each for each in first if each.suffix == path.suffix))
    assert_right(cached(paths, folder), paths)


def test_what_a_run_has_open_outlives_the_damage_of_the_index(paths: list[Path], folder: Path) -> None:
    images = cached(paths, folder)
    cut(only(folder, ".json"), 100)
    cached(paths[::-1], folder)
    assert_right(images, paths)


@pytest.mark.parametrize("limit", [0, 5, 7.5])
@pytest.mark.parametrize("there", [0, 4])
def test_a_full_disk_is_one_line_and_leaves_what_is_whole(
    paths: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch, limit: float, there: int
) -> None:
    """limit: images that the disk has room for."""
    if there:
        cached(paths[:there], folder)
    room = int(limit * IMAGE_BYTES)
    real = os.pwrite

    def pwrite(handle: int, data: memoryview, offset: int) -> int:
        nonlocal room
        if len(data) == HEADER_BYTES:
            return real(handle, data, offset)
        if room == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = real(handle, data[:room], offset)  # as much as there is room for
        room -= written
        return written

    with monkeypatch.context() as full:
        full.setattr(os, "pwrite", pwrite)
        with pytest.raises(
            StorageFullError, match=r"^[^\n]*image_cache: the disk is full .No space.*cache to \"none\"$"
        ):
            cached(paths, folder)
    done = there + int(limit)
    assert sizes(folder).get(".pixels", 0) == (HEADER_BYTES + done * IMAGE_BYTES if done else 0)
    reads = count_reads(monkeypatch)
    assert_right(cached(paths, folder), paths)
    assert len(reads) == 20 - done


@pytest.mark.parametrize("there", [0, 4])
def test_a_disk_that_has_no_room_for_the_index(
    paths: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch, there: int
) -> None:
    folder.mkdir()
    if there:
        cached(paths[:there], folder)

    def fail(_path: Path, _data: bytes) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    before = sizes(folder)
    with monkeypatch.context() as full:
        full.setattr(cache_file, "write_atomically", fail)
        with pytest.raises(StorageFullError, match="the disk is full"):
            cached(paths, folder)
    assert sizes(folder) == before
    assert_right(cached(paths, folder), paths)


def test_a_limit_on_the_size_of_files(paths: list[Path], folder: Path) -> None:
    """A real refusal by the kernel, in a process of its own."""

    def build() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (HEADER_BYTES + 10 * IMAGE_BYTES + 7,) * 2)
        with pytest.raises(StorageFullError, match="File too large"):
            cached(paths, folder)

    process = FORK.Process(target=build)
    process.start()
    process.join(30)
    assert process.exitcode == 0
    assert sizes(folder)[".pixels"] == HEADER_BYTES + 10 * IMAGE_BYTES
    assert_right(cached(paths, folder), paths)


def test_a_file_in_the_folders_place(paths: list[Path], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "image_cache"):
        with pytest.raises(ConfigError, match=r"^[^\n]*file.*: images cannot be cached there .*cache to \"none\"$"):
            cached(paths, folder)


@pytest.mark.parametrize("suffix", [".json", ".pixels"])
def test_a_folder_in_a_files_place_is_named(paths: list[Path], folder: Path, suffix: str) -> None:
    cached(paths, folder)
    file = only(folder, suffix)
    file.unlink()
    file.mkdir()
    with pytest.raises(ConfigError, match=rf"^{folder}: images cannot be cached there \(Is a directory: {file}\)"):
        cached(paths, folder)


def test_a_folder_that_cannot_be_written_to_serves_what_is_whole(
    paths: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached(paths[:9], folder)
    real = os.open

    def read_only(path: str | Path, flags: int, mode: int = 0o777) -> int:
        if flags & (os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return real(path, flags, mode)

    def no_times(_path: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "open", read_only)
    monkeypatch.setattr(os, "utime", no_times)
    assert_right(cached(paths[2:9], folder), paths[2:9])
    with pytest.raises(ConfigError, match="Read-only file system"):
        cached(paths, folder)


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGTERM, StopSignal), (signal.SIGINT, KeyboardStop)])
def test_a_signal_stops_building_and_what_was_built_is_kept(
    paths: list[Path],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    number: signal.Signals,
    kind: type[StopSignal],
) -> None:
    def read(path: Path) -> np.ndarray:
        if path == paths[9]:
            os.kill(os.getpid(), number)
        time.sleep(0.005)
        return read_rgb(path)

    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as slow:
        slow.setattr(cache_filling, "read_rgb", read)
        with pytest.raises(kind, match=f"stopped by {number.name}"):
            cached(paths, folder)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers
    reads = count_reads(monkeypatch)
    caplog.set_level(logging.INFO)
    assert_right(cached(paths, folder), paths)
    assert 0 < len(reads) < 20
    assert "was checked" not in caplog.text  # it was left in order


def test_a_copied_cache_may_be_used_elsewhere(
    paths: list[Path], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached(paths, folder)
    shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copyfile)
    reads = count_reads(monkeypatch)
    images = cache_images([(paths, resized())], "disk", tmp_path / "copy", BUDGET)
    assert_right(images[0], paths)
    assert reads == []
