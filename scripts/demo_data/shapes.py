"""Brushes for the drawn faces: the projection of a turned head, smooth outlines, soft shading and shared noise."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from utils.random_streams import numpy_stream

HEIGHT, WIDTH = 512, 384
Image = NDArray[np.uint8]
Points = NDArray[np.float64]
SHIFT = 4  # cv2 takes points in 1/16 of a pixel


class View:
    """Maps face units (x right, y down, 0 between the eyes, chin at y = 1) to pixels, for a head that turns and tilts.

    scale: pixels a unit; centre: pixel (x, y) of the face's middle; roll, yaw, pitch: radians.
    """

    def __init__(self, scale: float, centre: tuple[float, float], roll: float, yaw: float, pitch: float) -> None:
        self.scale, self.centre, self.roll = scale, np.array(centre), roll
        self.yaw, self.pitch = np.sin(yaw), np.sin(pitch)
        self.rotation = scale * np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])

    def __call__(self, points: ArrayLike, depth: float = 0.0) -> Points:
        """(N, 2) face units -> (N, 2) pixels; `depth` comes towards the camera on top of the face's own bulge."""
        points = np.asarray(points, dtype=np.float64)
        x, y = points[:, 0], points[:, 1]
        bulge = depth + 0.55 * np.sqrt(np.clip(1 - (x / 0.85) ** 2 - (y / 1.2) ** 2, 0, 1))
        turned = np.stack([x + bulge * self.yaw, y + bulge * self.pitch], axis=1)
        return np.asarray(turned @ self.rotation.T + self.centre)


@functools.cache
def _weights(samples: int) -> Points:
    """(samples, 4) Catmull-Rom weights of a segment's four control points."""
    t = np.arange(samples)[:, None] / samples
    return 0.5 * np.concatenate(
        [-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, -(t**2) + t**3], 1
    )


def smooth(control: ArrayLike, closed: bool = True, samples: int = 6) -> Points:
    """A Catmull-Rom curve through the control points (N, 2)."""
    points = np.asarray(control, dtype=np.float64)
    if closed:
        around = np.concatenate([points[-1:], points, points[:2]])
    else:
        around = np.concatenate([points[:1], points, points[-1:]])
    segments = np.stack([around[i : len(around) - 3 + i] for i in range(4)], axis=1)
    curve = (_weights(samples) @ segments).reshape(-1, 2)
    return curve if closed else np.concatenate([curve, points[-1:]])


def mirrored(right: ArrayLike) -> Points:
    """A closed outline from its right half, top to bottom."""
    points = np.asarray(right, dtype=np.float64)
    left = points[::-1] * (-1, 1)
    return np.concatenate([points, left[np.abs(left[:, 0]) > 1e-9]])


def fixed(points: Points, zoom: float = 1.0) -> NDArray[np.int32]:
    """Pixels in cv2's fixed point; the clip keeps what is far outside from overflowing."""
    return np.round(np.clip(points, -4000, 4000) * zoom * (1 << SHIFT)).astype(np.int32)


def fill(image: Image, points: Points, colour: Sequence[float], zoom: float = 1.0) -> None:
    """Fills a polygon of pixels."""
    cv2.fillPoly(image, [fixed(points, zoom)], colour, cv2.LINE_AA, SHIFT)


def stroke(image: Image, points: Points, colour: Sequence[float], width: float, zoom: float = 1.0) -> None:
    """Draws an open line through pixels, `width` pixels wide."""
    cv2.polylines(image, [fixed(points, zoom)], False, colour, max(1, round(width * zoom)), cv2.LINE_AA, SHIFT)


def paste(image: Image, layer: Image, outline: Image) -> None:
    """Lays `layer` over `image` where `outline` (H, W), 0 to 255, is set; only its bounding box is touched."""
    x, y, width, height = cv2.boundingRect(outline)
    if width == 0:
        return
    box = np.s_[y : y + height, x : x + width]
    weight = outline[box].astype(np.float32) * np.float32(1 / 255)
    image[box] = cv2.blendLinear(np.ascontiguousarray(layer[box]), np.ascontiguousarray(image[box]), weight, 1 - weight)


class Shading:
    """Soft light and shadow at half the size, multiplied into an image: 128 leaves it as it is."""

    def __init__(self) -> None:
        self.fine = np.full((HEIGHT // 2, WIDTH // 2, 3), 128, np.uint8)
        self.coarse = np.full((HEIGHT // 8, WIDTH // 8, 3), 128, np.uint8)

    @staticmethod
    def _tone(darkness: float) -> tuple[float, float, float]:
        """Shadows on skin are warm: red keeps more of the light."""
        return 128 * (1 - 0.75 * darkness), 128 * (1 - darkness), 128 * (1 - 1.05 * darkness)

    def line(self, points: Points, darkness: float, width: float) -> None:
        stroke(self.fine, points, self._tone(darkness), width, 0.5)

    def patch(self, points: Points, darkness: float) -> None:
        fill(self.fine, points, self._tone(darkness), 0.5)

    def area(self, points: Points, darkness: float) -> None:
        """As `patch`, but with very soft edges."""
        fill(self.coarse, points, self._tone(darkness), 1 / 8)

    def apply(self, image: Image, within: Image | None = None, texture: NDArray[np.float32] | None = None) -> None:
        """Multiplies the shading into `image`; `texture` (small, about 0) is added, `within` (H, W) bounds both."""
        coarse = cv2.GaussianBlur(self.coarse, (0, 0), 1.6).astype(np.float32) * np.float32(1 / 128)
        if texture is not None:
            coarse += texture
        size = (WIDTH // 2, HEIGHT // 2)
        shading = cv2.resize(coarse, size, interpolation=cv2.INTER_LINEAR)
        shading = cv2.multiply(cv2.GaussianBlur(self.fine, (0, 0), 0.8), shading, scale=1, dtype=cv2.CV_8U)
        shading = cv2.resize(shading, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)
        shaded = np.asarray(cv2.multiply(image, shading, scale=1 / 128), np.uint8)
        if within is None:
            image[:] = shaded
        else:
            paste(image, shaded, within)


@functools.cache
def grain() -> NDArray[np.int16]:
    """(1024, 1024, 3) noise of the sensor, spread 100; the same for every data set, cut at a place drawn for each."""
    random = numpy_stream(0, "drawn grain")
    return np.asarray(random.normal(0, 100, (1024, 1024, 3)).astype(np.int16))


@functools.cache
def strands() -> Image:
    """(1024, 1024) streaks along y, 0 to 255, for hair."""
    random = numpy_stream(0, "drawn strands")
    field = np.zeros((1024, 1024), np.float32)
    for columns, rows, weight in ((1024, 8, 0.9), (420, 6, 0.9), (60, 8, 0.6)):
        field += weight * cv2.resize(
            random.normal(0, 1, (rows, columns)).astype(np.float32), (1024, 1024), interpolation=cv2.INTER_CUBIC
        )
    return np.clip(128 + 45 * field, 0, 255).astype(np.uint8)


def clouds(random: np.random.Generator, rows: int, columns: int, size: tuple[int, int]) -> NDArray[np.float32]:
    """Smooth noise, spread about 1, of `size` (height, width), with rows x columns knots."""
    knots = random.standard_normal((rows, columns), dtype=np.float32)
    return np.asarray(cv2.resize(knots, size[::-1], interpolation=cv2.INTER_CUBIC))
