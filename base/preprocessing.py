"""What is done to an image before the model sees it, always alike: it travels with the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from utils.errors import CheckpointError
from utils.images import BitsUsed


@dataclass(frozen=True)
class Preprocessing:
    """The deterministic steps to an image (H, W, 3) uint8 and its normalisation.

    image_hw: height and width in pixels after `eval_transforms`; mean, std: of each of R, G, B, in units of the full
    range 0 to 1; eval_transforms: albumentations by name, {"type": ..., "args": {...}}, plain data; bits_used_of_16:
    as which 16-bit images are decoded.
    """

    image_hw: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    eval_transforms: list[dict[str, Any]]
    bits_used_of_16: BitsUsed = 16

    def normalise(
        self,
        images: Tensor,
        dtype: torch.dtype = torch.float32,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> Tensor:
        """(B, 3, H, W) uint8 -> (x / 255 - mean) / std in `dtype`, on the images' device, laid out as `memory_format`.

        It is computed in float32 and rounded once. On a GPU it is one pass over the images, which `dtype` makes
        shorter; a permuted view of (B, H, W, 3) memory is channels_last already, and keeps its order."""
        scale, shift = _scale_and_shift(self.mean, self.std, images.device)
        if images.device.type == "cpu":  # it would convert to float32 anyway, and in less handy pieces
            wide = images.to(torch.float32, memory_format=memory_format)
            return torch.addcmul(shift, wide, scale, out=wide).to(dtype)
        normalised = torch.empty(images.shape, dtype=dtype, device=images.device, memory_format=memory_format)
        return torch.addcmul(shift, images, scale, out=normalised)

    def to_config(self) -> dict[str, Any]:
        """Plain data, for the checkpoint."""
        return {
            "image_hw": list(self.image_hw),
            "mean": list(self.mean),
            "std": list(self.std),
            "eval_transforms": self.eval_transforms,
            "bits_used_of_16": self.bits_used_of_16,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Preprocessing:
        """The inverse of `to_config`. Raises CheckpointError for anything else."""
        try:
            height, width = (int(side) for side in config["image_hw"])
            mean, std = (tuple(float(value) for value in config[key]) for key in ("mean", "std"))
            transforms = [dict(spec) for spec in config["eval_transforms"]]
            bits = config.get("bits_used_of_16", 16)  # an earlier version wrote none
            bits = bits if bits == "own_maximum" else int(bits)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"preprocessing: is not what this version writes ({error!r})") from None
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0 or min(height, width) < 1:
            raise CheckpointError(f"preprocessing: image_hw, mean or std make no sense: {dict(config)}")
        if isinstance(bits, int) and not 8 <= bits <= 16:
            raise CheckpointError(f"preprocessing: bits_used_of_16 = {bits} is not 8 to 16")
        return cls((height, width), mean, std, transforms, bits)


@lru_cache(maxsize=16)
def _scale_and_shift(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """(1, 3, 1, 1) each, such that x * scale + shift = (x / 255 - mean) / std. Kept, as each copy to a GPU waits."""
    wide_mean, wide_std = (torch.tensor(value, dtype=torch.float64).view(1, 3, 1, 1) for value in (mean, std))
    scale, shift = 1 / (255 * wide_std), -wide_mean / wide_std
    return scale.to(device, torch.float32), shift.to(device, torch.float32)
