"""Steps in a row, their key, their report, and what is kept of files."""

from __future__ import annotations

import copy
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import pytest

from data_loader.preparation import FaceCrop
from data_loader.preparation.preparation import Preparation, PreparationStep, fallback_report
from data_loader.preparation.prepared_images import PreparedImages
from utils.errors import ConfigError, DataError
from utils.images import read_rgb


@dataclass(kw_only=True, eq=False)
class Halve(PreparationStep):
    """Cuts a picture in two where it is wider than `least`."""

    least: int = 0
    weights_file: Path | None = None
    fallback: ClassVar[str] = "too narrow"
    looked_at: ClassVar[list[tuple[int, ...]]] = []

    def find(self, image: np.ndarray) -> np.ndarray | None:
        self.looked_at.append(image.shape)
        return np.array([image.shape[1] // 2]) if image.shape[1] > self.least else None

    def apply(self, image: np.ndarray, found: np.ndarray | None) -> np.ndarray:
        return image.copy() if found is None else image[:, : int(found[0])].copy()

    @property
    def network_key(self) -> dict[str, Any]:
        return {}


@pytest.fixture(autouse=True)
def looked_at() -> list[tuple[int, ...]]:
    Halve.looked_at.clear()
    return Halve.looked_at


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Pictures of 4 x 8, 4 x 16, ... pixels."""
    stream = np.random.default_rng(0)
    paths = [tmp_path / f"{number}.png" for number in range(6)]
    for number, path in enumerate(paths):
        cv2.imwrite(str(path), stream.integers(0, 256, (4, 8 * number + 8, 3), dtype=np.uint8))
    return paths


def test_a_step_sees_what_the_steps_before_it_made() -> None:
    image = np.arange(4 * 32 * 3, dtype=np.uint8).reshape(4, 32, 3)
    preparation = Preparation([Halve(), Halve(least=20), Halve(least=8)])
    made, fallbacks = preparation(image)
    np.testing.assert_array_equal(made, image[:, :8])
    assert fallbacks == ["Halve: too narrow"]
    same, none = Preparation([])(image)
    assert same is image
    assert none == []


def test_the_key_is_plain_data_of_settings_and_not_of_paths(tmp_path: Path) -> None:
    def key(**settings: Any) -> str:
        return json.dumps(Preparation([Halve(**settings)]).key)

    assert key() == key(weights_file=tmp_path) != key(least=3)
    crop = FaceCrop(detector="haar")
    assert (
        json.dumps(crop.key)
        == json.dumps(copy.deepcopy(crop).key)
        != json.dumps(FaceCrop(detector="haar", margin=0).key)
    )


def test_the_report_counts_and_lists() -> None:
    assert fallback_report([("a", []), ("b", [])]) == ["all 2 pictures were prepared without a fallback"]
    lines = fallback_report(
        [(f"p{n}", ["no face"] if n % 2 else ["no face", "no person"][n // 4 :]) for n in range(8)], 3
    )
    assert lines == [
        "no face: 6 of 8 pictures (75.0%): p0, p1, p2 and 3 more",
        "no person: 4 of 8 pictures (50.0%): p0, p2, p4 and 1 more",
    ]


def test_each_file_is_looked_at_once(files: list[Path], tmp_path: Path, looked_at: list[Any]) -> None:
    preparation = Preparation([Halve(least=20), Halve(least=1)])
    images = PreparedImages(preparation, tmp_path / "kept")
    expected = [preparation(read_rgb(path)) for path in files]
    looked_at.clear()
    assert images.find_all(files[1:]) == [fallbacks for _, fallbacks in expected[1:]]
    assert len(looked_at) == 10
    again = PreparedImages(preparation, tmp_path / "kept")
    for path, (image, _) in zip(files, expected, strict=True):
        np.testing.assert_array_equal(again(read_rgb(path), str(path)), image)
    assert len(looked_at) == 12  # the one file that was not there before
    assert again.find_all(files) == [fallbacks for _, fallbacks in expected]
    assert len(looked_at) == 12


def test_what_is_kept_is_of_the_file_as_it_was(files: list[Path], tmp_path: Path, looked_at: list[Any]) -> None:
    images = PreparedImages(Preparation([Halve()]), tmp_path / "kept")
    images(read_rgb(files[5]), str(files[5]))
    cv2.imwrite(str(files[5]), np.zeros((4, 6, 3), np.uint8))
    assert images(read_rgb(files[5]), str(files[5])).shape == (4, 3, 3)
    PreparedImages(Preparation([Halve(least=1)]), tmp_path / "kept")(read_rgb(files[5]), str(files[5]))
    assert len(looked_at) == 3


def test_damage_is_repaired(files: list[Path], tmp_path: Path, looked_at: list[Any]) -> None:
    images = PreparedImages(Preparation([Halve()]), tmp_path / "kept")
    image, name = read_rgb(files[3]), str(files[3])
    expected = images(image, name)
    (kept,) = (tmp_path / "kept").rglob("*.npz")
    for damaged in (b"", kept.read_bytes()[:-9], b"\x80\x04N."):
        kept.write_bytes(damaged)
        np.testing.assert_array_equal(images(image, name), expected)
    assert len(looked_at) == 4
    images(image, name)
    assert len(looked_at) == 4


def test_files_that_cannot_be_read_and_folders_that_cannot_be_written(files: list[Path], tmp_path: Path) -> None:
    images = PreparedImages(Preparation([Halve()]), tmp_path / "kept")
    with pytest.raises(DataError, match="absent"):
        images.find_all([*files, tmp_path / "absent.png"])
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file.*cannot be written"):
        PreparedImages(Preparation([Halve()]), tmp_path / "file").find_all(files)


def test_an_upload_is_prepared_and_not_kept(files: list[Path], tmp_path: Path) -> None:
    image = read_rgb(files[0])
    for images, name in (
        (PreparedImages(Preparation([Halve()]), tmp_path / "kept"), "image"),
        (PreparedImages(Preparation([Halve()]), None), str(files[0])),
    ):
        np.testing.assert_array_equal(images(image, name), image[:, :4])
    assert not (tmp_path / "kept").exists()


def test_what_is_kept_of_a_mask_is_small(tmp_path: Path, files: list[Path]) -> None:
    @dataclass(kw_only=True, eq=False)
    class Disc(Halve):
        def find(self, image: np.ndarray) -> np.ndarray | None:  # noqa: ARG002
            mask = cv2.circle(np.zeros((512, 384), np.uint8), (190, 250), 150, 255, -1)
            return cv2.GaussianBlur(mask, (0, 0), 3)

    PreparedImages(Preparation([Disc()]), tmp_path / "kept").find_all(files[:1])
    (kept,) = (tmp_path / "kept").rglob("*.npz")
    assert os.path.getsize(kept) < 12_000  # noqa: PTH202
