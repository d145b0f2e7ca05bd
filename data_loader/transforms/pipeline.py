"""Transforms in a row, run with randomness that depends on the sample alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_loader.transforms.fast import fast_transform
from utils.errors import DataError
from utils.images import BitsUsed
from utils.random_streams import StreamPair
from utils.wording import first_line


@dataclass(frozen=True, slots=True)
class AugmentationKey:
    """All that the random choices for one image depend on. repeat: how often it came in this epoch before."""

    seed: int
    epoch: int
    index: int
    repeat: int = 0


class DeterministicPrefix:
    """The first transforms of a pipeline, as far as they make the same of an image each time: their result may be kept.

    specs: what the transforms were made of ({"type": ..., "args": {...}}, sizes filled in)
    image_hw: height and width in pixels of what they make; None where that depends on the image
    bits_used_of_16: as which the 16-bit images are decoded that they are given
    """

    def __init__(
        self,
        transforms: Sequence[Any],
        specs: Sequence[dict[str, Any]],
        image_hw: tuple[int, int] | None,
        bits_used_of_16: BitsUsed = 16,
    ) -> None:
        self.transforms = list(transforms)
        self.specs = list(specs)
        self.image_hw = image_hw
        self.bits_used_of_16 = bits_used_of_16

    @property
    def key(self) -> dict[str, Any]:
        """Plain data: equal keys, equal results for a file."""
        return {"transforms": self.specs, "bits_used_of_16": self.bits_used_of_16}

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
    """Transforms in a row: (H, W, 3) uint8 in, `image_hw` by 3 uint8 out: a deterministic prefix, then the rest.

    Before each image the rest is given one pair of generators of the image's key: what one transform draws, the next
    does not draw again. (Left alone, albumentations repeats itself over workers and epochs, and seeding by number
    gives all transforms the same stream.) The generators are kept and set anew, so that one thread at a time may call.

    specs: of the transforms, see DeterministicPrefix
    image_hw: height and width in pixels of every result
    num_deterministic: how many transforms, from the first on, are the prefix: they draw no random number, so that the
        others draw the same whether these are run or their result was kept
    prefix_hw: see DeterministicPrefix.image_hw
    bits_used_of_16: see DeterministicPrefix
    """

    def __init__(
        self,
        transforms: Sequence[Any],
        specs: Sequence[dict[str, Any]],
        image_hw: tuple[int, int],
        num_deterministic: int,
        prefix_hw: tuple[int, int] | None,
        bits_used_of_16: BitsUsed = 16,
    ) -> None:
        self.prefix = DeterministicPrefix(
            transforms[:num_deterministic], specs[:num_deterministic], prefix_hw, bits_used_of_16
        )
        self.random_transforms = list(transforms[num_deterministic:])
        self.image_hw = image_hw
        self._steps = [fast_transform(transform) for transform in self.random_transforms]
        self._streams = StreamPair()

    def __call__(self, image: np.ndarray, key: AugmentationKey | None = None, name: str = "image") -> np.ndarray:
        """A decoded image through all transforms; see `finish`."""
        return self.finish(self.prefix(image, name), key, name)

    def finish(self, image: np.ndarray, key: AugmentationKey | None = None, name: str = "image") -> np.ndarray:
        """What the prefix made of an image through the other transforms; it is not written to, but may be returned.

        key: may be left out where no transform is random
        name: what a DataError calls the image

        Raises DataError if the transforms cannot take the image.
        """
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
