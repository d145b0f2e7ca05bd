"""The images of a batch, by its keys."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from data_loader.cache import CachedImages
from data_loader.samplers import BatchKeys
from data_loader.transforms import AugmentationKey, DeterministicPrefix, Pipeline
from utils.images import read_rgb

Size = tuple[int, int]
"""Height and width in pixels."""


class BatchImages(Protocol):
    """Makes the images of batches, which depend on the batches' keys and on nothing else.

    sizes: of the images of each array that it fills
    copies_only: nothing is computed, so that another process would not make it faster
    """

    sizes: list[Size]
    copies_only: bool

    def __len__(self) -> int: ...

    def contiguous(self, keys: BatchKeys) -> list[np.ndarray] | None:
        """What `fill` would write, without a copy and not to be written to; None where it is not at hand as such."""

    def fill(self, keys: BatchKeys, out: Sequence[np.ndarray]) -> None:
        """Writes the images of `keys` to each of `out`, (B, h, w, 3) uint8. Raises DataError for an image that cannot
        be read or that the transforms cannot take."""


class DecodedImages:
    """The images of `paths` after a pipeline's deterministic prefix, read from their files each time."""

    def __init__(self, paths: Sequence[Path], prefix: DeterministicPrefix) -> None:
        self.paths, self.prefix = list(paths), prefix

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> np.ndarray:
        """(H, W, 3) uint8. Raises DataError."""
        path = self.paths[index]
        return self.prefix(read_rgb(path, self.prefix.bits_used_of_16), str(path))


class AugmentedImages:
    """The images of `paths` through a pipeline.

    cached: what the pipeline's deterministic prefix made of them; None: they are decoded each time
    seed: of the random transforms; None for a pipeline that has none
    """

    def __init__(
        self, paths: Sequence[Path], pipeline: Pipeline, seed: int | None, cached: CachedImages | None = None
    ) -> None:
        self.paths, self.pipeline, self.seed = list(paths), pipeline, seed
        self.images = DecodedImages(paths, pipeline.prefix) if cached is None else cached
        self.sizes = [pipeline.image_hw]
        self._copied = cached if not pipeline.random_transforms else None
        self.copies_only = self._copied is not None

    def __len__(self) -> int:
        return len(self.paths)

    def contiguous(self, keys: BatchKeys) -> list[np.ndarray] | None:
        images = None if self._copied is None else self._copied.contiguous(keys.indices)
        return None if images is None else [images]

    def fill(self, keys: BatchKeys, out: Sequence[np.ndarray]) -> None:
        (batch,) = out
        if self._copied is not None:
            self._copied.gather(keys.indices, batch)
            return
        for number, (index, repeat) in enumerate(zip(keys.indices.tolist(), keys.repeats.tolist(), strict=True)):
            key = None if self.seed is None else AugmentationKey(self.seed, keys.epoch, index, repeat)
            batch[number] = self.pipeline.finish(self.images[index], key, str(self.paths[index]))


class TTAImages:
    """The images of `paths` through several deterministic pipelines, an array each; equal pipelines share one.

    cached: by pipeline, what it makes of the images; None: each image is decoded once for all pipelines
    array_of: by pipeline, the number of its array
    """

    def __init__(
        self, paths: Sequence[Path], pipelines: Sequence[Pipeline], cached: Sequence[CachedImages] | None = None
    ) -> None:
        self.paths = list(paths)
        self.array_of: list[int] = []
        distinct: list[int] = []
        for number, pipeline in enumerate(pipelines):
            equal = [array for array, other in enumerate(distinct) if _are_equal(pipeline, pipelines[other])]
            if not equal:
                distinct.append(number)
            self.array_of.append(equal[0] if equal else len(distinct) - 1)
        self.pipelines = [pipelines[number] for number in distinct]
        self.cached = None if cached is None else [cached[number] for number in distinct]
        self.sizes = [pipeline.image_hw for pipeline in self.pipelines]
        self._bits = {pipeline.prefix.bits_used_of_16 for pipeline in self.pipelines}
        self.copies_only = cached is not None

    def __len__(self) -> int:
        return len(self.paths)

    def contiguous(self, keys: BatchKeys) -> list[np.ndarray] | None:
        found = [images.contiguous(keys.indices) for images in self.cached or []]
        arrays = [array for array in found if array is not None]
        return arrays if arrays and len(arrays) == len(found) else None

    def fill(self, keys: BatchKeys, out: Sequence[np.ndarray]) -> None:
        if self.cached is not None:
            for batch, images in zip(out, self.cached, strict=True):
                images.gather(keys.indices, batch)
            return
        for number, index in enumerate(keys.indices.tolist()):
            path = self.paths[index]
            decoded = {bits: read_rgb(path, bits) for bits in self._bits}
            for batch, pipeline in zip(out, self.pipelines, strict=True):
                batch[number] = pipeline(decoded[pipeline.prefix.bits_used_of_16], name=str(path))


def _are_equal(one: Pipeline, other: Pipeline) -> bool:
    """True where both make the same of an image; neither has a random transform."""
    return one.prefix.key == other.prefix.key and one.image_hw == other.image_hw
