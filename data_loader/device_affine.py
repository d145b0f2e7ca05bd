"""The twin of Affine and ShiftScaleRotate."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from data_loader.device_twins import NotCovered, Twin, rgb, uniform, whole

_BORDERS = {
    cv2.BORDER_CONSTANT: ("zeros", True),
    cv2.BORDER_REPLICATE: ("border", True),
    cv2.BORDER_REFLECT_101: ("reflection", True),
    cv2.BORDER_REFLECT: ("reflection", False),
}
"""OpenCV's ways beyond the edge, as grid_sample's padding_mode and align_corners."""


class Affine(Twin):
    """Affine and ShiftScaleRotate: places on OpenCV's raster of 1 / 32 pixel, and between the pixels linearly.

    Parameters: the matrix from a pixel's place to the place it is read at: (xx, yx, xy, yy, x, y), such that
    x_read = xx * x + xy * y + x, y_read = yx * x + yy * y + y."""

    def __init__(self, transform: Any, image_hw: tuple[int, int], device: torch.device) -> None:
        super().__init__(transform, image_hw, device)
        if transform.interpolation != cv2.INTER_LINEAR:
            raise NotCovered(f"interpolation = {transform.interpolation}, only {cv2.INTER_LINEAR} (linear)")
        if transform.border_mode not in _BORDERS:
            raise NotCovered(f"border_mode = {transform.border_mode}, only {', '.join(map(str, sorted(_BORDERS)))}")
        for name in ("fit_output", "balanced_scale"):
            if getattr(transform, name):
                raise NotCovered(name)
        self.scale = transform.scale
        self.keep_ratio = transform.keep_ratio
        self.rotate = transform.rotate
        self.shear = transform.shear
        self.translate_px = transform.translate_px
        self.translate_percent = transform.translate_percent
        padding, align_corners = _BORDERS[transform.border_mode]
        self._sample = LinearSampler(image_hw, device, padding, align_corners, per_pixel=32)
        fill = np.clip(np.rint(np.broadcast_to(rgb(transform.fill), 3)), 0, 255).astype(np.float32)
        self._fill = torch.from_numpy(fill).to(device).view(3, 1, 1) if padding == "zeros" and fill.any() else None
        self._x, self._y = (
            torch.arange(side, dtype=torch.float64, device=device)[:, None] for side in (image_hw[1], image_hw[0])
        )
        self.num_uniforms = 8
        self.identity = np.array([1.0, 0.0, 0.0, 1.0, 0.0, 0.0])

    def _parameters(self, uniforms: np.ndarray) -> np.ndarray:
        shift_x, shift_y = (self._shift(uniforms[:, side], "xy"[side]) for side in (0, 1))
        shear_x, shear_y = (np.tan(np.deg2rad(-uniform(uniforms[:, 2 + k], self.shear["xy"[k]]))) for k in (0, 1))
        scale_x = uniform(uniforms[:, 4], self.scale["x"])
        scale_y = scale_x if self.keep_ratio else uniform(uniforms[:, 5], self.scale["y"])
        angle = np.deg2rad(uniform(uniforms[:, 6], self.rotate))
        return inverse_affine(shift_x, shift_y, shear_x, shear_y, scale_x, scale_y, angle, self.image_hw)

    def _shift(self, uniforms: np.ndarray, axis: str) -> np.ndarray:
        """Along "x" or "y", in whole pixels."""
        if self.translate_percent is None:
            low, high = self.translate_px[axis]
            return whole(uniforms, int(low), int(high))
        full = self.image_hw["yx".index(axis)]
        return np.trunc(uniform(uniforms, self.translate_percent[axis]) * full)

    def apply(self, images: Tensor, params: Tensor) -> Tensor:
        by_x, by_y, offset = params.view(-1, 3, 1, 2).unbind(1)
        # As cv2.warpAffine: in 1 / 1024 pixel, rounded for column and row each, then cut to 1 / 32 pixel.
        columns = (by_x * self._x * 1024).round_() / 32
        rows = ((by_y * self._y + offset) * 1024).round_().add_(16) / 32
        places = (columns.float()[:, None] + rows.float()[:, :, None]).floor_()
        pixels = images.permute(0, 3, 1, 2).float()
        if self._fill is None:
            return to_levels(self._sample(pixels, places))
        # beyond the edge grid_sample reads 0
        return to_levels(self._sample(pixels.sub_(self._fill), places).add_(self._fill))


def inverse_affine(
    shift_x: np.ndarray,
    shift_y: np.ndarray,
    shear_x: np.ndarray,
    shear_y: np.ndarray,
    scale_x: np.ndarray,
    scale_y: np.ndarray,
    angle: np.ndarray,
    image_hw: tuple[int, int],
) -> np.ndarray:
    """(B, 6): the parameters of Affine that undo shift * shear * rotation * scale about the image's middle.

    All (B,) or numbers; shifts in pixels, shears as tangents, the angle in radians, counter-clockwise as it is seen."""
    cosine, sine = np.cos(angle), np.sin(angle)
    a, b = (cosine - shear_x * sine) * scale_x, (sine + shear_x * cosine) * scale_y
    c, d = (shear_y * cosine - sine) * scale_x, (shear_y * sine + cosine) * scale_y
    middle_y, middle_x = ((side - 1) / 2 for side in image_hw)
    determinant = a * d - b * c
    # a matrix that squeezes all into a line has no inverse: as in OpenCV, each pixel is then read at one place
    factor = np.divide(1.0, determinant, out=np.zeros_like(determinant), where=determinant != 0)
    xx, xy, yx, yy = d * factor, -b * factor, -c * factor, a * factor
    from_x = middle_x + shift_x - a * middle_x - b * middle_y
    from_y = middle_y + shift_y - c * middle_x - d * middle_y
    return np.stack([xx, yx, xy, yy, -xx * from_x - xy * from_y, -yx * from_x - yy * from_y], axis=1)


class LinearSampler:
    """Reads images of one size between their pixels, linearly, at places in units of 1 / `per_pixel` pixel.

    padding, align_corners: of torch's grid_sample; with the padding "reflection", align_corners means that images are
    mirrored at the middle of their outermost pixels, not at their edge."""

    def __init__(
        self, image_hw: tuple[int, int], device: torch.device, padding: str, align_corners: bool, per_pixel: int = 1
    ) -> None:
        self._padding = padding
        self._align_corners = align_corners
        # grid_sample wants places as numbers from -1 to 1, from middle to middle or from edge to edge
        spans = [max(side - 1, 1) if align_corners else side for side in (image_hw[1], image_hw[0])]
        self._scale = torch.tensor([2 / span / per_pixel for span in spans], device=device)
        self._shift = torch.tensor([-1.0 if align_corners else 1 / span - 1 for span in spans], device=device)

    def __call__(self, pixels: Tensor, places: Tensor) -> Tensor:
        """(B, 3, H, W) float32 at places (B, h, w, 2) float32, x and y, which it overwrites -> (B, 3, h, w)."""
        grid = places.mul_(self._scale).add_(self._shift)
        return F.grid_sample(
            pixels, grid, mode="bilinear", padding_mode=self._padding, align_corners=self._align_corners
        )


def to_levels(pixels: Tensor) -> Tensor:
    """(B, 3, H, W) float32 in 0 to 255, which it overwrites -> (B, H, W, 3) uint8, rounded."""
    levels = pixels.add_(0.5).permute(0, 2, 3, 1)
    return levels.to(torch.uint8, memory_format=torch.contiguous_format)
