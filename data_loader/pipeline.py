"""Transforms in a row, run with randomness that depends on the sample alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from utils.errors import DataError
from utils.random_streams import numpy_stream, python_stream


@dataclass(frozen=True, slots=True)
class AugmentationKey:
    """All that the random choices for one image depend on. repeat: how often it came in this epoch before."""

    seed: int
    epoch: int
    index: int
    repeat: int = 0


class Pipeline:
    """Transforms in a row: (H, W, 3) uint8 in, `image_hw` by 3 uint8 out.

    Before each image all its transforms are given one generator of the key's own. (Left alone, albumentations repeats
    itself over workers and epochs, and seeding by number gives all transforms the same stream.)

    specs: what the transforms were made of ({"type": ..., "args": {...}}, sizes filled in), where that is known.
    """

    def __init__(
        self, transforms: Sequence[Any], image_hw: tuple[int, int], specs: Sequence[dict[str, Any]] | None = None
    ) -> None:
        self.transforms = list(transforms)
        self.image_hw = image_hw
        self.specs = specs

    def does_the_same_as(self, other: Pipeline) -> bool:
        """True where both are one, or were made of the same specs: no need to run both (where neither is random)."""
        same_specs = self.specs is not None and self.specs == other.specs and self.image_hw == other.image_hw
        return self is other or same_specs

    def __call__(self, image: np.ndarray, key: AugmentationKey | None = None, name: str = "image") -> np.ndarray:
        """`key` may be left out where no transform is random.

        Raises DataError, which calls the image `name`, if the transforms cannot take it."""
        height, width = image.shape[:2]
        if key is not None:
            set_random_state(self.transforms, key)
        try:
            for transform in self.transforms:
                image = transform(image=image)["image"]
        except Exception as error:
            raise DataError(
                f"{name}: {type(transform).__name__} cannot take this image of {height} x {width} pixels "
                f"({first_line(error)}); put a Resize before it"
            ) from error
        if image.dtype != np.uint8 or image.shape[2:] != (3,):
            raise DataError(f"{name}: the transforms do not give an RGB image of whole numbers 0 to 255")
        if image.shape[:2] != self.image_hw:
            raise DataError(
                f"{name}: the transforms make {image.shape[0]} x {image.shape[1]} pixels of this image of {height} x "
                f"{width}, and the others are {self.image_hw[0]} x {self.image_hw[1]}; put a Resize last"
            )
        return image


def set_random_state(transforms: Sequence[Any], key: AugmentationKey) -> None:
    """Gives all transforms one pair of generators, of this key's own: what one draws, the next does not draw again."""
    numbers = (key.epoch, key.index, key.repeat) if key.repeat else (key.epoch, key.index)
    generator = numpy_stream(key.seed, "augmentation", *numbers)
    py_random = python_stream(key.seed, "augmentation", *numbers)
    for transform in transforms:
        transform.set_random_state(generator, py_random)


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    return (str(error).strip() or type(error).__name__).split("\n")[0]
