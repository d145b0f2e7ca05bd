"""The test-time augmentations that --tta names. Imports no torch: a mistyped name is answered at once."""

from __future__ import annotations

from typing import Any

_FLIP = [{"type": "HorizontalFlip", "args": {"p": 1}}]


def _turned(degrees: float) -> list[dict[str, Any]]:
    return [{"type": "Rotate", "args": {"limit": [degrees, degrees], "p": 1}}]


def _cropped(top: float, right: float, bottom: float, left: float) -> list[dict[str, Any]]:
    """Without these shares of the image's sides."""
    percent = [-top, -right, -bottom, -left]
    return [{"type": "CropAndPad", "args": {"percent": percent, "keep_size": False, "p": 1}}]


CROPPED_AWAY = 1 / 8
"""Of each side of the image, in "five_crops": 224 of 256 pixels are left, as in Krizhevsky et al. 2012, section 4.1."""

_X = CROPPED_AWAY
PRESETS: dict[str, dict[str, list[dict[str, Any]]]] = {
    "none": {"plain": []},
    "flip": {"plain": [], "flip": _FLIP},
    "flip_rotate": {"plain": [], "flip": _FLIP, "left": _turned(30), "right": _turned(-30)},
    "five_crops": {
        "top_left": _cropped(0, _X, _X, 0),
        "top_right": _cropped(0, 0, _X, _X),
        "bottom_left": _cropped(_X, _X, 0, 0),
        "bottom_right": _cropped(_X, 0, 0, _X),
        "centre": _cropped(_X / 2, _X / 2, _X / 2, _X / 2),
    },
}
"""By name, the variants of an image: see inference/tta.py."""
