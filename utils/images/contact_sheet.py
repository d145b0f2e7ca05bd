"""Contact sheets: many pictures on one, to look at; and pictures as the content of a file."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

ENCODINGS: dict[str, tuple[str, list[int]]] = {
    ".png": (".png", []),
    ".bmp": (".bmp", []),
    ".dib": (".bmp", []),
    ".webp": (".webp", [cv2.IMWRITE_WEBP_QUALITY, 101]),  # above 100: lossless
}
"""By a file's ending, those without loss: the ending that OpenCV encodes by, and its flags."""
JPEG = (
    ".jpg",
    [
        cv2.IMWRITE_JPEG_QUALITY, 95,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    ],
)  # fmt: skip

TILE_PIXELS = 160
BLACK, RED = (0, 0, 0), (200, 0, 0)


def encode(image: np.ndarray, encoding: tuple[str, list[int]]) -> bytes:
    """An image (H, W, 3) uint8, RGB, as a file's content."""
    is_written, data = cv2.imencode(encoding[0], cv2.cvtColor(image, cv2.COLOR_RGB2BGR), encoding[1])
    assert is_written
    return bytes(data)


def tile_of(image: np.ndarray) -> np.ndarray:
    """The whole image in a grey square of TILE_PIXELS."""
    scale = TILE_PIXELS / max(image.shape[:2])
    width, height = (max(1, round(side * scale)) for side in image.shape[1::-1])
    tile = np.full((TILE_PIXELS, TILE_PIXELS, 3), 200, np.uint8)
    top, left = (TILE_PIXELS - height) // 2, (TILE_PIXELS - width) // 2
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    tile[top : top + height, left : left + width] = resized
    return tile


def captioned(image: np.ndarray, lines: Sequence[str], colour: tuple[int, int, int] = BLACK) -> np.ndarray:
    """An image below lines of text on white, (H + 16 n, W, 3); what is no ASCII is written as "?".

    lines: n, cut at the image's width"""
    strip = np.full((16 * len(lines), image.shape[1], 3), 255, np.uint8)
    for number, line in enumerate(lines):
        text = line.encode("ascii", "replace").decode()[: image.shape[1] // 7]
        cv2.putText(strip, text, (3, 16 * number + 12), cv2.FONT_HERSHEY_SIMPLEX, 0.38, colour, 1, cv2.LINE_AA)
    return np.concatenate([strip, image])


def grid(tiles: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Tiles of one size in rows of so many, with white between them."""
    framed = [np.pad(tile, ((4, 4), (4, 4), (0, 0)), constant_values=255) for tile in tiles]
    columns = min(columns, len(framed))
    framed += [np.full_like(framed[0], 255)] * (-len(framed) % columns)
    return np.concatenate([np.concatenate(framed[n : n + columns], axis=1) for n in range(0, len(framed), columns)])


def evenly(names: Sequence[str], number: int) -> list[str]:
    """At most `number` of the names, at even distances."""
    return [names[int(n)] for n in np.linspace(0, len(names) - 1, min(number, len(names)))]
