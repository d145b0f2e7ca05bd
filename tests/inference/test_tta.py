"""Views are what numpy and OpenCV say they are, and the same each time."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

from base.preprocessing import Preprocessing
from inference.tta import view_pipelines, views_problems
from inference.tta_presets import PRESETS
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
    assert views_problems(PRESETS[preset]) == []
    pipelines = view_pipelines(PRESETS[preset], PREPROCESSING)
    for pipeline, expected in zip(pipelines, EXPECTED[preset], strict=True):
        for _ in range(2):
            found = pipeline(IMAGE).astype(int)
            assert np.abs(found - resized(expected)).max() <= 1


@pytest.mark.parametrize(
    ("views", "told"),
    [
        ({}, ["is empty; name at least one"]),
        (
            {"flip": [{"type": "HorizontalFlip", "args": {"p": 0.5}}]},
            ["flip.0 (HorizontalFlip) is random, and a view must be the same each time; set p to 1"],
        ),
        (
            {"plain": [], "turn": [{"type": "ToGray", "args": {"p": 1}}, {"type": "Rotate", "args": {"p": 1}}]},
            ["turn.1 (Rotate) is random"],
        ),
        (
            {"a": [{"type": "Rotat"}], "b": [{"type": "Rotate", "args": {"limits": 3}}]},
            ['a.0.type = "Rotat" is not one of', "b.0.args.limits is not an argument of Rotate"],
        ),
        ({"float": [{"type": "Normalize"}]}, ["float.0 (Normalize) does not give an RGB image"]),
        (
            {"crop": [{"type": "CenterCrop", "args": {"height": 2000, "width": 20}}]},
            ["crop.0 (CenterCrop) cannot take an image"],
        ),
    ],
)
def test_what_is_no_view_is_told(views: dict[str, Any], told: list[str]) -> None:
    problems = views_problems(views)
    assert len(problems) == len(told)
    for problem, beginning in zip(problems, told, strict=True):
        assert str(problem).startswith(beginning)


def test_views_that_a_checkpoint_cannot_have_are_refused() -> None:
    with pytest.raises(InvalidConfig, match=r'type = "os\.system" is not one of'):
        view_pipelines({"x": [{"type": "os.system"}]}, PREPROCESSING)
