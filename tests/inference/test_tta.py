"""Test-time augmentations are what numpy and OpenCV make, and the same each time."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

from base.preprocessing import Preprocessing
from inference.tta import PRESETS, tta_pipelines, tta_problems
from utils.errors import InvalidConfig
from utils.random_streams import numpy_stream

PREPROCESSING = Preprocessing(
    (24, 20), (0.5,) * 3, (0.5,) * 3, [{"type": "Resize", "args": {"height": 24, "width": 20}}]
)
IMAGE = numpy_stream(1, "image").integers(0, 256, (64, 48, 3)).astype(np.uint8)


def resized(image: np.ndarray) -> np.ndarray:
    return cv2.resize(np.ascontiguousarray(image), (20, 24), interpolation=cv2.INTER_LINEAR)


def rotated(image: np.ndarray, degrees: float) -> np.ndarray:
    """Anticlockwise about the middle of the pixels."""
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1)
    return cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR)


EXPECTED = {
    "none": [IMAGE],
    "flip": [IMAGE, IMAGE[:, ::-1]],
    "flip_rotate": [IMAGE, IMAGE[:, ::-1], rotated(IMAGE, 30), rotated(IMAGE, -30)],
    "five_crops": [IMAGE[:56, :42], IMAGE[:56, 6:], IMAGE[8:, :42], IMAGE[8:, 6:], IMAGE[4:60, 3:45]],
}


@pytest.mark.parametrize("preset", PRESETS)
def test_the_presets_are_what_they_are_called(preset: str) -> None:
    assert tta_problems(PRESETS[preset]) == []
    pipelines = tta_pipelines(PRESETS[preset], PREPROCESSING)
    for pipeline, expected in zip(pipelines, EXPECTED[preset], strict=True):
        for _ in range(2):
            found = pipeline(IMAGE).astype(int)
            assert np.abs(found - resized(expected)).max() <= 1


@pytest.mark.parametrize(
    ("tta", "expected"),
    [
        ({}, [((), "name at least one")]),
        ({"flip": [{"type": "HorizontalFlip", "args": {"p": 0.5}}]}, [(("flip", 0), "HorizontalFlip", "p to 1")]),
        (
            {"plain": [], "turn": [{"type": "ToGray", "args": {"p": 1}}, {"type": "Rotate", "args": {"p": 1}}]},
            [(("turn", 1), "Rotate")],
        ),
        (
            {"a": [{"type": "Rotat"}], "b": [{"type": "Rotate", "args": {"limits": 3}}]},
            [(("a", 0, "type"), '"Rotat"', "Rotate"), (("b", 0, "args", "limits"), "Rotate")],
        ),
        ({"float": [{"type": "Normalize"}]}, [(("float", 0), "Normalize")]),
        ({"crop": [{"type": "CenterCrop", "args": {"height": 2000, "width": 20}}]}, [(("crop", 0), "CenterCrop")]),
    ],
)
def test_what_is_no_augmentation_for_testing(tta: dict[str, Any], expected: list[tuple[Any, ...]]) -> None:
    problems = tta_problems(tta)
    assert [problem.key_path for problem in problems] == [key_path for key_path, *_ in expected]
    for problem, (_, *words) in zip(problems, expected, strict=True):
        assert all(word in str(problem) for word in words)


def test_what_a_checkpoint_cannot_have_is_refused() -> None:
    with pytest.raises(InvalidConfig, match=r"os\.system"):
        tta_pipelines({"x": [{"type": "os.system"}]}, PREPROCESSING)
