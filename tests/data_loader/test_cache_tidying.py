"""What the cache leaves out: the remains of dead processes, and images of files that are gone or have changed."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

import pytest

from data_loader import cache_filling
from data_loader.pixel_store import HEADER_BYTES
from tests.data_loader.cached_photos import IMAGE_BYTES, assert_right, cached, count_reads, draw, only, sizes
from utils.errors import StorageFullError


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    return [draw(tmp_path / f"{number:02}.png") for number in range(20)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "image_cache"


def test_half_done_files_of_dead_processes_are_removed(paths: list[Path], folder: Path) -> None:
    cached(paths[:3], folder)
    digest = only(folder, ".json").stem
    other = "0123456789abcdef"
    for name in (
        f"{digest}.new",
        f"{other}.new",
        f".{digest}.json.12-ab.tmp",
        f"{other}.pixels",
        f"{digest[::-1]}.json",
    ):
        (folder / name).write_bytes(b"remains")
    strangers = {"notes.json", "holiday.pixels", "a.new"}
    for name in strangers:
        (folder / name).write_bytes(b"somebody's own")
    assert_right(cached(paths, folder), paths)
    assert {path.name for path in folder.iterdir()} == {f"{digest}.json", f"{digest}.pixels", ".lock", *strangers}


def test_rows_of_files_that_are_gone_are_left_out_when_they_are_many(
    paths: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    cached(paths, folder)
    for path in paths[:8]:
        draw(path, 41, seed=1)
    assert_right(cached(paths, folder), paths)  # 8 of 20 rows are of no use: kept
    assert sizes(folder)[".pixels"] == HEADER_BYTES + 28 * IMAGE_BYTES
    for path in paths[8:15]:
        path.unlink()
    rest = paths[:8] + paths[15:]
    new = draw(paths[0].parent / "new.png")
    held = cached(rest, folder)
    assert_right(cached([*rest[:1], new], folder), [*rest[:1], new])  # 15 of 28, but in use
    assert sizes(folder)[".pixels"] == HEADER_BYTES + 29 * IMAGE_BYTES
    assert_right(held, rest)
    del held
    newest = draw(paths[0].parent / "newest.png")
    reads = count_reads(monkeypatch)
    assert_right(cached([*rest, newest], folder), [*rest, newest])
    assert reads == ["newest.png"]
    assert sizes(folder)[".pixels"] == HEADER_BYTES + 15 * IMAGE_BYTES
    assert "gone or have changed are removed" in caplog.text


def test_a_tidying_that_fails_leaves_the_cache_as_it_was(
    paths: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached(paths, folder)
    for path in paths[:12]:
        draw(path, 41, seed=1)
    before = sizes(folder)

    def fail(_handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full:
        full.setattr(os, "fsync", fail)
        with pytest.raises(StorageFullError):
            cached(paths, folder)
    assert sizes(folder) == before
    reads = count_reads(monkeypatch)
    assert_right(cached(paths, folder), paths)
    assert len(reads) == 12
    assert sizes(folder)[".pixels"] == HEADER_BYTES + 20 * IMAGE_BYTES


def test_a_disk_without_room_to_tidy_in_has_all_made_anew(
    paths: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached(paths, folder)
    for path in paths[:12]:
        draw(path, 41, seed=1)
    monkeypatch.setattr(cache_filling, "fits_beside", lambda _folder, _bytes: False)
    reads = count_reads(monkeypatch)
    assert_right(cached(paths, folder), paths)
    assert len(reads) == 20
