"""Fingerprint of a picture: its low frequencies. Copies that were resized or encoded again have similar ones; those of
the mirrored and of the cropped picture follow from it."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import cv2
import numpy as np

FINGERPRINT_RULES = 1
"""Raised whenever a picture may get another fingerprint."""

SIDE = 32
"""Pixels of the small picture that the frequencies are those of, whatever the picture's shape."""

LUMINANCE_ORDER, CHROMA_ORDER = 8, 4
"""So many frequencies of each axis are kept, as in pHash (Zauner 2010), which keeps their signs alone."""

_VERTICAL, _HORIZONTAL = np.mgrid[:LUMINANCE_ORDER, :LUMINANCE_ORDER].reshape(2, -1)[:, 1:]  # without the mean
_CHROMA_VERTICAL, _CHROMA_HORIZONTAL = np.mgrid[:CHROMA_ORDER, :CHROMA_ORDER].reshape(2, -1)

IS_ODD = np.concatenate([_HORIZONTAL, _CHROMA_HORIZONTAL, _CHROMA_HORIZONTAL]) % 2 == 1
"""(D,) bool: the values that change their sign where the picture is mirrored left to right."""

FREQUENCY = np.hypot(
    np.concatenate([_VERTICAL, _CHROMA_VERTICAL, _CHROMA_VERTICAL]),
    np.concatenate([_HORIZONTAL, _CHROMA_HORIZONTAL, _CHROMA_HORIZONTAL]),
).astype(np.float32)
"""(D,) of each value, in half periods a side; 0 for the mean of a colour."""


def fingerprint_of(rgb: np.ndarray) -> str:
    """The fingerprint as text, D bytes in base64.

    rgb: (H, W, 3) uint8"""
    small = cv2.resize(rgb, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    luminance, red, blue = cv2.split(cv2.cvtColor(small, cv2.COLOR_RGB2YCrCb))
    frequencies = cv2.dct(luminance)[_VERTICAL, _HORIZONTAL]
    colours = [cv2.dct(each - 127.5)[_CHROMA_VERTICAL, _CHROMA_HORIZONTAL] for each in (red, blue)]
    values = np.concatenate([frequencies, *colours])
    values *= 127 / max(1.0, float(np.linalg.norm(frequencies)))  # whatever the contrast
    return base64.b64encode(np.rint(values).clip(-127, 127).astype(np.int8).tobytes()).decode()


def _crop_matrix(order: int, share: float) -> np.ndarray:
    """(order, order): the frequencies along an axis of what is left where `share` is cut off at both of its ends."""
    along = (np.arange(SIDE) + 0.5) / SIDE
    number = np.arange(order)
    scale = np.sqrt(np.where(number == 0, 1, 2) / SIDE)  # of the orthonormal DCT-II, as OpenCV's
    cut = share + along * (1 - 2 * share)
    waves, waves_of_the_cut = (scale * np.cos(np.pi * np.outer(x, number)) for x in (along, cut))
    return waves.T @ waves_of_the_cut


def cropped(values: np.ndarray, share: float) -> np.ndarray:
    """What the fingerprints would be if `share` of the picture were cut off at each side, without opening it.

    values: (N, D) of `fingerprint_array`; the result is not scaled to their contrast"""
    matrix = np.zeros((len(FREQUENCY), len(FREQUENCY)), np.float32)
    start = 0
    for order, down, right in (
        (LUMINANCE_ORDER, _VERTICAL, _HORIZONTAL),
        *((CHROMA_ORDER, _CHROMA_VERTICAL, _CHROMA_HORIZONTAL),) * 2,
    ):
        axis = _crop_matrix(order, share)
        block = slice(start, start + len(down))
        matrix[block, block] = axis[down[:, None], down] * axis[right[:, None], right]
        start += len(down)
    result: np.ndarray = values @ matrix.T
    return result


def fingerprint_array(fingerprints: Sequence[str]) -> np.ndarray:
    """(N, D) float32."""
    data = b"".join(base64.b64decode(each) for each in fingerprints)
    return np.frombuffer(data, np.int8).reshape(len(fingerprints), len(FREQUENCY)).astype(np.float32)
