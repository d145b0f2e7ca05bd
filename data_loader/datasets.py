"""The images of a batch, by its keys."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from data_loader.cache import CachedImages
from data_loader.progressive_sizes import ProgressiveSizes
from data_loader.samplers import BatchKeys
from data_loader.transforms import AugmentationKey, Pipeline
from utils.images import read_rgb


class PipelineImages:
    """The images of `paths` through pipelines, an array each; equal deterministic pipelines share one.

    They depend on a batch's keys and on nothing else.

    seed: of the random transforms; None where no pipeline has any
    cached: by pipeline, what its deterministic prefix made of the images; None: they are decoded each time, once for
        all pipelines
    progressive: the sizes by epoch, to which the pipeline's results are reduced last: what is cached has the full size;
        None: they stay as the pipelines make them

    array_of: by pipeline, the number of its array
    sizes: by array, the images' largest height and width in pixels
    copies_only: nothing is computed, so that another process would not make it faster
    """

    def __init__(
        self,
        paths: Sequence[Path],
        pipelines: Sequence[Pipeline],
        seed: int | None = None,
        cached: Sequence[CachedImages] | None = None,
        progressive: ProgressiveSizes | None = None,
    ) -> None:
        assert seed is None or len(pipelines) == 1, "pipelines with random transforms are not compared"
        self.paths, self.seed = list(paths), seed
        keys = [json.dumps([pipeline.prefix.key, pipeline.image_hw]) for pipeline in pipelines]
        distinct = [*dict.fromkeys(keys)]
        self.array_of = [distinct.index(key) for key in keys]
        self.pipelines = [pipelines[keys.index(key)] for key in distinct]
        self.cached = None if cached is None else [cached[keys.index(key)] for key in distinct]
        self.sizes = [pipeline.image_hw for pipeline in self.pipelines]
        self.progressive = progressive
        computes = progressive is not None or any(each.random_transforms for each in pipelines)
        self.copies_only = cached is not None and not computes
        self._bits = {pipeline.prefix.bits_used_of_16 for pipeline in self.pipelines}

    def __len__(self) -> int:
        return len(self.paths)

    def shapes(self, keys: BatchKeys) -> list[tuple[int, ...]]:
        """By array, the shape (B, h, w, 3) that a batch has."""
        sizes = self.sizes if self.progressive is None else [self.progressive.image_hw_in(keys.epoch)]
        return [(len(keys), height, width, 3) for height, width in sizes]

    def contiguous(self, keys: BatchKeys) -> list[np.ndarray] | None:
        """What `fill` would write, as views that are not to be written to; None where there are none."""
        if self.cached is None or not self.copies_only:
            return None
        views = [images.contiguous(keys.indices) for images in self.cached]
        found = [view for view in views if view is not None]
        return found if len(found) == len(views) else None

    def fill(self, keys: BatchKeys, out: Sequence[np.ndarray]) -> None:
        """Writes the images of `keys` to the arrays `out`, (B, h, w, 3) uint8. Raises DataError for an image that
        cannot be read or that the transforms cannot take."""
        if self.cached is not None and self.copies_only:
            for batch, images in zip(out, self.cached, strict=True):
                images.gather(keys.indices, batch)
            return
        for number, (index, repeat) in enumerate(zip(keys.indices.tolist(), keys.repeats.tolist(), strict=True)):
            path = self.paths[index]
            key = None if self.seed is None else AugmentationKey(self.seed, keys.epoch, index, repeat)
            if self.cached is None:
                decoded = {bits: read_rgb(path, bits) for bits in self._bits}
                prepared = [each.prefix(decoded[each.prefix.bits_used_of_16], str(path)) for each in self.pipelines]
            else:
                prepared = [images[index] for images in self.cached]
            for batch, pipeline, image in zip(out, self.pipelines, prepared, strict=True):
                finished = pipeline.finish(image, key, str(path))
                height, width = batch.shape[1:3]
                if finished.shape[:2] != (height, width):
                    finished = cv2.resize(finished, (width, height), interpolation=cv2.INTER_AREA)
                batch[number] = finished
