"""Loaders: batches for training, validation and evaluation."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from base.base_data_loader import BaseDataLoader
from base.batch import Batch
from data_loader.cache import DEFAULT_CACHE_BUDGET_GIB, CachedImages, DiskCache, ImageCache, MemoryCache
from data_loader.datasets import PipelineImages
from data_loader.preparation.preparation import fallback_report
from data_loader.preparation.prepared_images import PreparedImages
from data_loader.progressive_sizes import Phases, ProgressiveSizes
from data_loader.records.image_check import check_images
from data_loader.records.label_table import LabelTable
from data_loader.records.records import Record
from data_loader.samplers import (
    BaseSampler,
    EvaluationBatchSampler,
    TrainingBatchSampler,
    checked_order,
    every_image_once,
)
from data_loader.splits import Split
from data_loader.transforms import Pipeline, TransformLists, build_transforms
from data_loader.workers import BatchFeed
from utils.errors import InvalidConfig, StorageFullError
from utils.files import short_path

__all__ = ["AttributeDataLoader"]

Pixels = Annotated[int, Field(ge=1, le=8192)]
DEFAULT_BATCH_SIZE = 32
AUTO = "auto"
"""The batch size that is found before the run: experiment/batch_size.py."""

logger = logging.getLogger(__name__)


class AttributeDataLoader(BaseDataLoader):
    """Batches of a split's images, uint8, with the targets of its label space.

    Where a GPU takes the batches, those of workers are in pinned memory, as far as CUDA allows. Their memory is written
    again once nothing refers to them, so a batch is held until its copy to the GPU is done.

    mean, std: the backbone's own, for transforms that give none
    device: of the model
    image_check_cache: a file of the images that were found to be good
    cache_folder: of the cache on disk
    preparation: of every picture, before its transforms
    sampler: of the training images; None: each comes once an epoch
    input_size: pixels, or [height, width], that both lists of transforms end in; None: whatever they end in
    progressive_sizes: training images are small at first: [[1, 128], [6, 192], [11, 240]] is the height in pixels from
        epochs 1, 6 and 11 on, at last that of input_size, which all are validated in; transforms and cache have that
        size, too, and what they give is reduced. None: all epochs have one size
    batch_size: per process; "auto": the most that the GPU's memory takes, found by trying before the run, which keeps
        the number in its config
    valid_batch_size: images; None: as batch_size
    num_workers: processes that prepare images; "auto": as many as it takes, by measuring
    drop_last: whether the images that are left over of an epoch, fewer than a batch, are left out
    shuffle: whether each epoch has an order of its own
    on_bad_image: an image that cannot be read before training: "refuse", or "skip" with a warning
    bits_used_of_16: of 16-bit images whose values use fewer bits: 12 for values of 0 to 4095, or "own_maximum", each by
        its largest value
    cache: what is kept of the images after the deterministic transforms, so that they are decoded once: "none"; in
        "memory"; on "disk", for all runs that prepare them alike. All give the same batches, bit for bit. "device"
        no longer exists and means "disk"
    cache_budget_gib: GiB that the cache (the whole folder) may take

    Raises InvalidConfig for transforms, and for a cache that does not fit or cannot be written; DataError for images
    that cannot be read or are fewer than one global batch; StorageFullError where the disk fills up.
    """

    def __init__(
        self,
        split: Split,
        transforms: TransformLists,
        mean: Sequence[float],
        std: Sequence[float],
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | None = None,
        image_check_cache: Path | None = None,
        cache_folder: Path | None = None,
        show_progress: bool = False,
        sampler: BaseSampler | None = None,
        preparation: PreparedImages | None = None,
        *,
        input_size: Pixels | Annotated[list[Pixels], Field(min_length=2, max_length=2)] | None = None,
        progressive_sizes: Phases | None = None,
        batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = DEFAULT_BATCH_SIZE,
        valid_batch_size: Annotated[int, Field(ge=1)] | None = None,
        num_workers: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto",
        drop_last: bool = True,
        shuffle: bool = True,
        on_bad_image: Literal["refuse", "skip"] = "refuse",
        bits_used_of_16: Annotated[int, Field(ge=8, le=16)] | Literal["own_maximum"] = 16,
        cache: Literal["none", "memory", "disk", "device"] = "none",
        cache_budget_gib: Annotated[float, Field(gt=0, le=1_000_000)] = DEFAULT_CACHE_BUDGET_GIB,
    ) -> None:
        assert isinstance(batch_size, int), f"{batch_size}: a number must have been found"
        pipelines = build_transforms(transforms, input_size, mean, std, bits_used_of_16, preparation)
        paths = [record.path for side in (split.train, split.validation) for record in side.records]
        bad = check_images(paths, image_check_cache, on_bad_image, bits_used_of_16, show_progress)
        self.train, self.validation = split.train.without(set(bad)), split.validation.without(set(bad))
        self.label_space = self.train.label_space
        self._sample_weights = self.train.sample_weights
        self.batch_size = batch_size
        self.preprocessing = pipelines.preprocessing
        order = every_image_once(len(self.train), shuffle) if sampler is None else checked_order(sampler, self.train)
        self._sampler = TrainingBatchSampler(order, batch_size, seed, rank, world_size, drop_last)
        validation_sampler = EvaluationBatchSampler(
            len(self.validation), valid_batch_size or batch_size, rank, world_size
        )
        sides = [(self.train, pipelines.train), (self.validation, pipelines.evaluation)]
        requests = [([record.path for record in table.records], pipeline.prefix) for table, pipeline in sides]
        look_at_pictures([path for paths, _ in requests for path in paths], [pipelines.evaluation], show_progress)
        cached: list[CachedImages | None] = [None, None]
        if cache == "memory":
            cached = MemoryCache(cache_budget_gib, show_progress).prepare(requests)
        elif cache != "none":
            assert cache_folder is not None, "a cache on disk needs a folder"
            cached = DiskCache(cache_folder, cache_budget_gib, show_progress).prepare(requests)
        self._progressive: ProgressiveSizes | None = None
        if progressive_sizes is not None:
            self._progressive = ProgressiveSizes(progressive_sizes, pipelines.train.image_hw)
            self.epoch_of_full_size = self._progressive.last_phase
        train, validation = (
            PipelineImages(paths, [pipeline], seed, None if images is None else [images], progressive)
            for (paths, _), (_, pipeline), images, progressive in zip(
                requests, sides, cached, [self._progressive, None], strict=True
            )
        )
        on_gpu = device is not None and device.type == "cuda"
        self._train_feed = BatchFeed(train, self._sampler, num_workers, on_gpu, page_locked=on_gpu)
        self._validation_feed = BatchFeed(validation, validation_sampler, num_workers, on_gpu, page_locked=on_gpu)

    @property
    def validation_records(self) -> list[Record]:
        return self.validation.records

    @property
    def images_per_epoch(self) -> int:
        return self._sampler.order.length

    @property
    def steps_per_epoch(self) -> int:
        return len(self._sampler)

    def train_batches(self, epoch: int, start_batch: int = 0) -> Iterator[Batch]:
        self._sampler.set_position(epoch, start_batch)
        if self._progressive is not None:
            height, width = self._progressive.image_hw_in(epoch)
            logger.info("epoch %d: training images of %d x %d pixels", epoch, height, width)
        return _batches(self._train_feed, self.train, self._sample_weights)

    def validation_batches(self) -> Iterator[Batch]:
        return _batches(self._validation_feed, self.validation, None)


def look_at_pictures(paths: Sequence[Path], pipelines: Sequence[Pipeline], show_progress: bool) -> None:
    """What the pipelines' preparations look for in each file is found, and kept for them; what was not found is counted
    and listed in the log. Processes forked afterwards need no network.

    paths: absolute

    Raises DataError for an image that cannot be read; ConfigError where a network cannot be used; StopSignal."""
    prefixes = {id(each.prefix.preparation): each.prefix for each in pipelines}
    reported: list[dict[str, Any]] = []
    for prefix in prefixes.values():
        if prefix.preparation is None or not paths:
            continue
        found = prefix.preparation.find_all(paths, prefix.bits_used_of_16, show_progress)
        if prefix.preparation.key not in reported:  # several models may prepare alike
            reported.append(prefix.preparation.key)
            for line in fallback_report(zip(map(short_path, paths), found, strict=True)):
                logger.log(logging.WARNING if any(found) else logging.INFO, "preparation: %s", line)


def _batches(feed: BatchFeed, table: LabelTable, weights: Tensor | None) -> Iterator[Batch]:
    """The images (B, 3, h, w), views of the feed's arrays, with their targets.

    weights: of each image in the loss, (N,)"""
    for keys, (images,) in feed:
        indices = torch.from_numpy(keys.indices)
        yield Batch(
            torch.from_numpy(images).permute(0, 3, 1, 2),
            {name: targets[indices] for name, targets in table.targets.items()},
            {name: targets[indices] for name, targets in table.scoring_targets.items()},
            indices,
            weights=None if weights is None else weights[indices],
        )


class TTABatch(NamedTuple):
    """The same images through several pipelines.

    images: (B, 3, h_k, w_k) uint8, one tensor a pipeline
    indices: (B,) int64, the images' rows in the records
    """

    images: list[Tensor]
    indices: Tensor


class TTALoader:
    """All `records`, in order, through each of the deterministic pipelines; may be iterated again.

    cache: where prepared images are kept; None, or where it cannot be used: each is decoded once for all pipelines
    rank, world_size: of processes that share the work: each has every world_size-th batch
    """

    def __init__(
        self,
        records: Sequence[Record],
        pipelines: Sequence[Pipeline],
        batch_size: int,
        num_workers: int | Literal["auto"] = 0,
        device: torch.device | None = None,
        cache: ImageCache | None = None,
        show_progress: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        paths = [record.path for record in records]
        look_at_pictures(paths, pipelines, show_progress)
        self._images = PipelineImages(paths, pipelines, cached=_cached(cache, paths, pipelines))
        self._on_gpu = device is not None and device.type == "cuda"
        sampler = EvaluationBatchSampler(len(records), batch_size, rank, world_size, whole_batches=True)
        self._feed = BatchFeed(self._images, sampler, num_workers, self._on_gpu)

    def __len__(self) -> int:
        return len(self._feed)

    def __iter__(self) -> Iterator[TTABatch]:
        for keys, arrays in self._feed:
            tensors = [torch.from_numpy(array).permute(0, 3, 1, 2) for array in arrays]
            if self._on_gpu:  # a copy in torch's own memory, which it does not reuse before it has been read
                tensors = [images.pin_memory() for images in tensors]
            yield TTABatch([tensors[number] for number in self._images.array_of], torch.from_numpy(keys.indices))


def _cached(
    cache: ImageCache | None, paths: Sequence[Path], pipelines: Sequence[Pipeline]
) -> list[CachedImages] | None:
    """By pipeline; None where some cannot be kept: a prediction does not fail for that."""
    if cache is None:
        return None
    try:
        prepared = cache.prepare([(paths, pipeline.prefix) for pipeline in pipelines])
    except (InvalidConfig, StorageFullError) as error:
        logger.warning("%s. The images are decoded anew", error)
        return None
    cached = [images for images in prepared if images is not None]
    return cached if len(cached) == len(pipelines) else None
