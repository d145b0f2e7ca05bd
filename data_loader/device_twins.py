"""The twins of single transforms: what albumentations does to an image, done to a batch on a device.

A twin draws its parameters on the host, in numpy and for a whole batch, and applies them without ever waiting for the
device. Each sample has its own; one that is left as it is has parameters that change nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor


class NotCovered(Exception):
    """A transform or one of its arguments has no twin; says which and why."""


class Twin(ABC):
    """One transform of albumentations for batches (B, H, W, 3) uint8.

    image_hw: height and width that it takes; out_hw: that it gives; num_uniforms: numbers in [0, 1) that `draw` takes
    for a sample; identity: (m,) float64, the parameters that change nothing.
    """

    def __init__(self, transform: Any, image_hw: tuple[int, int], device: torch.device) -> None:
        """transform: the object of albumentations. Raises NotCovered."""
        self.p = float(transform.p)
        self.image_hw = image_hw
        self.out_hw = image_hw
        self.device = device
        self.num_uniforms = 1  # whether it is applied at all
        self.identity = np.zeros(1)

    def draw(self, uniforms: np.ndarray) -> np.ndarray:
        """(B, num_uniforms) in [0, 1) -> (B, m) float64, parameters distributed as those of albumentations."""
        applied = uniforms[:, :1] < self.p
        return np.where(applied, self._parameters(uniforms[:, 1:]), self.identity)

    @abstractmethod
    def _parameters(self, uniforms: np.ndarray) -> np.ndarray:
        """(B, num_uniforms - 1) -> (B, m) float64, or what broadcasts to it: the parameters of samples it acts on."""

    @abstractmethod
    def apply(self, images: Tensor, params: Tensor) -> Tensor:
        """(B, H, W, 3) uint8 and (B, m) float64 on one device -> (B, *out_hw, 3) uint8; the images stay as they are."""


def uniform(uniforms: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """Numbers in [0, 1) to numbers between the limits."""
    low, high = limits
    return low + (high - low) * uniforms


def whole(uniforms: np.ndarray, low: np.ndarray | int, high: np.ndarray | int) -> np.ndarray:
    """Numbers in [0, 1) to whole numbers from `low` to `high`, both included."""
    return low + np.floor(uniforms * (high - low + 1))


def rgb(fill: float | tuple[float, ...]) -> float | tuple[float, ...]:
    """A fill as it is: one number, or three. Raises NotCovered."""
    if isinstance(fill, tuple) and len(fill) != 3:
        raise NotCovered(f"fill = {fill}, only a number or three")
    return fill


def per_sample(values: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1, 1)."""
    return values.view(-1, 1, 1, 1)


class Flip(Twin):
    """HorizontalFlip and VerticalFlip. Parameter: 1 = mirrored."""

    def __init__(self, transform: Any, image_hw: tuple[int, int], device: torch.device) -> None:
        super().__init__(transform, image_hw, device)
        self.dimension = 2 if type(transform).__name__ == "HorizontalFlip" else 1

    def _parameters(self, uniforms: np.ndarray) -> np.ndarray:  # noqa: ARG002
        return np.ones(1)

    def apply(self, images: Tensor, params: Tensor) -> Tensor:
        return torch.where(per_sample(params[:, 0] > 0), images.flip(self.dimension), images)


class BrightnessContrast(Twin):
    """RandomBrightnessContrast: x * alpha + beta, in the order and precision of its table.

    Parameters: alpha, beta; beta in levels (brightness_by_max) or in units of the image's mean."""

    def __init__(self, transform: Any, image_hw: tuple[int, int], device: torch.device) -> None:
        super().__init__(transform, image_hw, device)
        if transform.ensure_safe_range:
            raise NotCovered("ensure_safe_range")
        self.contrast = transform.contrast_limit
        self.brightness = transform.brightness_limit
        self.by_max = transform.brightness_by_max
        self.num_uniforms = 3
        self.identity = np.array([1.0, 0.0])

    def _parameters(self, uniforms: np.ndarray) -> np.ndarray:
        beta = uniform(uniforms[:, 1], self.brightness) * (255 if self.by_max else 1)
        return np.stack([1 + uniform(uniforms[:, 0], self.contrast), beta], axis=1)

    def apply(self, images: Tensor, params: Tensor) -> Tensor:
        alpha, beta = params.unbind(1)
        if not self.by_max:
            beta = beta * images.mean((1, 2, 3), dtype=torch.float64)
        scaled = images * per_sample(alpha.float())
        return scaled.add_(per_sample(beta.float())).clamp_(0, 255).to(torch.uint8)
