"""The twins of RandomCrop and RandomResizedCrop."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from data_loader.device_affine import LinearSampler, to_levels
from data_loader.device_twins import NotCovered, Twin, uniform, whole


class Crop(Twin):
    """RandomCrop of a size that the image has. Parameters: top and left in pixels."""

    def __init__(self, transform: Any, image_hw: tuple[int, int], device: torch.device) -> None:
        super().__init__(transform, image_hw, device)
        self.out_hw = (transform.height, transform.width)
        check_size(self.p, image_hw, self.out_hw)
        if self.out_hw[0] > image_hw[0] or self.out_hw[1] > image_hw[1]:
            raise NotCovered(f"{self.out_hw[0]} x {self.out_hw[1]} pixels of {image_hw[0]} x {image_hw[1]}")
        self.num_uniforms = 3
        self.identity = np.zeros(2)
        self._rows = torch.arange(self.out_hw[0], device=device)
        self._columns = torch.arange(self.out_hw[1], device=device)

    def _parameters(self, uniforms: np.ndarray) -> np.ndarray:
        return whole(uniforms, 0, np.subtract(self.image_hw, self.out_hw))

    def apply(self, images: Tensor, params: Tensor) -> Tensor:
        top, left = params.long().unbind(1)
        rows, columns = top[:, None] + self._rows, left[:, None] + self._columns
        samples = torch.arange(len(images), device=self.device)
        return images[samples[:, None, None], rows[:, :, None], columns[:, None, :]]


class ResizedCrop(Twin):
    """RandomResizedCrop, linearly between the pixels. Parameters: left, top, width, height in pixels."""

    _TRIES = 10

    def __init__(self, transform: Any, image_hw: tuple[int, int], device: torch.device) -> None:
        super().__init__(transform, image_hw, device)
        self.out_hw = (transform.size[0], transform.size[1])
        check_size(self.p, image_hw, self.out_hw)
        if transform.interpolation != cv2.INTER_LINEAR:
            raise NotCovered(f"interpolation = {transform.interpolation}, only {cv2.INTER_LINEAR} (linear)")
        if transform.area_for_downscale is not None:
            raise NotCovered(f'area_for_downscale = "{transform.area_for_downscale}"')
        self.scale = transform.scale
        self.ratio = transform.ratio
        self.num_uniforms = 1 + 2 * self._TRIES + 2
        self.identity = np.array([0, 0, image_hw[1], image_hw[0]], dtype=np.float64)
        self._sample = LinearSampler(image_hw, device, "border", align_corners=True)
        self._x, self._y = (torch.arange(side, device=device) + 0.5 for side in (self.out_hw[1], self.out_hw[0]))

    def _parameters(self, uniforms: np.ndarray) -> np.ndarray:
        full_height, full_width = self.image_hw
        tries = uniforms[:, :-2].reshape(-1, self._TRIES, 2)
        areas = uniform(tries[..., 0], self.scale) * (full_height * full_width)
        ratios = np.exp(uniform(tries[..., 1], (np.log(self.ratio[0]), np.log(self.ratio[1]))))
        widths, heights = np.rint(np.sqrt(areas * ratios)), np.rint(np.sqrt(areas / ratios))
        fits = (widths > 0) & (widths <= full_width) & (heights > 0) & (heights <= full_height)
        first = fits.argmax(axis=1)
        rows = np.arange(len(uniforms))
        width, height = widths[rows, first], heights[rows, first]
        top, left = whole(uniforms[:, -2], 0, full_height - height), whole(uniforms[:, -1], 0, full_width - width)
        drawn = np.stack([left, top, width, height], axis=1)
        return np.where(fits.any(axis=1)[:, None], drawn, self._middle())

    def _middle(self) -> np.ndarray:
        """The crop where no try fits: the largest in the middle with a ratio that is allowed."""
        height, width = self.image_hw
        if width / height < self.ratio[0]:
            height = round(width / self.ratio[0])
        elif width / height > self.ratio[1]:
            width = round(height * self.ratio[1])
        return np.array([(self.image_hw[1] - width) // 2, (self.image_hw[0] - height) // 2, width, height])

    def apply(self, images: Tensor, params: Tensor) -> Tensor:
        height, width = self.out_hw
        left, top, crop_width, crop_height = params.float()[..., None].unbind(1)
        columns = left + (self._x * (crop_width / width) - 0.5).clamp_(min=0).minimum(crop_width - 1)
        rows = top + (self._y * (crop_height / height) - 0.5).clamp_(min=0).minimum(crop_height - 1)
        shape = (len(images), height, width)
        places = torch.stack([columns[:, None].expand(shape), rows[:, :, None].expand(shape)], dim=3)
        return to_levels(self._sample(images.permute(0, 3, 1, 2).float(), places))


def check_size(p: float, image_hw: tuple[int, int], out_hw: tuple[int, int]) -> None:
    """Raises NotCovered for crops that are not of one size."""
    if p < 1 and image_hw != out_hw:
        raise NotCovered(f"p = {p:g}, only 1 where the size changes")
