"""The check of all images: what it refuses, skips and remembers."""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from data_loader.records import image_check
from data_loader.records.image_check import check_images
from utils.errors import DataError
from utils.images import BitsUsed, ImageFinding, inspect_image


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "images"
    folder.mkdir()
    made = [folder / f"{index:02d} 얼굴.jpg" for index in range(15)]
    for index, path in enumerate(made):
        Image.fromarray(np.full((24, 20, 3), index, np.uint8)).save(path)
    return made


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The images that the check has decoded, in no order."""
    seen: list[Path] = []

    def spy(path: Path) -> ImageFinding:
        seen.append(path)
        return inspect_image(path)

    monkeypatch.setattr(image_check, "inspect_image", spy)
    return seen


def test_good_images_pass_and_are_decoded_once(tmp_path: Path, paths: list[Path], opened: list[Path]) -> None:
    cache = tmp_path / "new folder" / "check.json"
    assert check_images(paths, cache) == []
    assert sorted(opened) == paths
    opened.clear()
    assert check_images(paths, cache) == []
    assert opened == []
    assert [entry.name for entry in cache.parent.iterdir()] == ["check.json"]


def test_without_a_cache_every_image_is_decoded_each_time(paths: list[Path], opened: list[Path]) -> None:
    check_images(paths, None)
    check_images([*paths, *paths], None)
    assert len(opened) == 2 * len(paths)


def test_a_changed_image_is_looked_at_again(tmp_path: Path, paths: list[Path], opened: list[Path]) -> None:
    cache = tmp_path / "check.json"
    check_images(paths, cache)
    opened.clear()
    status = paths[3].stat()
    os.utime(paths[3], ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    data = paths[5].read_bytes()
    stamp = (paths[5].stat().st_atime_ns, paths[5].stat().st_mtime_ns)
    paths[5].write_bytes(data[: len(data) // 2])
    os.utime(paths[5], ns=stamp)
    with pytest.raises(DataError, match=r"^1 image cannot be read:\n.*05 .*a damaged JPEG"):
        check_images(paths, cache)
    assert sorted(opened) == [paths[3], paths[5]]


def test_the_cache_serves_any_choice_of_paths(
    tmp_path: Path, paths: list[Path], opened: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "check.json"
    check_images(paths[:5], cache)
    check_images(paths[5:], cache)
    opened.clear()
    monkeypatch.chdir(tmp_path)
    check_images([path.relative_to(tmp_path) for path in paths], cache)
    assert opened == []


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"rules": 1}', b"\xff\xfe", b'{"rules": "old", "files": {}}'])
def test_a_damaged_cache_is_made_anew(tmp_path: Path, paths: list[Path], opened: list[Path], damage: bytes) -> None:
    cache = tmp_path / "check.json"
    check_images(paths, cache)
    whole = cache.read_bytes()
    opened.clear()
    cache.write_bytes(damage)
    assert check_images(paths, cache) == []
    assert sorted(opened) == paths
    assert cache.read_bytes() == whole


def test_a_cache_of_other_rules_is_made_anew(tmp_path: Path, paths: list[Path], opened: list[Path]) -> None:
    cache = tmp_path / "check.json"
    check_images(paths, cache)
    stored = json.loads(cache.read_bytes())
    cache.write_text(json.dumps(stored | {"rules": "0, Pillow 1"}))
    opened.clear()
    check_images(paths, cache)
    assert sorted(opened) == paths


@pytest.mark.parametrize(
    "entry", [None, [1, 2], [1, 2, None], ["1", 2, None, None], [1, 2, 3, None], [1, 2, None, "3"]]
)
def test_a_cache_with_a_malformed_entry_is_made_anew(
    tmp_path: Path, paths: list[Path], opened: list[Path], entry: object
) -> None:
    cache = tmp_path / "check.json"
    check_images(paths, cache)
    stored = json.loads(cache.read_bytes())
    stored["files"][str(paths[0])] = entry
    cache.write_text(json.dumps(stored))
    opened.clear()
    assert check_images(paths, cache) == []
    assert sorted(opened) == paths


def test_missing_images_are_named_before_any_is_opened(paths: list[Path], opened: list[Path]) -> None:
    missing = [paths[0].with_name(f"gone {index}.jpg") for index in range(29)]
    choices: tuple[Literal["refuse", "skip"], ...] = ("refuse", "skip")
    for on_bad in choices:
        with pytest.raises(DataError) as refusal:
            check_images([*paths, *missing], None, on_bad)
        lines = str(refusal.value).splitlines()
        assert "29" in lines[0]
        assert lines[1:11] == [f"  {path}" for path in missing[:10]]
        assert "19" in lines[11]
        assert "restore" in lines[12]
    assert opened == []


def test_bad_images_are_refused_with_the_first_ten_and_the_count(tmp_path: Path, paths: list[Path]) -> None:
    for path in paths[:12]:
        path.write_bytes(b"<html>not found</html>")
    cache = tmp_path / "check.json"
    for _ in range(2):  # a bad image is bad the second time too
        with pytest.raises(DataError) as refusal:
            check_images(paths, cache)
        lines = str(refusal.value).splitlines()
        assert "12" in lines[0]
        for line, path in zip(lines[1:11], paths, strict=False):
            assert line.startswith(f"  {path}: ")
            assert "HTML" in line
        assert "2" in lines[11]
        assert 'on_bad_image = "skip"' in lines[12]


def test_bad_images_are_skipped_when_asked_and_named_in_the_log(
    paths: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    paths[7].write_bytes(b"")
    paths[2].write_bytes(b"GIF89a")
    Image.fromarray(np.zeros((24, 20, 3), np.uint8)).save(paths[4], "PNG")
    with caplog.at_level(logging.WARNING):
        assert check_images(paths, None, "skip") == [paths[2], paths[7]]
    doubtful, bad = (record.getMessage().splitlines() for record in caplog.records)
    assert [line.split(":")[0].strip() for line in doubtful[1:]] == [str(paths[4])]
    assert [line.split(":")[0].strip() for line in bad[1:]] == [str(paths[2]), str(paths[7])]


def test_bad_and_missing_images_that_nothing_depends_on_are_warned_of(
    paths: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    paths[7].write_bytes(b"")
    paths[9].unlink()
    assert check_images(paths, None, "warn", remedy="mend them") == [paths[7], paths[9]]
    (warning,) = (record.getMessage().splitlines() for record in caplog.records)
    assert [line.split(":")[0].strip() for line in warning[1:]] == [str(paths[7]), str(paths[9]), "mend them"]


@pytest.fixture
def wide(tmp_path: Path) -> list[Path]:
    """16-bit images, whose largest values are 4095, 4094, ..., and the whole range."""
    made = [tmp_path / f"wide {index:02d}.png" for index in range(13)]
    for index, path in enumerate(made):
        values = np.arange(400, dtype=np.uint16).reshape(20, 20)
        values[3, 5] = 65535 if index == 12 else 4095 - index
        Image.fromarray(values).save(path)
    return made


@pytest.mark.parametrize(("bits", "unsuited"), [(16, 12), (12, 1), ("own_maximum", 0)])
def test_16_bit_images_whose_values_do_not_suit_the_bits_are_warned_of_each_time(
    tmp_path: Path, wide: list[Path], bits: BitsUsed, unsuited: int, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        caplog.clear()
        assert check_images(wide, tmp_path / "check.json", bits_used_of_16=bits) == []
        warnings = [record.getMessage() for record in caplog.records]
        if unsuited == 0:
            assert warnings == []
            continue
        (warning,) = warnings
        lines = warning.splitlines()
        named = wide[:10] if unsuited == 12 else wide[12:]
        assert str(unsuited) in lines[0]
        assert [line.split(":")[0].strip() for line in lines[1 : 1 + len(named)]] == list(map(str, named))
        suggestion = 12 if bits == 16 else 16
        assert f"bits_used_of_16 = {suggestion} " in lines[-1]
        assert str(4095 if bits == 16 else 65535) in lines[-1]
        assert '"own_maximum"' in lines[-1]


def test_a_warning_is_remembered(tmp_path: Path, paths: list[Path], caplog: pytest.LogCaptureFixture) -> None:
    Image.fromarray(np.zeros((24, 20, 3), np.uint8)).save(paths[4], "PNG")
    for _ in range(2):
        caplog.clear()
        check_images(paths, tmp_path / "check.json")
        assert "is a PNG file named .jpg" in caplog.text


def test_a_cache_that_cannot_be_written_is_no_failure(
    tmp_path: Path, paths: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    assert check_images(paths, tmp_path / "file" / "check.json") == []
    assert "cannot be remembered" in caplog.text


def test_an_interrupted_check_goes_on_where_it_was(
    tmp_path: Path, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "check.json"
    seen: list[Path] = []

    interrupt = True

    def inspect(path: Path) -> ImageFinding:
        if interrupt and path == paths[2]:
            raise KeyboardInterrupt
        if interrupt:
            time.sleep(0.02)
        seen.append(path)
        return inspect_image(path)

    monkeypatch.setattr(image_check, "inspect_image", inspect)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    with pytest.raises(KeyboardInterrupt):
        check_images(paths, cache)
    assert len(seen) < len(paths) - 1  # those that had not begun were let be
    interrupt = False
    seen.clear()
    assert check_images(paths, cache) == []
    assert sorted(seen) == paths[2:]


def test_the_progress_bar_is_silent_where_no_one_looks(paths: list[Path], capfd: pytest.CaptureFixture[str]) -> None:
    check_images(paths, None, show_progress=True)
    assert capfd.readouterr() == ("", "")
