"""Pictures: small JPEGs of photographs for the report, and its figures for the trackers."""

from __future__ import annotations

import base64
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import simplejpeg

from experiment.report.findings import Calibrated, Classified, find
from inference.out_of_fold import PredictionTable
from inference.tuning.reliability import Reliability
from logger.tracker import CaptionedImage
from utils.images import read_rgb
from utils.images.decoding import BitsUsed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIDE = 180
"""Pixels of the longer side."""
QUALITY = 82
MOST_NUMBERS = 30
"""A confusion of more classes has no numbers in its picture."""


def thumbnail(path: Path, bits_used_of_16: BitsUsed) -> str:
    """A photograph as a small JPEG in a data URI. Raises DataError."""
    image = read_rgb(path, bits_used_of_16)
    scale = min(1.0, SIDE / max(image.shape[:2]))
    width, height = (max(1, round(side * scale)) for side in (image.shape[1], image.shape[0]))
    small = np.ascontiguousarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))
    data = simplejpeg.encode_jpeg(small, QUALITY, "RGB", "420")
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"


def draw_pictures(table: PredictionTable) -> dict[str, list[CaptionedImage]]:
    """The confusion of each classification, and its reliability, for trackers."""
    classified = find(table).classified
    return {
        "val/confusion": [
            (_draw_confusion(each), f"{each.name or 'joint class'}: of each true class (row) the share predicted as")
            for each in classified
            if each.confusion
        ],
        "val/reliability": [
            (_draw_reliability(each.calibration), f"{each.name or 'joint class'}: probability and share right")
            for each in classified
        ],
    }


def _draw_confusion(found: Classified) -> np.ndarray:
    from matplotlib import rc_context

    size = 2.4 + 0.34 * len(found.class_names)
    with rc_context({"text.parse_math": False}):
        figure, axes = _figure(size + 1, size)
        shares = np.array([[cell.share for cell in row] for row in found.confusion])
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        numbers = range(len(found.class_names))
        axes.set_xticks(numbers, found.class_names, rotation=90, fontsize=8)
        axes.set_yticks(numbers, found.class_names, fontsize=8)
        axes.set(xlabel="predicted", ylabel="true", title=found.name or "joint class")
        if len(numbers) <= MOST_NUMBERS:
            for true, row in enumerate(found.confusion):
                for predicted, cell in enumerate(row):
                    if cell.count:
                        colour = "white" if cell.share > 0.5 else "black"
                        axes.text(predicted, true, str(cell.count), ha="center", va="center", fontsize=7, color=colour)
        return _pixels(figure)


def _draw_reliability(found: Calibrated) -> np.ndarray:
    figure, axes = _figure(3.6, 3.6)
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    sides: Mapping[str, Reliability | None] = {"as trained": found.before, "with temperature": found.after}
    for name, side in sides.items():
        if side is not None:
            used = side.count > 0
            axes.plot(side.confidence[used], side.right[used], marker="o", label=f"{name}, ECE {side.ece:.3f}")
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="probability of the predicted class", ylabel="share right")
    axes.legend(fontsize=8)
    return _pixels(figure)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
    return figure, figure.subplots()


def _pixels(figure: Figure) -> np.ndarray:
    """uint8 (H, W, 3)"""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # the font has no Korean, say
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
