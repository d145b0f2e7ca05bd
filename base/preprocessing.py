"""Preprocessing: what is done to every image before the model, in training, evaluation and the page alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt, TypeAdapter, ValidationError
from torch import Tensor


@dataclass(frozen=True)
class Preprocessing:
    """The deterministic steps to an image (H, W, 3) uint8 and its normalisation, which are saved with the weights.

    First comes `preparation`, then `eval_transforms`.

    image_hw: height and width in pixels after `eval_transforms`
    mean, std: of each of R, G, B, in units of the full range 0 to 1
    eval_transforms: albumentations by name, {"type": ..., "args": {...}}, plain data
    bits_used_of_16: as which 16-bit images are decoded
    preparation: the steps of data_loader/preparation, {"type": ..., "args": {...}, "network": ...}, plain data
    """

    image_hw: tuple[PositiveInt, PositiveInt]
    mean: tuple[float, float, float]
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat]
    eval_transforms: list[dict[str, Any]]
    bits_used_of_16: Annotated[int, Field(ge=8, le=16)] | Literal["own_maximum"] = 16
    preparation: list[dict[str, Any]] = field(default_factory=list)

    def normalise(
        self,
        images: Tensor,
        dtype: torch.dtype = torch.float32,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> Tensor:
        """(B, 3, H, W) uint8 -> (x / 255 - mean) / std in `dtype` and `memory_format`, on the images' device.

        It is computed in float32 and rounded once; on a GPU in one pass over the images."""
        scale, shift = _scale_and_shift(self.mean, self.std, images.device)
        if images.device.type == "cpu":  # it would convert to float32 anyway, and in less handy pieces
            wide = images.to(torch.float32, memory_format=memory_format)
            return torch.addcmul(shift, wide, scale, out=wide).to(dtype)
        normalised = torch.empty(images.shape, dtype=dtype, device=images.device, memory_format=memory_format)
        return torch.addcmul(shift, images, scale, out=normalised)

    def to_config(self) -> dict[str, Any]:
        """Plain data, for the checkpoint."""
        return dict(TypeAdapter(Preprocessing).dump_python(self, mode="json"))

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Preprocessing:
        """The inverse of `to_config`. Raises ValueError for anything else."""
        try:
            return TypeAdapter(cls).validate_python(config)
        except ValidationError as error:
            key = ".".join(map(str, ("preprocessing", *error.errors()[0]["loc"])))
            raise ValueError(f"{key}: is not what this version writes: {error.errors()[0]['msg']}") from None


@lru_cache(maxsize=16)
def _scale_and_shift(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """(1, 3, 1, 1) each, such that x * scale + shift = (x / 255 - mean) / std. Kept, as each copy to a GPU waits."""
    wide_mean, wide_std = (torch.tensor(value, dtype=torch.float64).view(1, 3, 1, 1) for value in (mean, std))
    scale, shift = 1 / (255 * wide_std), -wide_mean / wide_std
    return scale.to(device, torch.float32), shift.to(device, torch.float32)
