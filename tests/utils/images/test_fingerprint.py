"""Fingerprints of pictures: what they survive, and what follows from them without the picture."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from utils.images import decode_rgb
from utils.images.fingerprint import IS_ODD, SIDE, cropped, fingerprint_array, fingerprint_of


def _picture(seed: int, height: int = 160, width: int = 120) -> np.ndarray:
    """(H, W, 3) uint8, of clouds."""
    noise = np.random.default_rng(seed).normal(128, 900, (height, width, 3))
    return cv2.GaussianBlur(noise, (0, 0), 12).clip(0, 255).astype(np.uint8)


def _values(picture: np.ndarray) -> np.ndarray:
    return fingerprint_array([fingerprint_of(np.ascontiguousarray(picture))])[0]


def _cosine(first: np.ndarray, second: np.ndarray) -> float:
    return float(first @ second / np.linalg.norm(first) / np.linalg.norm(second))


def test_it_is_the_cosine_transform_of_a_small_picture() -> None:
    picture = _picture(0)
    small = cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float64)
    grey = small @ [0.299, 0.587, 0.114]
    positions = (np.arange(SIDE) + 0.5) * np.pi / SIDE
    expected = np.array(
        [
            (grey * np.outer(np.cos(down * positions), np.cos(right * positions))).sum()
            * np.sqrt((1 if down == 0 else 2) * (1 if right == 0 else 2))
            for down in range(8)
            for right in range(8)
        ][1:]
    )
    found = _values(picture)[:63]
    np.testing.assert_allclose(found, expected * 127 / np.linalg.norm(expected), atol=0.75)


def test_the_mirror_image_differs_in_signs_alone() -> None:
    picture = _picture(1)
    mirrored = _values(picture[:, ::-1])
    np.testing.assert_allclose(mirrored, np.where(IS_ODD, -1, 1) * _values(picture), atol=1)


@pytest.mark.parametrize("share", [0.05, 0.1])
def test_the_cropped_picture_follows(share: float) -> None:
    for seed in range(5):
        picture = _picture(seed)
        height, width = (round(side * share) for side in picture.shape[:2])
        inner = _values(picture[height:-height, width:-width])
        guessed = cropped(_values(picture)[None], share)[0]
        assert _cosine(guessed, inner) > 0.9
        assert _cosine(guessed, inner) > _cosine(_values(picture), inner)


def test_size_and_encoding_change_it_little() -> None:
    for seed in range(5):
        picture = _picture(seed)
        small = cv2.resize(picture, None, fx=0.4, fy=0.4, interpolation=cv2.INTER_AREA)
        data = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 30])[1].tobytes()
        decoded = decode_rgb(data, "a picture")
        assert _cosine(_values(decoded), _values(picture)) > 0.98
        assert abs(_cosine(_values(_picture(seed + 5)), _values(picture))) < 0.8


@pytest.mark.parametrize("size", [(1, 1), (3, 200)])
def test_any_picture_has_one(size: tuple[int, int]) -> None:
    assert np.isfinite(_values(np.full((*size, 3), 255, np.uint8))).all()
