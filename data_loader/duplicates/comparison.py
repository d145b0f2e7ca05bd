"""Whether two photographs are one picture: aligned, and then compared at every place."""

from __future__ import annotations

import cv2
import numpy as np

SIDE = 64
"""Pixels of the longer side of small pictures: finer detail does not survive resizing and encoding."""

BLUR = 1.0
"""Pixels, the standard deviation: pictures that were resized differ in their sharpness."""

WINDOW = 9
"""Pixels: where a seventh of the picture shows something else, it is another picture, however alike all else is."""

MIN_CORRELATION, MIN_OVERLAP = 0.8, 0.6
"""Of half the size, aligned; and of the areas."""


def small_picture(rgb: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8, with a longer side of SIDE pixels. rgb: (H, W, 3) uint8"""
    scale = SIDE / max(rgb.shape[:2])
    size = [max(WINDOW, round(side * scale)) for side in rgb.shape[1::-1]]
    return cv2.resize(rgb, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)


def difference(first: np.ndarray, second: np.ndarray) -> float:
    """The largest difference of two small pictures in any window, once they are aligned, in units of the contrast: 0
    for the same picture, about 1 where a place shows something else; inf where they cannot be aligned.

    The alignment is the affine one that correlates best (Evangelidis & Psarakis 2008), found at half the size first."""
    first, second = (cv2.GaussianBlur(each.astype(np.float32), (0, 0), BLUR) for each in (first, second))
    grey = [cv2.cvtColor(each, cv2.COLOR_RGB2GRAY) for each in (first, second)]
    halved = [cv2.resize(each, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) for each in grey]
    (height, width), (other_height, other_width) = (each.shape for each in halved)
    warp = np.array([[other_width / width, 0, 0], [0, other_height / height, 0]], np.float32)
    try:
        correlation, warp = _aligned(halved[0], halved[1], warp)
        if correlation < MIN_CORRELATION:
            return float("inf")
        warp[:, 2] = 2 * warp[:, 2] + 0.5 - warp[:, :2] @ np.array([0.5, 0.5])  # the centres of pixels lie between two
        _, warp = _aligned(grey[0], grey[1], warp)
    except cv2.error:  # nothing to align by
        return float("inf")
    size, flags = first.shape[1::-1], cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    aligned = cv2.warpAffine(second, warp, size, flags=flags)
    covered = cv2.warpAffine(np.ones(second.shape[:2], np.float32), warp, size, flags=flags) > 0.999
    if covered.mean() < MIN_OVERLAP:
        return float("inf")
    return _largest_difference(first, aligned, covered)


def _aligned(first: np.ndarray, second: np.ndarray, warp: np.ndarray) -> tuple[float, np.ndarray]:
    stop = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 20, 1e-3)
    everywhere = np.full(second.shape, 255, np.uint8)
    correlation, found = cv2.findTransformECC(first, second, warp, cv2.MOTION_AFFINE, stop, everywhere, 3)
    return correlation, np.array(found)


def _largest_difference(first: np.ndarray, second: np.ndarray, covered: np.ndarray) -> float:
    """After the gain and offset of each colour that fit best. covered: (h, w) bool, where there is something of both"""
    a, b = first[covered], second[covered]  # (n, 3)
    a_mean, b_mean, contrast = a.mean(axis=0), b.mean(axis=0), float(a.std(axis=0).mean()) + 1
    gain = ((a - a_mean) * (b - b_mean)).sum(axis=0) / np.maximum(((b - b_mean) ** 2).sum(axis=0), 1)
    squares = ((first - a_mean - gain * (second - b_mean)) ** 2).mean(axis=2) * covered
    total, count = (
        cv2.boxFilter(each.astype(np.float32), -1, (WINDOW, WINDOW), normalize=False, borderType=cv2.BORDER_CONSTANT)
        for each in (squares, covered)
    )
    in_view = count > 0.6 * WINDOW**2
    return float(np.sqrt((total[in_view] / count[in_view]).max())) / contrast if in_view.any() else float("inf")
