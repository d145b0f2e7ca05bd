"""The check of all images: what it refuses, skips and remembers."""

from __future__ import annotations

import os
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
    assert check_images(paths[7:2:-1], cache) == []
    assert opened == []
    assert [entry.name for entry in cache.parent.iterdir()] == ["check.json"]


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


@pytest.mark.parametrize("damage", [b"", b"[]", b"\xff\xfe", b'{"rules": "old", "files": {}}'])
def test_a_cache_that_is_damaged_or_of_other_rules_is_made_anew(
    tmp_path: Path, paths: list[Path], opened: list[Path], damage: bytes
) -> None:
    cache = tmp_path / "check.json"
    check_images(paths, cache)
    whole = cache.read_bytes()
    opened.clear()
    cache.write_bytes(damage)
    assert check_images(paths, cache) == []
    assert sorted(opened) == paths
    assert cache.read_bytes() == whole


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
    assert opened == []


def test_bad_images_that_nothing_depends_on_are_warned_of(paths: list[Path], caplog: pytest.LogCaptureFixture) -> None:
    paths[2].write_bytes(b"GIF89a")
    paths[7].unlink()
    assert check_images(paths, None, "warn", remedy="repair them") == [paths[2], paths[7]]
    lines = caplog.messages[0].splitlines()
    assert [line.split(":")[0].strip() for line in lines[1:3]] == [str(paths[2]), str(paths[7])]
    assert lines[3:] == ["repair them"]


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
        for word in (f"{unsuited} 16-bit", *(("4095", "wide 00.png", "bits_used_of_16 = 12 ") if bits == 16 else
                     ("65535", "wide 12.png", "bits_used_of_16 = 16 ")), '"own_maximum"'):  # fmt: skip
            assert word in warning


def test_a_warning_is_remembered_and_names_the_file_as_the_user_does(
    tmp_path: Path, paths: list[Path], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((24, 20, 3), np.uint8)).save(paths[4], "PNG")
    for _ in range(2):
        caplog.clear()
        check_images(paths, tmp_path / "check.json")
        assert f"  {paths[4].relative_to(tmp_path)}: " in caplog.text


def test_a_cache_that_cannot_be_written_is_no_failure(
    tmp_path: Path, paths: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    assert check_images(paths, tmp_path / "file" / "check.json") == []
    assert "check.json" in caplog.text


def test_an_interrupted_check_continues(tmp_path: Path, paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "check.json"
    seen: list[Path] = []

    def interrupt(path: Path) -> ImageFinding:
        if path == paths[2]:
            raise KeyboardInterrupt
        return inspect_image(path)

    def inspect(path: Path) -> ImageFinding:
        seen.append(path)
        return inspect_image(path)

    monkeypatch.setattr(image_check, "inspect_image", interrupt)
    with pytest.raises(KeyboardInterrupt):
        check_images(paths, cache)
    monkeypatch.setattr(image_check, "inspect_image", inspect)
    assert check_images(paths, cache) == []
    assert sorted(seen) == paths[2:]
