"""The random transforms of a pipeline, for whole batches on a device."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_loader.device_affine import Affine
from data_loader.device_crops import Crop, ResizedCrop
from data_loader.device_dropout import CoarseDropout, Erasing
from data_loader.device_twins import BrightnessContrast, Flip, NotCovered, Twin
from data_loader.transforms import Pipeline
from utils.errors import ConfigError
from utils.random_streams import uniform_rows

TWINS: dict[str, type[Twin]] = {
    "Affine": Affine,
    "CoarseDropout": CoarseDropout,
    "Erasing": Erasing,
    "HorizontalFlip": Flip,
    "RandomBrightnessContrast": BrightnessContrast,
    "RandomCrop": Crop,
    "RandomResizedCrop": ResizedCrop,
    "ShiftScaleRotate": Affine,
    "VerticalFlip": Flip,
}
"""By the names of albumentations."""

_REMEDY = 'take it out, or set data_loader.args.cache = "disk" or "memory"'


class DeviceTransforms:
    """What chance has a part in, in a pipeline, for batches of what its fixed steps made.

    What becomes of an image depends on (seed, epoch, index, repeat) and nothing else: neither on the batch that it
    comes in, nor on the kind of device but for rounding. Parameters are distributed as those of `Pipeline.finish`, and
    with equal ones the images are the same within a level or two; but they are other numbers: the same seed gives other
    images here than there.
    """

    def __init__(self, pipeline: Pipeline, seed: int, device: torch.device) -> None:
        """Raises ConfigError, a line for each transform that has no twin or whose arguments its twin does not cover."""
        self.twins, problems = _twins(pipeline, device)
        if problems:
            raise ConfigError("\n".join(problems))
        self.seed = seed
        self.device = device
        self._num_uniforms = [twin.num_uniforms for twin in self.twins]
        self._num_params = [len(twin.identity) for twin in self.twins]

    @torch.no_grad()
    def __call__(self, images: Tensor, epoch: int, indices: np.ndarray, repeats: np.ndarray) -> Tensor:
        """(B, H, W, 3) uint8 on the device -> (B, h, w, 3) uint8; nothing waits for the device.

        indices: (B,) the images' rows in the records; repeats: (B,) how often each came in this epoch before."""
        if not self.twins:
            return images
        params = torch.from_numpy(self._draw(epoch, indices, repeats))
        if self.device.type == "cuda":
            params = params.pin_memory()
        params = params.to(self.device, non_blocking=True)
        for twin, of_twin in zip(self.twins, params.split(self._num_params, dim=1), strict=True):
            images = twin.apply(images, of_twin)
        return images

    def _draw(self, epoch: int, indices: np.ndarray, repeats: np.ndarray) -> np.ndarray:
        """(B, m) float64: the parameters of all twins in a row."""
        total = sum(self._num_uniforms)
        uniforms = uniform_rows(self.seed, "device augmentation", epoch, indices, repeats, total)
        parts = np.split(uniforms, np.cumsum(self._num_uniforms)[:-1], axis=1)
        return np.concatenate([twin.draw(part) for twin, part in zip(self.twins, parts, strict=True)], axis=1)


def without_device_twin(pipeline: Pipeline) -> list[str]:
    """Why the pipeline's random transforms cannot run on a device, a line each; none if they can."""
    return _twins(pipeline, torch.device("cpu"))[1]


def _twins(pipeline: Pipeline, device: torch.device) -> tuple[list[Twin], list[str]]:
    fixed = pipeline.prefix
    if fixed.image_hw is None:
        return [], [
            'transforms.train: data_loader.args.cache = "device" needs images of one size before the first random '
            "transform; put a Resize first"
        ]
    twins: list[Twin] = []
    problems = []
    image_hw = fixed.image_hw
    for number, transform in enumerate(pipeline.random_transforms, start=len(fixed.transforms)):
        place = f"transforms.train[{number}]: {type(transform).__name__}"
        try:
            twin = _twin(transform, image_hw, device)
        except NotCovered as reason:
            problems.append(f"{place} has no twin on the device ({reason}); {_REMEDY}")
        else:
            twins.append(twin)
            image_hw = twin.out_hw
    return twins, problems


def _twin(transform: Any, image_hw: tuple[int, int], device: torch.device) -> Twin:
    name = type(transform).__name__
    if name not in TWINS:
        raise NotCovered(f"only {', '.join(TWINS)} can")
    return TWINS[name](transform, image_hw, device)
