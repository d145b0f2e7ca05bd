"""What a cache may take of memory and disk, who makes room for whom, and who waits."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import re
import shutil
import signal
import threading
import time
from collections import namedtuple
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
import pytest

from data_loader import cache_file, cache_filling, cache_room, image_store
from data_loader.cache_room import available_memory, locked
from data_loader.image_store import ImageStore
from data_loader.pixel_store import HEADER_BYTES
from tests.data_loader.cached_photos import (
    HEIGHT,
    IMAGE_BYTES,
    WIDTH,
    assert_right,
    cached,
    count_reads,
    draw,
    only,
    resized,
    sizes,
    unchanged,
)
from utils import distributed
from utils.errors import ConfigError, StopSignal
from utils.images.decoding import read_rgb
from utils.signals import StopSignals

FORK = multiprocessing.get_context("fork")
RECIPES = [resized(), resized(interpolation=0), resized(interpolation=2), resized(interpolation=3)]
"""They take the same room."""


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    return [draw(tmp_path / f"{number:02}.png") for number in range(20)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "image_cache"


def used(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def test_the_size_is_said_beforehand(paths: list[Path], folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    large = resized(300, 400)
    cached(paths[:5], folder, large)
    caplog.clear()
    cached(paths, folder, large)
    assert caplog.messages == [f"image cache in {folder}: 20 images, 6.9 MiB; 1.7 MiB of it are there already"]
    caplog.clear()
    cached(paths, folder, large)
    assert caplog.messages == [f"image cache in {folder}: all 20 images are there"]
    caplog.clear()
    cached(paths, None, unchanged(), "memory")
    assert caplog.messages == ["image cache in memory: 20 more images, 70.3 KiB"]


def test_what_was_not_used_for_longest_makes_room(
    paths: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for steps in RECIPES[:3]:
        cached(paths, folder, steps)
    cached(paths[:3], folder, RECIPES[0])  # used again
    budget = used(folder) + 5000
    caplog.clear()
    assert_right(cached(paths, folder, RECIPES[3], budget=budget), paths, RECIPES[3])
    assert caplog.text.count("make room") == 1
    assert used(folder) <= budget
    reads = count_reads(monkeypatch)
    for steps in (RECIPES[0], RECIPES[2], RECIPES[3]):
        cached(paths, folder, steps)
    assert reads == []
    cached(paths, folder, RECIPES[1])
    assert len(reads) == 20


def test_what_is_in_use_makes_no_room_and_nothing_is_removed_in_vain(
    paths: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = cached(paths, folder, RECIPES[0])
    cached(paths, folder, RECIPES[1])
    before = used(folder)
    budget = before + 5000
    with pytest.raises(ConfigError) as error:
        cached(paths, folder, resized(32, 40), budget=budget)
    assert re.fullmatch(
        r"data_loader.args.cache_budget_gib: the images take 75.0 KiB more, and the budget of \S+ KiB leaves "
        rf"0.\d KiB in {folder}, where \S+ KiB are in use; raise it, or set "
        r'data_loader.args.cache to "none"',
        str(error.value),
    )
    assert used(folder) == before
    assert_right(cached(paths, folder, RECIPES[2], budget=budget), paths, RECIPES[2])  # in place of the second
    assert_right(held, paths, RECIPES[0])
    reads = count_reads(monkeypatch)
    cached(paths, folder, RECIPES[0])
    assert reads == []


@pytest.mark.parametrize("has_room_to_rewrite", [True, False])
def test_another_data_set_of_the_same_recipe_makes_room(
    paths: list[Path],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    has_room_to_rewrite: bool,
) -> None:
    caplog.set_level(logging.INFO)
    first, second = paths[:12], paths[10:]
    cached(first, folder)
    budget = used(folder) + 3 * IMAGE_BYTES + 2000
    monkeypatch.setattr(cache_filling, "fits_beside", lambda _folder, _bytes: has_room_to_rewrite)
    held = cached(first[:1], folder)
    with pytest.raises(ConfigError, match="cache_budget_gib"):
        cached(second, folder, budget=budget)  # the first is in use
    assert_right(held, first[:1])
    del held
    reads = count_reads(monkeypatch)
    with pytest.raises(ConfigError, match="cache_budget_gib"):
        cached(paths, folder, budget=budget)  # no room can be made for all of them
    assert reads == []
    assert_right(cached(second, folder, budget=budget), second)
    assert len(reads) == (8 if has_room_to_rewrite else 10)
    assert "of other images make room" in caplog.text
    assert used(folder) <= budget


def test_who_waited_for_another_changes_nothing(
    paths: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the other has built in the meantime is whole: its index is not written again."""
    cached(paths, folder)
    monkeypatch.setattr(cache_file.DiskStore, "load_whole", lambda _store: False)  # as it was before the wait
    written = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(os, "fsync", lambda _handle: pytest.fail("something was written"))
    assert_right(cached(paths, folder), paths)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == written


def test_memory_is_divided_by_the_processes_of_a_machine(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "local_world_size", lambda: 4)
    monkeypatch.setattr(cache_room, "available_memory", lambda: cache_room.SPARE_BYTES + 4 * 19 * IMAGE_BYTES)
    steps = resized(HEIGHT, WIDTH, 2)
    with pytest.raises(ConfigError, match=r"the machine has 17\.8 KiB of memory left"):
        cached(paths, None, steps, "memory")
    assert_right(cached(paths[:19], None, steps, "memory"), paths[:19], steps)
    budgets = []

    def note(_wanted: object, _where: str, _folder: Path, budget_bytes: int, *_: object) -> list[object]:
        budgets.append(budget_bytes)
        return []

    monkeypatch.setattr(image_store, "cache_images", note)
    ImageStore("memory", None, 8).images([])
    ImageStore("disk", Path("nowhere"), 8).images([])
    assert budgets == [2 * 2**30, 8 * 2**30]


def test_forked_readers_count_as_use(paths: list[Path], folder: Path) -> None:
    images = cached(paths, folder, RECIPES[0])
    done = FORK.Event()
    process = FORK.Process(target=done.wait, args=(30,))
    process.start()
    del images
    with pytest.raises(ConfigError, match="cache_budget_gib"):
        cached(paths, folder, RECIPES[1], budget=used(folder) + 5000)
    done.set()
    process.join()
    cached(paths, folder, RECIPES[1], budget=used(folder) + 5000)


def test_anothers_files_are_left_alone(paths: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached(paths, folder, RECIPES[0])
    theirs, real = only(folder, ".pixels"), os.open

    def refuse(path: Path, flags: int, mode: int = 0o777) -> int:
        if path == theirs:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path, flags, mode)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ConfigError, match="cache_budget_gib"):
        cached(paths, folder, RECIPES[1], budget=used(folder) + 5000)
    assert theirs.exists()


def test_own_rows_of_changed_files_make_room(paths: list[Path], folder: Path) -> None:
    cached(paths, folder)
    budget = used(folder) + 2 * IMAGE_BYTES
    for path in paths[:4]:
        draw(path, 41, seed=1)
    assert_right(cached(paths, folder, budget=budget), paths)
    assert sizes(folder)[".pixels"] == HEADER_BYTES + 20 * IMAGE_BYTES


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(
    paths: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(0, 0, cache_room.SPARE_BYTES + 10 * IMAGE_BYTES))
    reads = count_reads(monkeypatch)
    with pytest.raises(ConfigError, match=r"^data_loader.args.cache: .* the disk of .* has \S+ KiB left .*\"none\"$"):
        cached(paths, folder)
    assert (reads, sizes(folder)) == ([], {})
    assert_right(cached(paths[:10], folder), paths[:10])


def test_memory_is_bounded_by_the_budget_and_the_machine(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    reads = count_reads(monkeypatch)
    with pytest.raises(ConfigError, match=r"cache_budget_gib: .* the budget of \S+ KiB leaves"):
        cached(paths, None, where="memory", budget=20 * IMAGE_BYTES - 1)
    assert_right(cached(paths, None, where="memory", budget=20 * IMAGE_BYTES), paths)
    monkeypatch.setattr(cache_room, "available_memory", lambda: cache_room.SPARE_BYTES + 20 * IMAGE_BYTES - 1)
    reads.clear()
    cache_filling._IN_MEMORY.clear()
    with pytest.raises(ConfigError, match=r"^data_loader.args.cache: .*the machine has .* memory left .*\"disk\""):
        cached(paths, None, where="memory")
    assert reads == []


def test_images_that_are_larger_than_was_reckoned_stop_at_the_budget(tmp_path: Path, folder: Path) -> None:
    paths = [draw(tmp_path / f"{number:02}.png", *((8, 8) if number % 2 == 0 else (64, 64))) for number in range(16)]
    with pytest.raises(ConfigError, match="cache_budget_gib"):
        cached(paths, folder, unchanged(), budget=40_000)
    assert used(folder) <= 40_000
    with pytest.raises(ConfigError, match="cache_budget_gib"):
        cached(paths, None, unchanged(), "memory", budget=40_000)
    assert_right(cached(paths, folder, unchanged()), paths, unchanged())


GIB = 2**30


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("", {}, 8 * GIB),
        ("0::/a/b\n", {}, 8 * GIB),
        ("0::/a/b\n", {"a/b/memory.max": "max", "a/b/memory.current": "1"}, 8 * GIB),
        ("0::/a/b\n", {"a/b/memory.max": f"{5 * GIB}", "a/b/memory.current": f"{2 * GIB}"}, 3 * GIB),
        (
            "0::/a/b\n",
            {
                "a/b/memory.max": f"{5 * GIB}",
                "a/b/memory.current": f"{2 * GIB}",
                "a/b/memory.stat": f"anon 7\ninactive_file {GIB}\n",
                "a/memory.max": f"{9 * GIB}",
                "a/memory.current": f"{8 * GIB}",
            },
            GIB,
        ),
        ("0::/../x\n", {"memory.max": f"{GIB}", "memory.current": f"{2 * GIB}"}, 0),
        (
            "3:cpu:/\n4:cpuset,memory:/docker/12\n",
            {
                "memory/memory.limit_in_bytes": f"{4 * GIB}",
                "memory/memory.usage_in_bytes": f"{2 * GIB}",
                "memory/memory.stat": f"total_inactive_file {GIB}\n",
            },
            3 * GIB,
        ),
    ],
)
def test_available_memory_is_the_least_of_machine_and_control_groups(
    tmp_path: Path, groups: str, files: dict[str, str], expected: int
) -> None:
    write(tmp_path / "proc/meminfo", f"MemTotal: 99 kB\nMemAvailable:   {8 * GIB // 1024} kB\n")
    write(tmp_path / "proc/self/cgroup", groups)
    for name, text in files.items():
        write(tmp_path / "sys/fs/cgroup" / name, text)
    assert available_memory(tmp_path) == expected


def test_available_memory_of_this_machine_is_plausible() -> None:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < available_memory() < total


def build_slowly(paths: list[Path], folder: Path, started: Event) -> None:
    def read(path: Path) -> np.ndarray:
        started.set()
        time.sleep(0.02)
        return read_rgb(path)

    cache_filling.read_rgb = read  # type: ignore[assignment]
    cached(paths, folder)


@pytest.mark.parametrize("same", [True, False])
def test_a_second_process_waits_and_finds_it_done(
    paths: list[Path],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    same: bool,
) -> None:
    caplog.set_level(logging.INFO)
    started = FORK.Event()
    process = FORK.Process(target=build_slowly, args=(paths if same else paths[:12], folder, started))
    process.start()
    assert started.wait(30)
    reads = count_reads(monkeypatch)
    images = cached(paths, folder)
    process.join()
    assert process.exitcode == 0
    assert len(reads) == (0 if same else 8)
    assert caplog.text.count("waiting for it") == 1
    assert_right(images, paths)
    assert sizes(folder)[".pixels"] == HEADER_BYTES + 20 * IMAGE_BYTES


def test_many_processes_at_once_make_each_image_once(paths: list[Path], folder: Path) -> None:
    def build(first: int) -> None:
        for steps in RECIPES[:2]:
            assert_right(cached(paths[first : first + 14], folder, steps), paths[first : first + 14], steps)

    processes = [FORK.Process(target=build, args=(first,)) for first in (0, 3, 6, 0)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert [path.stat().st_size for path in folder.glob("*.pixels")] == [HEADER_BYTES + 20 * IMAGE_BYTES] * 2


def test_what_is_whole_is_read_while_another_recipe_is_made(
    paths: list[Path], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    cached(paths, folder)
    caplog.clear()
    with StopSignals() as stop, locked(folder, stop):
        assert_right(cached(paths, folder), paths)
    assert "waiting" not in caplog.text


def test_a_signal_ends_the_waiting(paths: list[Path], folder: Path) -> None:
    folder.mkdir()
    with StopSignals() as stop, locked(folder, stop):
        timer = threading.Timer(0.15, os.kill, (os.getpid(), signal.SIGTERM))
        timer.start()
        with pytest.raises(StopSignal, match="stopped by SIGTERM"):
            cached(paths, folder)
        timer.join()
    assert_right(cached(paths, folder), paths)
    assert only(folder, ".json")
