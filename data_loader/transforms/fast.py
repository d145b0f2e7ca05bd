"""The random transforms that recipes use most, rewritten: the same draws and the same bits as albumentations, faster.

On a small image the work of a transform often takes less time than what albumentations does around it: dictionaries of
targets and parameters, matrices for bounding boxes that do not exist. The classes here draw from the same generators in
the same order and call the same functions of OpenCV; a core makes 1.3 to 1.8 times as many images.
They cannot go stale: albumentations 2.0.8 is its last release under the MIT licence (its successor is not free), and
requirements.txt keeps to it. A transform of another class, with arguments that are not covered, or of another release
runs through albumentations itself.
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
"""numpy.allclose's tolerances, by which albumentations tells a matrix that changes nothing."""

Step = Callable[[np.ndarray, StreamPair], np.ndarray]
"""A transform of (H, W, 3) uint8: it draws from the streams, and never writes into the image, but may return it."""


def fast_transform(transform: Any) -> Step:
    """The fastest way to do what `transform(image=image)["image"]` does with generators of the streams' key."""
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
    """What all share: a transform is applied with probability p."""

    def __init__(self, transform: Any) -> None:
        self.transform = transform
        self.by_albumentations = ByAlbumentations(transform)
        self.probability = transform.p

    @staticmethod
    @abstractmethod
    def covers(transform: Any) -> bool:
        """Whether the class does the same for the transform's arguments."""

    def __call__(self, image: np.ndarray, streams: StreamPair) -> np.ndarray:
        if image.dtype != np.uint8 or image.shape[2:] != (3,):
            return self.by_albumentations(image, streams)
        if self.probability < 1 and (self.probability <= 0 or streams.python.random() >= self.probability):
            return image
        return self.applied(np.ascontiguousarray(image), streams)

    @abstractmethod
    def applied(self, image: np.ndarray, streams: StreamPair) -> np.ndarray:
        """The transform itself."""


class _Flip(_Fast):
    """HorizontalFlip and VerticalFlip."""

    def __init__(self, transform: Any) -> None:
        super().__init__(transform)
        self.code = 1 if type(transform) is albumentations.HorizontalFlip else 0

    @staticmethod
    def covers(transform: Any) -> bool:
        return 0 <= transform.p <= 1  # they have no other argument

    def applied(self, image: np.ndarray, _streams: StreamPair) -> np.ndarray:
        return cv2.flip(image, self.code)


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
    def __init__(self, transform: Any) -> None:
        super().__init__(transform)
        self.in_pixels = transform.hole_height_range[1] >= 1

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
        return _with_holes(image, holes, self.transform.fill, seed)

    def _lengths(
        self, whole: int, limits: tuple[float, float], number: int, generator: np.random.Generator
    ) -> list[int]:
        """A side of each hole, in pixels, of images that have `whole` pixels that way."""
        if self.in_pixels:
            drawn: list[int] = generator.integers(int(limits[0]), int(min(limits[1], whole) + 1), size=number).tolist()
            return drawn
        return [int(whole * share) for share in generator.uniform(*limits, size=number).tolist()]


class _Erasing(_Fast):
    @staticmethod
    def covers(transform: Any) -> bool:
        return _is_range(transform.scale) and _is_range(transform.ratio)

    def applied(self, image: np.ndarray, streams: StreamPair) -> np.ndarray:
        self.transform.set_random_state(streams.numpy, streams.python)
        parameters = self.transform.get_params_dependent_on_data({"shape": image.shape}, {})
        if parameters["holes"].size == 0:  # no hole fits into the image: whatever albumentations makes of that
            made: np.ndarray = self.transform.apply(image, **parameters)
            return made
        return _with_holes(image, parameters["holes"], self.transform.fill, parameters["seed"])


class _Affine(_Fast):
    """Affine and ShiftScaleRotate."""

    def __init__(self, transform: Any) -> None:
        super().__init__(transform)
        fill = transform.fill
        self.border_value = [fill] * 3 if isinstance(fill, float) else fill
        self.has_shear = any(transform.shear["x"]) or any(transform.shear["y"])

    @staticmethod
    def covers(transform: Any) -> bool:
        ranges = [transform.scale, transform.shear]
        ranges += [found for found in (transform.translate_px, transform.translate_percent) if found is not None]
        return (
            not transform.fit_output
            and not transform.balanced_scale
            and _is_range(transform.rotate)
            and all(
                isinstance(found, dict) and found.keys() == {"x", "y"} and all(map(_is_range, found.values()))
                for found in ranges
            )
        )

    def applied(self, image: np.ndarray, streams: StreamPair) -> np.ndarray:
        height, width = image.shape[:2]
        matrix = self._matrix(height, width, streams.python.uniform, streams.python.randint)
        if _changes_nothing(matrix):
            return image
        return cv2.warpAffine(
            image,
            matrix[:2],
            (width, height),
            flags=self.transform.interpolation,
            borderMode=self.transform.border_mode,
            borderValue=self.border_value,
        )

    def _matrix(
        self, height: int, width: int, uniform: Callable[..., float], randint: Callable[..., int]
    ) -> np.ndarray:
        """(3, 3): centre @ translation @ shear @ rotation @ scale @ -centre, as albumentations multiplies them.

        Most of these products only copy, or multiply two numbers: plain arithmetic gives the same bits. Where numbers
        are added up as well, numpy multiplies here too, since its library may round a product and a sum at once."""
        transform = self.transform
        shift_x, shift_y = self._shift(height, width, uniform, randint)
        shear_x, shear_y = -uniform(*transform.shear["x"]), -uniform(*transform.shear["y"])
        scale = {axis: uniform(*limits) for axis, limits in transform.scale.items()}
        scale_x, scale_y = scale["x"], scale["x"] if transform.keep_ratio else scale["y"]
        angle = np.deg2rad(uniform(*transform.rotate) % 360)
        cosine, sine = float(np.cos(angle)), float(np.sin(angle))
        turned = ((cosine, sine), (-sine, cosine))
        if self.has_shear:
            tangent_x, tangent_y = np.tan(np.deg2rad(shear_x)), np.tan(np.deg2rad(shear_y))
            sheared = np.array([[1, tangent_x, 0], [tangent_y, 1, 0], [0, 0, 1]])
            rotation = np.array([[cosine, sine, 0], [-sine, cosine, 0], [0, 0, 1]])
            turned = (sheared @ rotation)[:2, :2].tolist()
        centre_x, centre_y = width / 2 - 0.5, height / 2 - 0.5
        (a, b), (c, d) = turned
        moved = np.array(
            [[a * scale_x, b * scale_y, centre_x + shift_x], [c * scale_x, d * scale_y, centre_y + shift_y], [0, 0, 1]]
        )
        matrix: np.ndarray = moved @ np.array([[1, 0, -centre_x], [0, 1, -centre_y], [0, 0, 1]])
        return matrix

    def _shift(
        self, height: int, width: int, uniform: Callable[..., float], randint: Callable[..., int]
    ) -> tuple[int, int]:
        """To the right and down, in pixels."""
        pixels, shares = self.transform.translate_px, self.transform.translate_percent
        if pixels is not None:
            across = randint(int(pixels["x"][0]), int(pixels["x"][1]))
            return across, randint(int(pixels["y"][0]), int(pixels["y"][1]))
        if shares is None:
            return 0, 0
        drawn = {axis: uniform(*limits) for axis, limits in shares.items()}
        return int(drawn["x"] * width), int(drawn["y"] * height)


def _changes_nothing(matrix: np.ndarray) -> bool:
    (a, b, x), (c, d, y) = matrix[:2].tolist()
    return (
        abs(a - 1) <= _NEAR_ONE
        and abs(d - 1) <= _NEAR_ONE
        and abs(b) <= _NEAR_ZERO
        and abs(c) <= _NEAR_ZERO
        and abs(x) <= _NEAR_ZERO
        and abs(y) <= _NEAR_ZERO
    )


def _with_holes(image: np.ndarray, holes: Any, fill: Any, seed: int) -> np.ndarray:
    """A copy of the image with its holes (left, top, right, bottom) filled."""
    noise = np.random.default_rng(seed) if isinstance(fill, str) else None
    made: np.ndarray = cutout(image, holes, fill, noise)
    return made


def _is_range(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(isinstance(end, int | float) for end in value)


_FAST: dict[type, type[_Fast]] = {
    albumentations.Affine: _Affine,
    albumentations.CoarseDropout: _CoarseDropout,
    albumentations.Erasing: _Erasing,
    albumentations.HorizontalFlip: _Flip,
    albumentations.RandomBrightnessContrast: _BrightnessContrast,
    albumentations.ShiftScaleRotate: _Affine,
    albumentations.VerticalFlip: _Flip,
}
