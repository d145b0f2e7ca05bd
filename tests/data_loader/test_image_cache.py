"""The cache of prepared images: the same pixels as without it, made once, for as many as ask for them."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path
from typing import Literal

import albumentations
import numpy as np
import pytest

from data_loader import image_cache
from data_loader.image_cache import cache_images
from data_loader.pixel_store import HEADER_BYTES, PixelStore
from data_loader.transforms import DeterministicPrefix
from tests.data_loader.cached_photos import (
    BUDGET,
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
from utils.errors import ConfigError, DataError
from utils.images.decoding import read_rgb

Where = Literal["memory", "disk"]
PLACES: list[Where] = ["memory", "disk"]


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "photos 사진"
    folder.mkdir()
    return [draw(folder / f"{number:02}.png") for number in range(20)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "saved" / "image_cache"


@pytest.mark.parametrize("where", PLACES)
def test_images_are_what_decoding_gives(paths: list[Path], folder: Path, where: Where) -> None:
    images = cached(paths, folder, where=where)
    assert_right(images, paths)
    assert images.image_hw == (HEIGHT, WIDTH)
    assert images.nbytes == 20 * IMAGE_BYTES
    with pytest.raises(ValueError, match="read-only"):
        images[3][0, 0, 0] = 1
    assert folder.exists() == (where == "disk")


@pytest.mark.parametrize("where", PLACES)
def test_gather_copies_the_images_that_are_named(paths: list[Path], folder: Path, where: Where) -> None:
    cached(paths[7:12], folder, where=where)  # so that on the disk rows are in another order than paths
    images = cached(paths, folder, where=where)
    every = np.stack([images[index] for index in range(20)])
    out = np.empty((6, HEIGHT, WIDTH, 3), np.uint8)
    for indices in ([19, 0, 0, 7, 3, 11], np.array([5, 4, 3, 2, 1, 0])):
        images.gather(indices, out)
        np.testing.assert_array_equal(out, every[indices])
    with pytest.raises(IndexError):
        images.gather([0, 1, 2, 3, 4, 20], out)


@pytest.mark.parametrize("where", PLACES)
def test_images_that_lie_in_order_are_not_copied(paths: list[Path], folder: Path, where: Where) -> None:
    images = cached(paths, folder, where=where)
    lying = images.in_place(np.arange(3, 9))
    assert lying is not None
    assert lying.base is not None
    np.testing.assert_array_equal(lying, np.stack([images[index] for index in range(3, 9)]))
    for indices in ([4, 3], [3, 5], [3, 3], []):
        assert images.in_place(np.array(indices, np.int64)) is None
    before = images[3].copy()
    lying[0] = 255 - lying[0]  # which nobody is to do: it must not reach another run
    np.testing.assert_array_equal(cached(paths, folder, where=where)[3], before)


def test_other_orders_are_copied(paths: list[Path], folder: Path) -> None:
    cached(paths[7:12], folder)  # on the disk these come first
    images = cached(paths, folder)
    assert images.in_place(np.arange(5, 9)) is None
    assert images.in_place(np.arange(10, 14)) is None
    assert images.in_place(np.arange(7, 12)) is not None
    assert images.in_place(np.arange(12, 20)) is not None


def test_images_are_decoded_once_for_all_steps_and_runs(
    paths: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = count_reads(monkeypatch)
    steps = [resized(), resized(12, 12), resized(), unchanged()]
    images = cache_images([(paths, each) for each in steps], "disk", folder, BUDGET)
    assert set(reads) == {path.name for path in paths}
    assert len(reads) <= 20 + 2 * 8  # a few more, to reckon what images of unknown size take
    assert len(images) == 4
    assert len(list(folder.glob("*.pixels"))) == 3
    reads.clear()
    for each, made in zip(
        cache_images([(paths[5:], each) for each in steps], "disk", folder, BUDGET), steps, strict=True
    ):
        assert_right(each, paths[5:], made)
    assert reads == []


def test_training_and_validation_share_a_file(paths: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = count_reads(monkeypatch)
    first = cached(paths[:15], folder)
    monkeypatch.chdir(paths[0].parent)
    twice = [*[Path(path.name) for path in paths[10:]], paths[10]]  # a relative path is the same file
    second = cached(twice, folder)
    assert sorted(reads) == [path.name for path in paths]
    assert sizes(folder)[".pixels"] == HEADER_BYTES + 20 * IMAGE_BYTES
    assert_right(first, paths[:15])
    assert_right(second, twice)


@pytest.mark.parametrize("change", ["content", "time", "size"])
def test_a_changed_file_is_made_anew_alone(
    paths: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    before = cached(paths, folder)
    old = before[4].copy()
    status = paths[4].stat()
    if change == "time":
        os.utime(paths[4], ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    else:
        draw(paths[4], 40 + (change == "size"), seed=1)
    if change == "size":
        os.utime(paths[4], ns=(status.st_atime_ns, status.st_mtime_ns))
    reads = count_reads(monkeypatch)
    assert_right(cached(paths, folder), paths)
    assert reads == [paths[4].name]
    np.testing.assert_array_equal(before[4], old)  # what a run has open does not change under it


def test_other_steps_or_libraries_are_another_recipe(
    paths: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached(paths, folder)
    reads = count_reads(monkeypatch)
    assert_right(cached(paths, folder, resized(interpolation=0)), paths, resized(interpolation=0))
    assert len(reads) == 20
    for name in image_cache._VERSIONS:
        reads.clear()
        with monkeypatch.context() as other:
            other.setitem(image_cache._VERSIONS, name, "another")
            assert_right(cached(paths[:3], folder), paths[:3])
        assert len(reads) == 3, name
    assert len(list(folder.glob("*.json"))) == 2 + len(image_cache._VERSIONS)


@pytest.mark.parametrize("where", PLACES)
def test_images_of_several_sizes(tmp_path: Path, folder: Path, where: Where) -> None:
    paths = [draw(tmp_path / f"{number}.png", 20 + number % 3, 31) for number in range(9)]
    images = cached(paths, folder, unchanged(), where)
    assert images.image_hw is None
    assert images.nbytes == sum(read_rgb(path).nbytes for path in paths)
    assert_right(images, paths, unchanged())
    with pytest.raises(ValueError, match="read-only"):
        images[3][0, 0, 0] = 1
    alike = cached(paths[::3], folder, unchanged(), where)
    assert alike.image_hw is None  # the others stand between
    assert_right(alike, paths[::3], unchanged())


def test_images_that_happen_to_have_one_size_are_gathered(paths: list[Path]) -> None:
    images = cached(paths, None, unchanged(), "memory")
    assert images.image_hw == (40, 30)
    out = np.empty((2, 40, 30, 3), np.uint8)
    images.gather([3, 8], out)
    np.testing.assert_array_equal(out, [read_rgb(paths[3]), read_rgb(paths[8])])


def test_steps_that_write_into_their_image_do_not_spoil_it_for_others(paths: list[Path]) -> None:
    class Blacken(albumentations.ImageOnlyTransform):
        def apply(self, img: np.ndarray, **_params: object) -> np.ndarray:
            img[:] = 0
            return img

    black = DeterministicPrefix([Blacken(p=1)], [{"type": "Blacken", "args": {}}], None)
    for steps in ([black, unchanged()], [unchanged(), black]):
        images = cache_images([(paths, each) for each in steps], "memory", None, BUDGET)
        assert_right(images[steps[1] is not black], paths, unchanged())
        assert not images[steps[0] is not black][0].any()


@pytest.mark.parametrize("where", PLACES)
def test_processes_that_are_forked_read_the_same_map(paths: list[Path], folder: Path, where: Where) -> None:
    images = cached(paths, folder, where=where)

    def check() -> None:
        assert_right(images, paths)

    process = multiprocessing.get_context("fork").Process(target=check)
    process.start()
    process.join(30)
    assert process.exitcode == 0


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("defect", ["missing", "damaged", "small"])
def test_a_bad_image_is_told_as_without_a_cache_and_the_others_are_kept(
    paths: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch, where: Where, defect: str
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
    draw(paths[12])
    reads = count_reads(monkeypatch)
    assert_right(cached(paths, folder, where=where), paths)
    assert len(reads) == 8


@pytest.mark.parametrize("where", PLACES)
def test_no_images(folder: Path, where: Where) -> None:
    images = cached([], folder, where=where)
    assert (len(images), images.nbytes, images.image_hw) == (0, 0, (HEIGHT, WIDTH))
    assert len(cached([], folder, where=where)) == 0


def test_rows_follow_the_order_of_the_paths(paths: list[Path], folder: Path, tmp_path: Path) -> None:
    """Threads finish in any order."""
    cached(paths, folder)
    cached(paths, tmp_path / "other")
    first, second = (only(each, ".pixels").read_bytes()[HEADER_BYTES:] for each in (folder, tmp_path / "other"))
    assert first == second


def test_memory_takes_no_more_handles_than_recipes(paths: list[Path]) -> None:
    cached(paths, None, where="memory")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        cached(paths, None, where="memory")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_all_that_is_wanted_is_reckoned_before_the_first_image_is_made(
    paths: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = count_reads(monkeypatch)
    sides = [(paths[:15], resized()), (paths[15:], resized(HEIGHT + 1, WIDTH))]
    for where in PLACES:
        with pytest.raises(ConfigError, match="cache_budget_gib"):
            cache_images(sides, where, folder, 20 * IMAGE_BYTES)
    assert reads == []
    for made, (some, steps) in zip(cache_images(sides, "disk", folder, BUDGET), sides, strict=True):
        assert_right(made, some, steps)
    assert len(reads) == 20


def test_memory_is_shared_by_the_sides_of_a_split_and_by_folds(
    paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = count_reads(monkeypatch)
    whole = cached(paths, None, where="memory")
    assert sorted(reads) == [path.name for path in paths]
    for fold in (paths[:5], paths[5:], paths[::-2]):
        assert_right(cached(fold, None, where="memory"), fold)
    assert len(reads) == len(paths)
    other = resized(18, 20)
    assert_right(cached(paths, None, other, "memory", budget=whole.nbytes * 3 // 2), paths, other)  # room for one
    assert_right(whole, paths)  # who has them keeps them
    assert_right(cached(paths, None, where="memory", budget=whole.nbytes * 3 // 2), paths)
    assert len(reads) == 3 * len(paths)


def test_a_side_without_images_beside_one_that_is_there(paths: list[Path]) -> None:
    cached(paths, None, where="memory")
    other = resized(8, 9, 3)
    full, empty = cache_images([(paths, resized()), ([], other)], "memory", None, BUDGET)
    assert_right(full, paths)
    assert len(empty) == 0


def test_a_cache_may_be_larger_than_the_memory() -> None:
    store = PixelStore()
    store.end = 2**40
    store.save()  # a hole, which takes no room
    pixels = store.pixels()
    assert (len(pixels), int(pixels[-1])) == (2**40, 0)
    store.close()
