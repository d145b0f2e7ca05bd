"""Transforms in a row, run with randomness that depends on the sample alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_loader.transforms.fast import direct
from utils.errors import DataError
from utils.random_streams import StreamPair


@dataclass(frozen=True, slots=True)
class AugmentationKey:
    """All that the random choices for one image depend on. repeat: how often it came in this epoch before."""

    seed: int
    epoch: int
    index: int
    repeat: int = 0


class FixedSteps:
    """Transforms in a row that leave nothing to chance: what they make of an image may be kept.

    specs: what the transforms were made of ({"type": ..., "args": {...}}, sizes filled in): equal specs, equal results;
    image_hw: height and width in pixels of what they make, None where that depends on the image."""

    def __init__(
        self, transforms: Sequence[Any], specs: Sequence[dict[str, Any]], image_hw: tuple[int, int] | None
    ) -> None:
        self.transforms = list(transforms)
        self.specs = list(specs)
        self.image_hw = image_hw

    def __call__(self, image: np.ndarray, name: str = "image") -> np.ndarray:
        """(H, W, 3) uint8 -> the same of other sizes. Raises DataError, which calls the image `name`."""
        given = image
        for transform in self.transforms:
            try:
                image = transform(image=image)["image"]
            except Exception as error:
                raise _refusal(name, transform, given, error) from error
        return image


class Pipeline:
    """Transforms in a row: (H, W, 3) uint8 in, `image_hw` by 3 uint8 out; first `fixed`, then those with random parts.

    Before each image all its random transforms are given one pair of generators of the key's own: what one draws, the
    next does not draw again. (Left alone, albumentations repeats itself over workers and epochs, and seeding by number
    gives all transforms the same stream.) The generators are kept and set anew, so that one thread at a time may call.

    specs: of the transforms, see FixedSteps; num_fixed: how many of them, from the first on, are fixed: they draw no
    random number, so that the others draw the same whether these are run or their result was kept; fixed_hw: see
    FixedSteps.image_hw.
    """

    def __init__(
        self,
        transforms: Sequence[Any],
        specs: Sequence[dict[str, Any]],
        image_hw: tuple[int, int],
        num_fixed: int,
        fixed_hw: tuple[int, int] | None,
    ) -> None:
        self.fixed = FixedSteps(transforms[:num_fixed], specs[:num_fixed], fixed_hw)
        self.random_transforms = list(transforms[num_fixed:])
        self.image_hw = image_hw
        self._steps = [direct(transform) for transform in self.random_transforms]
        self._streams = StreamPair()

    def __call__(self, image: np.ndarray, key: AugmentationKey | None = None, name: str = "image") -> np.ndarray:
        """A decoded image through all transforms; see `finish`."""
        return self.finish(self.fixed(image, name), key, name)

    def finish(self, image: np.ndarray, key: AugmentationKey | None = None, name: str = "image") -> np.ndarray:
        """What `fixed` made of an image through the other transforms; it is not written to, but may be returned.

        `key` may be left out where no transform is random. Raises DataError, which calls the image `name`, if the
        transforms cannot take it."""
        given = image
        if self._steps:
            assert key is not None, "random transforms need a key"
            numbers = (key.epoch, key.index, key.repeat) if key.repeat else (key.epoch, key.index)
            self._streams.set_key(key.seed, "augmentation", *numbers)
        for transform, step in zip(self.random_transforms, self._steps, strict=True):
            try:
                image = step(image, self._streams)
            except Exception as error:
                raise _refusal(name, transform, given, error) from error
        if image.dtype != np.uint8 or image.shape[2:] != (3,):
            raise DataError(f"{name}: the transforms do not give an RGB image of whole numbers 0 to 255")
        if image.shape[:2] != self.image_hw:
            (made_height, made_width), (height, width) = image.shape[:2], given.shape[:2]
            raise DataError(
                f"{name}: the transforms make {made_height} x {made_width} pixels of this image of {height} x {width}, "
                f"and the others are {self.image_hw[0]} x {self.image_hw[1]}; put a Resize last"
            )
        return image


def _refusal(name: str, transform: Any, image: np.ndarray, error: Exception) -> DataError:
    return DataError(
        f"{name}: {type(transform).__name__} cannot take this image of {image.shape[0]} x {image.shape[1]} pixels "
        f"({first_line(error)}); put a Resize before it"
    )


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    return (str(error).strip() or type(error).__name__).split("\n")[0]
