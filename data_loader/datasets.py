"""The images of a batch, by its keys; and what is known of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from base.batch import Batch
from base.label_space import LabelSpace
from data_loader.batch_samplers import BatchKeys
from data_loader.image_cache import CachedImages
from data_loader.images import Images
from data_loader.records.records import Record
from data_loader.transforms import AugmentationKey, Pipeline
from utils.images import read_rgb

Size = tuple[int, int]
"""Height and width in pixels."""


class BatchImages(Protocol):
    """Makes the images of batches. What keys give depends on them, and nothing else.

    sizes: of the images in each of the arrays that it fills; copies_only: nothing is computed, so that another process
    would not make it faster."""

    sizes: list[Size]
    copies_only: bool

    def __len__(self) -> int: ...

    def in_place(self, keys: BatchKeys) -> list[np.ndarray] | None:
        """What `fill` would write, where it lies already, not to be written to; None where it does not."""

    def fill(self, keys: BatchKeys, out: Sequence[np.ndarray]) -> None:
        """Writes the images of `keys` to each of `out`, (B, h, w, 3) uint8. Raises DataError for an image that cannot
        be read or that the transforms cannot take."""


class AugmentedImages:
    """The images of `records`, after the pipeline's fixed steps, through the rest of it.

    seed: None for a pipeline without chance."""

    def __init__(self, images: Images, pipeline: Pipeline, seed: int | None, records: Sequence[Record]) -> None:
        self.images, self.pipeline, self.seed, self.records = images, pipeline, seed, records
        self.sizes = [pipeline.image_hw]
        self.copies_only = (
            isinstance(images, CachedImages) and not pipeline.random_transforms and images.image_hw == pipeline.image_hw
        )

    def __len__(self) -> int:
        return len(self.images)

    def in_place(self, keys: BatchKeys) -> list[np.ndarray] | None:
        if not self.copies_only:
            return None
        assert isinstance(self.images, CachedImages)
        images = self.images.in_place(keys.indices)
        return None if images is None else [images]

    def fill(self, keys: BatchKeys, out: Sequence[np.ndarray]) -> None:
        (made,) = out
        if self.copies_only:
            assert isinstance(self.images, CachedImages)
            self.images.gather(keys.indices, made)
            return
        for place, (index, repeat) in enumerate(zip(keys.indices.tolist(), keys.repeats.tolist(), strict=True)):
            key = None if self.seed is None else AugmentationKey(self.seed, keys.epoch, index, repeat)
            made[place] = self.pipeline.finish(self.images[index], key, str(self.records[index].path))


class ImageViews:
    """Images through several pipelines without chance: equal pipelines share an array, `places` says which is whose.

    cached: for each of the pipelines its images, where they are kept; else each image is decoded once for all."""

    def __init__(
        self, paths: Sequence[Path], pipelines: Sequence[Pipeline], cached: Sequence[CachedImages] | None = None
    ) -> None:
        self.paths = list(paths)
        self.places: list[int] = []
        different: list[int] = []
        for number, pipeline in enumerate(pipelines):
            same = [place for place, other in enumerate(different) if _equal(pipeline, pipelines[other])]
            if not same:
                different.append(number)
            self.places.append(same[0] if same else len(different) - 1)
        self.pipelines = [pipelines[number] for number in different]
        self.cached = None if cached is None else [cached[number] for number in different]
        self.sizes = [pipeline.image_hw for pipeline in self.pipelines]
        self.copies_only = cached is not None

    def __len__(self) -> int:
        return len(self.paths)

    def in_place(self, keys: BatchKeys) -> list[np.ndarray] | None:
        found = []
        for images, pipeline in zip(self.cached or [], self.pipelines, strict=False):
            array = images.in_place(keys.indices) if images.image_hw == pipeline.image_hw else None
            if array is None:
                return None
            found.append(array)
        return found or None

    def fill(self, keys: BatchKeys, out: Sequence[np.ndarray]) -> None:
        if self.cached is not None:
            for made, images, pipeline in zip(out, self.cached, self.pipelines, strict=True):
                if images.image_hw == pipeline.image_hw:
                    images.gather(keys.indices, made)
                else:  # there are images of another size, which are refused if they are asked for
                    for place, index in enumerate(keys.indices.tolist()):
                        made[place] = pipeline.finish(images[index], name=str(self.paths[index]))
            return
        for place, index in enumerate(keys.indices.tolist()):
            path = self.paths[index]
            image = read_rgb(path)
            for made, pipeline in zip(out, self.pipelines, strict=True):
                made[place] = pipeline(image, name=str(path))


def _equal(one: Pipeline, other: Pipeline) -> bool:
    """True where both make the same of an image; neither has a random transform."""
    return one.prefix.specs == other.prefix.specs and one.image_hw == other.image_hw


class TargetTable:
    """What is known of records, in the classes of a label space; columns (N,) int64, -1 = unknown.

    targets: by head, the classes that are trained; scoring_targets: by attribute, those that are scored."""

    def __init__(self, records: Sequence[Record], label_space: LabelSpace) -> None:
        different: dict[tuple[Any, ...], int] = {}  # tens of thousands of records have a few hundred attributes
        keys = (tuple(record.attributes.items()) for record in records)
        rows = torch.tensor([different.setdefault(key, len(different)) for key in keys], dtype=torch.int64)

        def columns(classes: list[dict[str, int]], names: Iterable[str]) -> dict[str, Tensor]:
            return {name: torch.tensor([each[name] for each in classes], dtype=torch.int64)[rows] for name in names}

        known = [dict(key) for key in different]
        self.targets = columns([*map(label_space.targets, known)], label_space.heads)
        self.scoring_targets = columns([*map(label_space.scoring_targets, known)], label_space.predicted_attributes)

    def batch(self, images: Tensor, keys: BatchKeys) -> Batch:
        """The batch of the images (B, h, w, 3) that `keys` asked for; its (B, 3, h, w) is a view of them."""
        indices = torch.from_numpy(keys.indices)
        return Batch(
            images.permute(0, 3, 1, 2),
            {head: targets[indices] for head, targets in self.targets.items()},
            {name: targets[indices] for name, targets in self.scoring_targets.items()},
            indices,
        )
