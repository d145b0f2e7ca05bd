"""Pipelines of transforms, whose randomness depends on the sample alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_loader.preparation.prepared_images import PreparedImages
from data_loader.transforms.fast import fast_transform
from utils.config.plugins import plugins_of
from utils.errors import DataError
from utils.images import BitsUsed
from utils.random_streams import StreamPair
from utils.wording import first_line


@dataclass(frozen=True, slots=True)
class AugmentationKey:
    """What the random choices for one image depend on.

    seed, epoch: of the run
    index: of the image in the data set
    repeat: how often it occurred in this epoch before"""

    seed: int
    epoch: int
    index: int
    repeat: int = 0


@dataclass(frozen=True, eq=False)
class DeterministicPrefix:
    """The first steps of a pipeline, as far as they are deterministic: their result may be cached.

    transforms: of albumentations
    specs: of each, {"type": ..., "args": {...}} with sizes filled in
    image_hw: height and width in pixels of the results; None where it depends on the image
    bits_used_of_16: as which 16-bit images are decoded
    preparation: comes before the transforms
    """

    transforms: Sequence[Any]
    specs: Sequence[dict[str, Any]]
    image_hw: tuple[int, int] | None
    bits_used_of_16: BitsUsed = 16
    preparation: PreparedImages | None = None

    @property
    def key(self) -> dict[str, Any]:
        """Plain data: equal keys, equal results for a file."""
        key = {"transforms": list(self.specs), "bits_used_of_16": self.bits_used_of_16}
        modules = [module for transform in self.transforms for module in _plugins_in(transform)]
        prepared = {} if self.preparation is None else {"preparation": self.preparation.key}
        return {**key, **({"plugins": modules} if modules else {}), **prepared}

    def __call__(self, image: np.ndarray, name: str = "image") -> np.ndarray:
        """(H, W, 3) uint8 -> the same, of another size. Raises DataError with the image's `name`.

        name: the absolute path of the file that the image was decoded from; of another image, any text"""
        if self.preparation is not None:
            image = self.preparation(image, name, self.bits_used_of_16)
        given = image
        for transform in self.transforms:
            try:
                image = transform(image=image)["image"]
            except Exception as error:
                raise _refusal(name, transform, given, error) from error
        return image


def _plugins_in(transform: Any) -> list[str]:
    """The plug-ins that a transform, or one inside it, is of; their names change with their content."""
    inner = [module for each in getattr(transform, "transforms", ()) for module in _plugins_in(each)]
    return [*plugins_of(type(transform)), *inner]


class Pipeline:
    """Transforms of (H, W, 3) uint8 to `image_hw` by 3 uint8: a deterministic prefix, then the random ones.

    For each image the random ones share one pair of generators of the image's key, each drawing where the one before
    stopped. (By itself, albumentations repeats its numbers over workers and epochs.) One thread at a time may call.

    prefix: the first transforms
    random_transforms: the others
    image_hw: height and width in pixels of every result
    """

    def __init__(
        self, prefix: DeterministicPrefix, random_transforms: Sequence[Any], image_hw: tuple[int, int]
    ) -> None:
        self.prefix, self.random_transforms, self.image_hw = prefix, list(random_transforms), image_hw
        self._steps = [fast_transform(transform) for transform in self.random_transforms]
        self._streams = StreamPair()

    def __call__(self, image: np.ndarray, key: AugmentationKey | None = None, name: str = "image") -> np.ndarray:
        """A decoded image through all transforms; see `finish`."""
        return self.finish(self.prefix(image, name), key, name)

    def finish(self, image: np.ndarray, key: AugmentationKey | None = None, name: str = "image") -> np.ndarray:
        """The prefix's result through the random transforms; it is not written to, but may be returned.

        key: may be left out where no transform is random
        name: of the image, for errors

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
        if image.dtype != np.uint8 or image.shape != (*self.image_hw, 3):
            made, given_size, expected = (f"{hw[0]} x {hw[1]}" for hw in (image.shape, given.shape, self.image_hw))
            raise DataError(
                f"{name}: the transforms make {made} pixels ({image.dtype}) of this image of {given_size}, not "
                f"{expected} (uint8); put a Resize last"
            )
        return image


def _refusal(name: str, transform: Any, image: np.ndarray, error: Exception) -> DataError:
    return DataError(
        f"{name}: {type(transform).__name__} cannot take this image of {image.shape[0]} x {image.shape[1]} pixels "
        f"({first_line(error)}); put a Resize before it"
    )
