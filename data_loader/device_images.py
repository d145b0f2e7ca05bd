"""A data set's images, resident on a device."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from data_loader.images import Images
from utils.errors import ConfigError, DataError

_CHUNK_BYTES = 64 * 2**20
_GIB = 2**30

_SPARE_BYTES = 2 * _GIB
"""What must be left for a model, at the very least."""


class DeviceImages:
    """All images of a data set on a device, as one tensor (N, H, W, 3) uint8: to take a batch out, nothing waits."""

    def __init__(
        self, images: Images, image_hw: tuple[int, int], names: Sequence[object], device: torch.device
    ) -> None:
        """Copies the images, which are to be of `image_hw`, a chunk at a time; names: what errors call them.

        Raises ConfigError if the device has no room for them, DataError for one of another size."""
        self.device = device
        shape = (len(images), *image_hw, 3)
        _check_room(shape, device)
        self._images = torch.empty(shape, dtype=torch.uint8, device=device)
        num_in_chunk = max(1, _CHUNK_BYTES // max(1, math.prod(shape[1:])))
        chunk = torch.empty((min(num_in_chunk, len(images)), *shape[1:]), dtype=torch.uint8)
        pixels = chunk.numpy()
        for start in range(0, len(images), num_in_chunk):
            end = min(start + num_in_chunk, len(images))
            for number in range(start, end):
                image = images[number]
                if image.shape[:2] != image_hw:
                    raise DataError(
                        f"{names[number]}: the fixed transforms make {image.shape[0]} x {image.shape[1]} pixels of "
                        f"this image, and {image_hw[0]} x {image_hw[1]} of the others; put a Resize last"
                    )
                pixels[number - start] = image
            self._images[start:end] = chunk[: end - start]

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, indices: np.ndarray) -> Tensor:
        """(B,) int64 -> (B, H, W, 3) uint8 on the device."""
        rows = torch.from_numpy(indices)
        if self.device.type == "cuda":
            rows = rows.pin_memory()
        return self._images.index_select(0, rows.to(self.device, non_blocking=True))


def _check_room(shape: tuple[int, ...], device: torch.device) -> None:
    needed = math.prod(shape)
    if device.type != "cuda" or needed == 0:
        return
    free = torch.cuda.mem_get_info(device)[0]
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # an earlier fold's, kept by torch
    if needed > free - _SPARE_BYTES:
        raise ConfigError(
            f'data_loader.args.cache = "device": {shape[0]} images of {shape[1]} x {shape[2]} pixels take '
            f"{needed / _GIB:.1f} GiB, and {torch.cuda.get_device_name(device)} has {free / _GIB:.1f} GiB free, of "
            'which training needs some; use "disk", or a smaller data_loader.args.input_size'
        )
