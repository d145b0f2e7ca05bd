"""The background is filled, the person stays, and what is not found is left alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from data_loader.preparation.background import BackgroundRemoval, largest_part
from tests.data_loader.preparation.tiny_networks import red_mask_network

SIDE = 64


@pytest.fixture
def removal(tmp_path: Path) -> Any:
    """Makes a step whose network takes what is red for the person."""
    path = tmp_path / "red.onnx"
    path.write_bytes(red_mask_network(SIDE, SIDE))
    network = {"backend": "onnx", "weights_file": path, "input_size": SIDE, "mean": (0, 0, 0), "std": (1, 1, 1)}
    return lambda **settings: BackgroundRemoval(**{**network, **settings})


def picture(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    """Red boxes (top, bottom, left, right) before noise of green and blue."""
    image = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    image[..., 0] = 0
    for top, bottom, left, right in boxes:
        image[top:bottom, left:right, 0] = 255
    return image


def test_what_is_not_the_person_gets_the_fill_colour(removal: Any) -> None:
    image = picture((10, 50, 20, 44))
    step = removal(fill=(1, 2, 3), feather_pixels=0)
    made = step.apply(image, step.find(image))
    expected = np.full_like(image, (1, 2, 3))
    expected[10:50, 20:44] = image[10:50, 20:44]
    np.testing.assert_array_equal(made, expected)


def test_a_soft_mask_mixes_both_colours(removal: Any) -> None:
    stream = np.random.default_rng(1)
    image, mask = (
        stream.integers(0, 256, (50, 40, 3), dtype=np.uint8),
        stream.integers(0, 256, (50, 40), dtype=np.uint8),
    )
    for fill in ((0, 0, 0), (255, 255, 255), (124, 116, 104)):
        share = mask[..., None] / 255
        mixed = share * image + (1 - share) * np.array(fill)
        made = removal(fill=fill, feather_pixels=0).apply(image, mask)
        np.testing.assert_array_equal(made, np.floor(mixed + 0.5 - 1e-9))


def test_only_the_largest_person_stays_if_asked(removal: Any) -> None:
    image = picture((5, 55, 5, 30), (20, 40, 40, 60))
    for keep, left in ((True, False), (False, True)):
        step = removal(keep_largest=keep, feather_pixels=0)
        made = step.apply(image, step.find(image))
        assert (made[30, 15] == image[30, 15]).all()
        assert (made[30, 50] == image[30, 50]).all() == left


def test_the_soft_edge_of_the_largest_part_stays() -> None:
    mask = np.zeros((40, 40), np.float32)
    mask[10:30, 4:20], mask[10:30, 20] = 1, 0.3
    mask[18:22, 30:34], mask[18:22, 29] = 1, 0.3
    mask[36, 8] = 0.4  # farther from the largest part, and nearer to it than to the other
    expected = mask.copy()
    expected[:, 26:] = 0
    np.testing.assert_array_equal(largest_part(mask), expected)


@pytest.mark.parametrize("size", [0, 3])
def test_a_person_smaller_than_the_least_share_is_none(removal: Any, size: int) -> None:
    image = picture((10, 10 + size, 10, 10 + size))
    step = removal(min_share=(size**2 + 1) / SIDE**2)
    assert step.find(image) is None
    made = step.apply(image, None)
    np.testing.assert_array_equal(made, image)
    assert made is not image


def test_the_edge_is_as_wide_as_it_is_told(removal: Any) -> None:
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    image[:, 32:, 0] = 255
    step = removal(fill=(0, 0, 0), feather_pixels=8)
    row = step.apply(image, step.find(image))[32, :, 0].astype(float)
    assert (np.diff(row[32:]) >= 0).all()  # the person fades towards the background
    assert 100 < row[32] < 160
    assert row[36] > 200
    assert row[44] == 255


def test_settings_of_another_backend_are_refused(removal: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^session = u2net"):
        removal(session="u2net")
    weights = tmp_path / "red.onnx"
    with pytest.raises(ValueError, match=r"^mean"):
        BackgroundRemoval(backend="selfie", weights_file=weights, mean=(0, 0, 0))
    with pytest.raises(ValueError, match=r"^input_size"):
        BackgroundRemoval(backend="tracer", weights_file=weights, input_size=(320, 352))
    with pytest.raises(ValueError, match=r"^input_size = 330 .*32"):
        BackgroundRemoval(backend="tracer", weights_file=weights, input_size=330)


def test_several_threads_get_what_one_gets(removal: Any, tmp_path: Path) -> None:
    (tmp_path / "large.onnx").write_bytes(red_mask_network(512, 512))
    step = removal(weights_file=tmp_path / "large.onnx", input_size=512)
    images = [picture((n, n + 20, 10, 50)) for n in range(40)]
    expected = [step.find(image) for image in images]
    with ThreadPoolExecutor(8) as pool:
        for one, other in zip(expected, pool.map(step.find, images), strict=True):
            np.testing.assert_array_equal(one, other)


def test_the_last_bit_of_a_distance_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It depends on how OpenCV's threads divide the work; so do the numbers of the parts, of which two are largest."""
    mask = np.full((40, 30), 0.3, np.float32)
    mask[4:9, 2:6] = mask[20:25, 12:16] = mask[30:33, 3:7] = 1
    expected = largest_part(mask)
    assert (expected[4, 2], expected[20, 12]) == (1, 0)
    stream, exact = np.random.default_rng(0), cv2.distanceTransform

    def inexact(*arguments: Any) -> np.ndarray:
        distances = exact(*arguments)
        return np.nextafter(distances, stream.choice(np.array([0, 99], np.float32), distances.shape))

    monkeypatch.setattr(cv2, "distanceTransform", inexact)
    for _ in range(3):
        np.testing.assert_array_equal(largest_part(mask), expected)
