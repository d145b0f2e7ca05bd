"""Prepared images: the same pixels as without a cache, made once, for as many as ask for them."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import albumentations
import numpy as np
import pytest

from data_loader.cache import DiskCache, MemoryCache, image_cache
from data_loader.records.file_signatures import signatures_of
from data_loader.transforms import DeterministicPrefix
from tests.data_loader.cache.cached_photos import (
    HEIGHT,
    WIDTH,
    assert_right,
    cache_of,
    cached,
    count_reads,
    draw,
    names,
    resized,
)
from utils.errors import DataError, KeyboardStop, StopSignal
from utils.images import read_rgb

both = pytest.mark.parametrize("where", ["memory", "disk"])


@both
def test_images_are_what_decoding_gives(paths: list[Path], folder: Path, where: str) -> None:
    images = cached(paths, folder, where=where)
    assert_right(images, paths)
    with pytest.raises(ValueError, match="read-only"):
        images[3][0, 0, 0] = 1
    assert folder.exists() == (where == "disk")


@both
def test_batches_are_gathered_or_views(paths: list[Path], folder: Path, where: str) -> None:
    images = cached(paths, folder, where=where)
    every = np.stack([images[index] for index in range(20)])
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
    view[0] = 255 - view[0]  # which nobody is to do: it must not reach another run
    assert not np.array_equal(images[3], every[3])
    if where == "disk":
        np.testing.assert_array_equal(cached(paths, folder)[3], every[3])


@both
def test_a_subset_and_other_paths_to_the_same_files_are_there_already(
    paths: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    cached(paths, folder, where=where)
    reads = count_reads(monkeypatch)
    monkeypatch.chdir(paths[0].parent)
    twice = [Path(paths[12].name), *paths[::-2], paths[12]]
    assert_right(cached(twice, folder, where=where), twice)
    assert reads == []


@both
def test_images_are_decoded_once_for_all_requests(
    paths: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    reads = count_reads(monkeypatch)
    requests = [(paths[:15], resized()), (paths, resized(12, 12)), (paths[5:], resized()), ([], resized(9, 9))]
    for _ in range(2):
        *made, empty = cache_of(where, folder).prepare(requests)
        for images, (some, prefix) in zip(made, requests, strict=False):
            assert_right(images, some, prefix)
        assert empty is None
        assert sorted(reads) == [path.name for path in paths]


@both
def test_rows_of_unchanged_files_are_copied(
    paths: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    held = cached(paths[:15], folder, where=where)
    before = [held[index].copy() for index in range(15)]
    status = paths[4].stat()
    draw(paths[4], seed=1)
    draw(paths[5], 41, seed=1)
    os.utime(paths[5], ns=(status.st_atime_ns, paths[5].stat().st_mtime_ns))
    os.utime(paths[6])
    reads = count_reads(monkeypatch)
    assert_right(cached(paths, folder, where=where), paths)
    assert sorted(reads) == [path.name for path in [*paths[4:7], *paths[15:]]]
    np.testing.assert_array_equal([held[index] for index in range(15)], before)  # who has an array keeps it


def test_a_signature_that_is_at_hand_is_taken(paths: list[Path], folder: Path) -> None:
    known = signatures_of([str(path) for path in paths])
    DiskCache(folder, 1).prepare([(paths, resized())], known)
    draw(paths[0], 41)
    assert_right(cached(paths, folder), paths)  # it had been read as it was before


def test_other_transforms_or_libraries_are_another_key(
    paths: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached(paths, folder)
    reads = count_reads(monkeypatch)
    nearest = resized(interpolation=0)
    assert_right(cached(paths, folder, nearest), paths, nearest)
    assert len(reads) == 20
    for name in image_cache._VERSIONS:
        reads.clear()
        with monkeypatch.context() as other:
            other.setitem(image_cache._VERSIONS, name, "another")
            assert_right(cached(paths[:3], folder), paths[:3])
        assert len(reads) == 3, name


@both
@pytest.mark.parametrize("is_known", [True, False])
def test_images_of_several_sizes_are_not_kept(
    tmp_path: Path, folder: Path, caplog: pytest.LogCaptureFixture, where: str, is_known: bool
) -> None:
    """Whether that was seen from the transforms, or from an image."""
    caplog.set_level("INFO")
    paths = [draw(tmp_path / f"{number}.png", 20 + number // 8, 31) for number in range(9)]
    prefix = DeterministicPrefix([], [], None if is_known else (20, 31))
    assert cache_of(where, folder).prepare([(paths, prefix)]) == [None]
    assert "kept" in caplog.text
    assert not folder.exists() or names(folder) == []


def test_transforms_that_write_into_their_image_do_not_spoil_it_for_others(paths: list[Path], folder: Path) -> None:
    class Blacken(albumentations.ImageOnlyTransform):
        def apply(self, img: np.ndarray, **_params: object) -> np.ndarray:
            img[:] = 0
            return img

    black = DeterministicPrefix([Blacken(p=1)], [{"type": "Blacken", "args": {}}], (40, 30))
    plain = DeterministicPrefix([], [], (40, 30))
    first, second = DiskCache(folder, 1).prepare([(paths, black), (paths, plain)])
    assert_right(second, paths, plain)
    assert first is not None
    assert not first[0].any()


@both
def test_processes_that_are_forked_read_the_same_map(paths: list[Path], folder: Path, where: str) -> None:
    images = cached(paths, folder, where=where)
    process = multiprocessing.get_context("fork").Process(target=lambda: assert_right(images, paths))
    process.start()
    process.join(30)
    assert process.exitcode == 0


@both
@pytest.mark.parametrize("defect", ["missing", "damaged", "small"])
def test_a_bad_image_is_told_as_without_a_cache_and_nothing_is_left(
    paths: list[Path], folder: Path, where: str, defect: str
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
        cached(paths, folder, where=where)
    assert str(error.value) == str(plain.value)
    assert not folder.exists() or names(folder) == []
    draw(paths[12])
    assert_right(cached(paths, folder, where=where), paths)


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGTERM, StopSignal), (signal.SIGINT, KeyboardStop)])
def test_a_signal_stops_building_and_nothing_is_left(
    paths: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, kind: type[StopSignal]
) -> None:
    def read(path: Path, bits: Any = 16) -> np.ndarray:
        if path == paths[9]:
            os.kill(os.getpid(), number)
        return read_rgb(path, bits)

    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patched:
        patched.setattr(image_cache, "read_rgb", read)
        with pytest.raises(kind, match=number.name):
            cached(paths, folder)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers
    assert names(folder) == []
    assert_right(cached(paths, folder), paths)


def test_the_size_is_logged(paths: list[Path], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    MemoryCache(1, show_progress=True).prepare([(paths[:3], resized(7, 7))])
    (line,) = caplog.messages
    assert "3 images" in line
    assert f"{(128 + 3 * 7 * 7 * 3) / 1024:.1f} KiB" in line
