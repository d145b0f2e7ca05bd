"""The random transforms of the default config, with the same draws and bits as albumentations, faster.

On a small image a transform often takes less time than what albumentations does around it: dictionaries of targets and
parameters, matrices for bounding boxes that do not exist. The classes here draw from the same generators in the same
order and call the same functions of OpenCV: a core makes 1.3 to 1.8 times as many images. All other classes, arguments
and releases run through albumentations itself. (2.0.8 is its last release under the MIT licence, and requirements.txt
keeps to it.)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import albumentations
import cv2
import numpy as np
from albucore.functions import sz_lut  # type: ignore[import-untyped]
from albumentations.augmentations.dropout.functional import cutout

from utils.random_streams import StreamPair

COMPARED_RELEASE = "2.0.8"
"""The release of albumentations that tests/data_loader/transforms/test_fast.py compares these with."""

_LEVELS = np.arange(256, dtype=np.float32)
_NEAR_ZERO, _NEAR_ONE = 1e-8, 1e-8 + 1e-5
"""numpy.allclose's tolerances, by which albumentations recognises a matrix that changes nothing."""

Step = Callable[[np.ndarray, StreamPair], np.ndarray]
"""A transform of (H, W, 3) uint8. It never writes into the image, but may return it."""


def fast_transform(transform: Any) -> Step:
    """The fastest equivalent of `transform(image=image)["image"]` with the streams' generators."""
    fast = _FAST.get(type(transform)) if albumentations.__version__ == COMPARED_RELEASE else None
    return fast(transform) if fast is not None and fast.covers(transform) else ByAlbumentations(transform)


class ByAlbumentations:
    """A transform as albumentations runs it, on a copy, since some of its classes may write into their input."""

    def __init__(self, transform: Any) -> None:
        self.transform = transform

    def __call__(self, image: np.ndarray, streams: StreamPair) -> np.ndarray:
        self.transform.set_random_state(streams.numpy, streams.python)
        made: np.ndarray = self.transform(image=image.copy())["image"]
        return made


class _Fast(ABC):
    """A transform that is applied with probability p."""

    def __init__(self, transform: Any) -> None:
        self.transform = transform
        self.by_albumentations = ByAlbumentations(transform)

    @staticmethod
    def covers(transform: Any) -> bool:  # noqa: ARG004
        """Whether the class does the same for the transform's arguments."""
        return True

    def __call__(self, image: np.ndarray, streams: StreamPair) -> np.ndarray:
        if image.dtype != np.uint8 or image.shape[2:] != (3,):
            return self.by_albumentations(image, streams)
        p = self.transform.p
        if p < 1 and (p <= 0 or streams.python.random() >= p):
            return image
        return self.applied(np.ascontiguousarray(image), streams)

    @abstractmethod
    def applied(self, image: np.ndarray, streams: StreamPair) -> np.ndarray: ...


class _Flip(_Fast):
    def applied(self, image: np.ndarray, streams: StreamPair) -> np.ndarray:  # noqa: ARG002
        return cv2.flip(image, 1 if isinstance(self.transform, albumentations.HorizontalFlip) else 0)


class _BrightnessContrast(_Fast):
    @staticmethod
    def covers(transform: Any) -> bool:
        limits = (transform.contrast_limit, transform.brightness_limit)
        return transform.brightness_by_max and not transform.ensure_safe_range and all(map(_is_range, limits))

    def applied(self, image: np.ndarray, streams: StreamPair) -> np.ndarray:
        contrast = 1.0 + streams.python.uniform(*self.transform.contrast_limit)
        brightness = streams.python.uniform(*self.transform.brightness_limit) * 255
        levels = _LEVELS * contrast  # in float32, as there
        levels += brightness
        np.maximum(levels, 0, out=levels)
        np.minimum(levels, 255, out=levels)
        return sz_lut(image, levels.astype(np.uint8), inplace=False)


class _CoarseDropout(_Fast):
    @staticmethod
    def covers(transform: Any) -> bool:
        heights, widths = transform.hole_height_range, transform.hole_width_range
        # Heights decide whether both are in pixels; where widths disagree, albumentations raises its own errors.
        return _is_range(heights) and _is_range(widths) and (heights[1] >= 1) == (widths[1] >= 1)

    def applied(self, image: np.ndarray, streams: StreamPair) -> np.ndarray:
        height, width = image.shape[:2]
        number = streams.python.randint(*self.transform.num_holes_range)
        heights = self._lengths(height, self.transform.hole_height_range, number, streams.numpy)
        widths = self._lengths(width, self.transform.hole_width_range, number, streams.numpy)
        # One call draws what albumentations draws in three: all tops, all left sides, a seed for random colours.
        ends = [height - length + 1 for length in heights] + [width - length + 1 for length in widths] + [2**32 - 1]
        *corners, seed = streams.numpy.integers(0, ends).tolist()
        holes = [
            (left, top, left + hole_width, top + hole_height)
            for top, left, hole_height, hole_width in zip(
                corners[:number], corners[number:], heights, widths, strict=True
            )
        ]
        fill = self.transform.fill
        noise = np.random.default_rng(seed) if isinstance(fill, str) else None
        made: np.ndarray = cutout(image, holes, fill, noise)
        return made

    def _lengths(
        self, side: int, limits: tuple[float, float], number: int, generator: np.random.Generator
    ) -> list[int]:
        """The heights or widths of the holes in pixels, in an image of `side` pixels."""
        if self.transform.hole_height_range[1] >= 1:  # in pixels, not as shares
            drawn: list[int] = generator.integers(int(limits[0]), int(min(limits[1], side) + 1), size=number).tolist()
            return drawn
        return [int(side * share) for share in generator.uniform(*limits, size=number).tolist()]


class _ShiftScaleRotate(_Fast):
    def applied(self, image: np.ndarray, streams: StreamPair) -> np.ndarray:
        height, width = image.shape[:2]
        matrix = self._matrix(height, width, streams.python.uniform)
        if _is_identity(matrix):
            return image
        fill = self.transform.fill
        return cv2.warpAffine(
            image,
            matrix[:2],
            (width, height),
            flags=self.transform.interpolation,
            borderMode=self.transform.border_mode,
            borderValue=[fill] * 3 if isinstance(fill, float) else fill,
        )

    def _matrix(self, height: int, width: int, uniform: Callable[..., float]) -> np.ndarray:
        """(3, 3): centre @ translation @ rotation @ scale @ -centre, as albumentations multiplies them.

        Most of these products only copy, or multiply two numbers: plain arithmetic gives the same bits. Where numbers
        are added up as well, numpy multiplies here too, since its library may round a product and a sum at once."""
        transform = self.transform
        shift = {axis: uniform(*limits) for axis, limits in transform.translate_percent.items()}
        shift_x, shift_y = int(shift["x"] * width), int(shift["y"] * height)
        uniform(0, 0), uniform(0, 0)  # the shear of albumentations.Affine
        scale = {axis: uniform(*limits) for axis, limits in transform.scale.items()}
        angle = np.deg2rad(uniform(*transform.rotate) % 360)
        cosine, sine = float(np.cos(angle)), float(np.sin(angle))
        centre_x, centre_y = width / 2 - 0.5, height / 2 - 0.5
        moved = np.array(
            [
                [cosine * scale["x"], sine * scale["y"], centre_x + shift_x],
                [-sine * scale["x"], cosine * scale["y"], centre_y + shift_y],
                [0, 0, 1],
            ]
        )
        matrix: np.ndarray = moved @ np.array([[1, 0, -centre_x], [0, 1, -centre_y], [0, 0, 1]])
        return matrix


def _is_identity(matrix: np.ndarray) -> bool:
    (a, b, x), (c, d, y) = matrix[:2].tolist()
    return max(abs(a - 1), abs(d - 1)) <= _NEAR_ONE and max(abs(b), abs(c), abs(x), abs(y)) <= _NEAR_ZERO


def _is_range(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(isinstance(end, int | float) for end in value)


_FAST: dict[type, type[_Fast]] = {
    albumentations.CoarseDropout: _CoarseDropout,
    albumentations.HorizontalFlip: _Flip,
    albumentations.RandomBrightnessContrast: _BrightnessContrast,
    albumentations.ShiftScaleRotate: _ShiftScaleRotate,
    albumentations.VerticalFlip: _Flip,
}
