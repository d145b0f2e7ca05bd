"""The twins of CoarseDropout and Erasing: rectangles that are filled."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_loader.device_twins import NotCovered, Twin, rgb, uniform, whole


class Holes(Twin):
    """Up to `num_holes` rectangles, which a later one covers where they meet.

    Parameters: left, top, right, bottom of each hole in pixels (right and bottom are outside it; an empty hole is
    none); then, for the fill "random", a key of 32 bits, and for "random_uniform" the colour of each hole."""

    num_holes: int

    def __init__(
        self, transform: Any, image_hw: tuple[int, int], device: torch.device, num_holes: int, num_uniforms: int
    ) -> None:
        super().__init__(transform, image_hw, device)
        self.fill = transform.fill
        if isinstance(self.fill, str) and self.fill not in ("random", "random_uniform"):
            raise NotCovered(f'fill = "{self.fill}", only numbers, "random" and "random_uniform"')
        self.num_holes = num_holes
        num_extra = {"random": 1, "random_uniform": 3 * num_holes}.get(self.fill, 0)
        self._num_place_uniforms = num_uniforms
        self.num_uniforms = 1 + num_uniforms + num_extra
        self.identity = np.zeros(4 * num_holes + num_extra)
        self._x, self._y = (torch.arange(side, device=device) for side in (image_hw[1], image_hw[0]))
        if isinstance(self.fill, str):
            self._noise = _mixed(torch.arange(1, 1 + image_hw[0] * image_hw[1], dtype=torch.int32, device=device))
        else:
            self._colour = torch.from_numpy(np.array(rgb(self.fill), dtype=np.uint8).reshape(-1)).to(device)

    def _parameters(self, uniforms: np.ndarray) -> np.ndarray:
        holes = self._holes(uniforms[:, : self._num_place_uniforms]).reshape(len(uniforms), -1)
        extra = uniforms[:, self._num_place_uniforms :]
        extra = np.floor(extra * 2**32) - 2**31 if self.fill == "random" else np.floor(extra * 256)
        return np.concatenate([holes, extra], axis=1)

    @abstractmethod
    def _holes(self, uniforms: np.ndarray) -> np.ndarray:
        """(B, n) -> (B, num_holes, 4): left, top, right, bottom."""

    def apply(self, images: Tensor, params: Tensor) -> Tensor:
        holes = params[:, : 4 * self.num_holes].view(len(images), self.num_holes, 4)
        left, top, right, bottom = holes[..., None].unbind(2)
        columns = (self._x >= left) & (self._x < right)
        rows = (self._y >= top) & (self._y < bottom)
        inside = rows[..., :, None] & columns[..., None, :]
        extra = params[:, 4 * self.num_holes :]
        if self.fill == "random":
            words = _mixed(self._noise ^ extra.to(torch.int32))  # one of 32 bits for each pixel
            pixels = words.view(torch.uint8).view(-1, *self.image_hw, 4)[..., :3]
            return torch.where(inside.any(1)[..., None], pixels, images)
        if self.fill == "random_uniform":
            colours = extra.to(torch.uint8).view(len(images), self.num_holes, 3)
            for hole in range(self.num_holes):
                images = torch.where(inside[:, hole, :, :, None], colours[:, hole, None, None], images)
            return images
        return torch.where(inside.any(1)[..., None], self._colour, images)


class CoarseDropout(Holes):
    """CoarseDropout; sizes are in pixels if the largest height is 1 or more, else in shares of the image's."""

    def __init__(self, transform: Any, image_hw: tuple[int, int], device: torch.device) -> None:
        self.num_holes_range = transform.num_holes_range
        self.ranges = (transform.hole_height_range, transform.hole_width_range)
        most = self.num_holes_range[1]
        super().__init__(transform, image_hw, device, most, 1 + 4 * most)

    def _holes(self, uniforms: np.ndarray) -> np.ndarray:
        number = whole(uniforms[:, 0], *self.num_holes_range)
        by_hole = uniforms[:, 1:].reshape(len(uniforms), self.num_holes, 4)
        (heights, tops), (widths, lefts) = (
            self._along(by_hole[..., 2 * side], by_hole[..., 2 * side + 1], side) for side in (0, 1)
        )
        holes = np.stack([lefts, tops, lefts + widths, tops + heights], axis=2)
        is_drawn = np.arange(self.num_holes) < number[:, None]
        return holes * is_drawn[..., None]

    def _along(self, for_size: np.ndarray, for_place: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
        """The holes' sizes and first pixels along one side of the image (0 = height, 1 = width)."""
        full, limits = self.image_hw[side], self.ranges[side]
        if self.ranges[0][1] >= 1:
            sizes = whole(for_size, int(limits[0]), int(min(limits[1], full)))
        else:
            sizes = np.floor(full * uniform(for_size, limits))
        return sizes, whole(for_place, 0, full - sizes)


class Erasing(Holes):
    """Erasing: one rectangle of a random share of the image's area, and of a random width by height."""

    def __init__(self, transform: Any, image_hw: tuple[int, int], device: torch.device) -> None:
        super().__init__(transform, image_hw, device, num_holes=1, num_uniforms=4)
        height, width = image_hw
        least, most = (height * width * share for share in transform.scale)
        self.ratio = transform.ratio
        fitting = min(self.ratio[0] * height**2, width**2 / self.ratio[1])  # of each width by height that may be drawn
        self.areas = (least, min(most, fitting))
        if self.areas[1] < least:
            raise NotCovered(f"scale and ratio: none fits in {height} x {width} pixels")

    def _holes(self, uniforms: np.ndarray) -> np.ndarray:
        area, ratio = uniform(uniforms[:, 0], self.areas), uniform(uniforms[:, 1], self.ratio)
        heights, widths = np.rint(np.sqrt(area / ratio)), np.rint(np.sqrt(area * ratio))
        tops = whole(uniforms[:, 2], 0, self.image_hw[0] - heights)
        lefts = whole(uniforms[:, 3], 0, self.image_hw[1] - widths)
        return np.stack([lefts, tops, lefts + widths, tops + heights], axis=1)


def _mixed(words: Tensor) -> Tensor:
    """A bijection of int32 that looks random: the constants are those of C. Wellons' "lowbias32"."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B - 2**32)):
        words = (words ^ ((words >> shift) & (2 ** (32 - shift) - 1))) * factor
    return words ^ ((words >> 16) & 0xFFFF)
