"""Crops of faces whose boxes and landmarks are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_loader.preparation.faces import FaceCrop, RegionCrop
from tests.data_loader.preparation.tiny_networks import LANDMARKS, yunet_of_red_blocks

HEIGHT, WIDTH = 256, 320


@pytest.fixture
def yunet(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "yunet.onnx").write_bytes(yunet_of_red_blocks(HEIGHT, WIDTH))
    return {"detector": "yunet", "weights_file": tmp_path / "yunet.onnx"}


def picture(*blocks: tuple[int, int]) -> np.ndarray:
    """Red blocks of 32 x 32 pixels (row, column): faces are 48 wide and 64 high around their middles. Of each pixel the
    green is its row and the blue its column, as far as a byte can say."""
    rows, columns = np.indices((HEIGHT, WIDTH))
    image = np.stack([np.zeros_like(rows), rows, columns // 2], axis=-1).astype(np.uint8)
    for row, column in blocks:
        image[32 * row : 32 * row + 32, 32 * column : 32 * column + 32] = (255, 0, 0)
    return image


def crop(step: Any, image: np.ndarray) -> np.ndarray:
    made: np.ndarray = step.apply(image, step.find(image))
    return made


def test_a_square_around_the_face_with_its_margin(yunet: dict[str, Any]) -> None:
    image = picture((3, 4))  # its middle is x 144, y 112
    np.testing.assert_array_equal(crop(FaceCrop(**yunet, margin=0), image), image[80:144, 112:176])
    np.testing.assert_array_equal(crop(FaceCrop(**yunet, margin=0.25), image), image[64:160, 96:192])


def test_the_shape_of_the_input(yunet: dict[str, Any]) -> None:
    image = picture((3, 4))
    # 64 high is the side that decides: 64 * 320 / 256 = 80 wide.
    np.testing.assert_array_equal(crop(FaceCrop(**yunet, margin=0, shape="input"), image), image[80:144, 104:184])


@pytest.mark.parametrize("block", [(0, 0), (7, 9), (0, 9)])
@pytest.mark.parametrize("margin", [0.0, 0.5, 9.0])
def test_a_crop_is_moved_into_the_picture(yunet: dict[str, Any], block: tuple[int, int], margin: float) -> None:
    image = picture(block)
    made = crop(FaceCrop(**yunet, margin=margin), image)
    side = min(round(64 * (1 + 2 * margin)), HEIGHT)
    top = int(np.clip(32 * block[0] + 16 - side // 2, 0, HEIGHT - side))
    left = int(np.clip(32 * block[1] + 16 - side // 2, 0, WIDTH - side))
    np.testing.assert_array_equal(made, image[top : top + side, left : left + side])


def test_of_several_faces_the_central_one(yunet: dict[str, Any]) -> None:
    image = picture((1, 1), (4, 5), (6, 8))
    np.testing.assert_array_equal(crop(FaceCrop(**yunet, margin=0, face="central"), image), image[112:176, 144:208])


def test_the_centre_where_there_is_no_face(yunet: dict[str, Any]) -> None:
    image = picture()
    for step, expected in (
        (FaceCrop(**yunet, fallback_share=0.5), image[64:192, 96:224]),
        (FaceCrop(**yunet, fallback_share=0.5, shape="input"), image[64:192, 80:240]),
    ):
        assert step.find(image) is None
        np.testing.assert_array_equal(step.apply(image, None), expected)


@pytest.mark.parametrize("degrees", [20, -35])
def test_eyes_are_made_level(tmp_path: Path, degrees: float) -> None:
    turn = np.radians(degrees)
    matrix = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    landmarks = ((LANDMARKS - 0.5) @ matrix + 0.5).astype(np.float32)
    (tmp_path / "yunet.onnx").write_bytes(yunet_of_red_blocks(HEIGHT, WIDTH, landmarks))
    image = picture((3, 4)) // 255 * 255
    for point in np.rint(32 * landmarks[:2] + (128, 96)).astype(int):
        image[point[1] - 1 : point[1] + 2, point[0] - 1 : point[0] + 2] = (255, 255, 255)
    for align in (False, True):
        step = FaceCrop(detector="yunet", weights_file=tmp_path / "yunet.onnx", align=align, margin=0)
        rows, columns = np.nonzero(crop(step, image)[..., 1] > 100)
        left, right = columns < 32, columns >= 32
        assert (abs(rows[left].mean() - rows[right].mean()) < 1) == align


@pytest.mark.parametrize(
    ("region", "rows"),
    # The eyes are at y 100, the mouth is 24 below.
    [("forehead", (70, 94)), ("nose_to_chin", (110, 141)), ("chin_to_neck", (136, 160))],
)
def test_a_region_is_measured_by_the_landmarks(yunet: dict[str, Any], region: Any, rows: tuple[int, int]) -> None:
    image = picture((3, 4))
    made = crop(RegionCrop(**yunet, region=region), image)
    np.testing.assert_array_equal(made, image[rows[0] : rows[1], 120:168])


def test_a_region_that_is_outside_is_taken_from_a_face_in_the_centre(yunet: dict[str, Any]) -> None:
    step = RegionCrop(**yunet, region="chin_to_neck", fallback_share=0.5)
    image = picture((7, 4))
    assert step.find(image) is None
    # A face from y 64 to 192: eyes at 0.38 of it, and the mouth 0.39 of it below.
    eyes, unit = 64 + 0.38 * 128, 0.39 * 128
    top, bottom = (round(eyes + share * unit) for share in (1.5, 2.5))
    np.testing.assert_array_equal(step.apply(image, None), image[top:bottom, 96:224])


def test_settings_that_a_detector_lacks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^align .*haar"):
        FaceCrop(detector="haar", align=True)
    with pytest.raises(ValueError, match=r"^weights_file .*haar"):
        RegionCrop(detector="haar", weights_file=tmp_path, region="forehead")
