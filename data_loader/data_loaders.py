"""Loaders: batches for training, validation and evaluation."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from base.base_data_loader import BaseDataLoader
from base.batch import Batch
from data_loader.cache import DEFAULT_CACHE_BUDGET_GIB, CachedImages, DiskCache, ImageCache, MemoryCache
from data_loader.datasets import AugmentedImages, TTAImages
from data_loader.records.file_signatures import FileSignature
from data_loader.records.image_check import check_images, number_of_cores
from data_loader.records.label_table import LabelTable
from data_loader.records.records import Record
from data_loader.samplers import BaseSampler, BatchKeys, EvaluationBatchSampler, TrainingBatchSampler
from data_loader.splits import Split
from data_loader.transforms import Pipeline, TransformLists, build_transforms
from data_loader.workers import BatchFeed, measured_num_workers
from utils import distributed
from utils.errors import InvalidConfig, StorageFullError

__all__ = ["AttributeDataLoader"]

Pixels = Annotated[int, Field(ge=1)]
DEFAULT_BATCH_SIZE = 32

logger = logging.getLogger(__name__)


class AttributeDataLoader(BaseDataLoader):
    """Batches of a split's images, uint8, with the targets of its label space.

    mean, std: the backbone's own, for transforms that give none
    device: where the model is
    image_check_cache: a file that remembers which images are good
    cache_folder: of the cache on disk
    sampler: what an epoch shows of the training images; None: each once, shuffled
    input_size: pixels, or [height, width], that both lists of transforms end in; None: whatever they end in
    batch_size: per process
    valid_batch_size: images; None: as batch_size
    num_workers: processes that prepare images; "auto": as many as it takes, by measuring
    drop_last: whether the images that are left over of an epoch, fewer than a batch, are left out
    shuffle: whether each epoch has an order of its own
    on_bad_image: an image that cannot be read before training: "refuse", or "skip" with a warning
    bits_used_of_16: of 16-bit images whose values use fewer bits: 12 for values of 0 to 4095, or "own_maximum", each by
        its largest value
    cache: what is kept of the images after the deterministic transforms, so that they are decoded once: "none"; in
        "memory"; on "disk", for all runs that prepare them alike. All give the same batches, bit for bit. "device", of
        an earlier version, is taken for "disk"
    cache_budget_gib: GiB that the cache (the whole folder) may take

    Raises ConfigError for transforms, for what does not suit the sampler, and for a cache that there is no room for;
    DataError for images that cannot be read or are fewer than one global batch.
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
        *,
        input_size: Pixels | Annotated[list[Pixels], Field(min_length=2, max_length=2)] | None = None,
        batch_size: Annotated[int, Field(ge=1)] = DEFAULT_BATCH_SIZE,
        valid_batch_size: Annotated[int, Field(ge=1)] | None = None,
        num_workers: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto",
        drop_last: bool = True,
        shuffle: bool = True,
        on_bad_image: Literal["refuse", "skip"] = "refuse",
        bits_used_of_16: Annotated[int, Field(ge=8, le=16)] | Literal["own_maximum"] = 16,
        cache: Literal["none", "memory", "disk", "device"] = "none",
        cache_budget_gib: Annotated[float, Field(gt=0, le=1_000_000)] = DEFAULT_CACHE_BUDGET_GIB,
    ) -> None:
        if sampler is not None:
            sampler.check_loader(batch_size, shuffle)
        if isinstance(num_workers, int) and num_workers > number_of_cores():
            logger.info("num_workers = %d, and this process has %d cores", num_workers, number_of_cores())
        pipelines = build_transforms(transforms, input_size, mean, std, bits_used_of_16)
        paths = [record.path for side in (split.train, split.validation) for record in side.records]
        signatures: dict[str, FileSignature] = {}
        bad = set(
            check_images(paths, image_check_cache, on_bad_image, bits_used_of_16, show_progress, signatures=signatures)
        )
        self.train, self.validation = split.train.without(bad), split.validation.without(bad)
        self.label_space = self.train.label_space
        self.batch_size = batch_size
        self.preprocessing = pipelines.preprocessing
        order = None if sampler is None else sampler.order(self.train)
        self._sampler = TrainingBatchSampler(
            len(self.train), batch_size, seed, rank, world_size, shuffle, drop_last, order
        )
        validation_sampler = EvaluationBatchSampler(
            len(self.validation), valid_batch_size or batch_size, rank, world_size
        )
        device = device or torch.device("cpu")
        sides = [(self.train.records, pipelines.train), (self.validation.records, pipelines.evaluation)]
        requests = [([record.path for record in records], pipeline.prefix) for records, pipeline in sides]
        cached: list[CachedImages | None] = [None, None]
        if cache == "memory":
            cached = MemoryCache(cache_budget_gib, show_progress).prepare(requests, signatures)
        elif cache != "none":
            assert cache_folder is not None, "a cache on disk needs a folder"
            cached = DiskCache(cache_folder, cache_budget_gib, show_progress).prepare(requests, signatures)
        train, validation = (
            AugmentedImages(paths, pipeline, seed if pipeline is pipelines.train else None, images)
            for (paths, _), (_, pipeline), images in zip(requests, sides, cached, strict=True)
        )
        self._train = _Batches(train, self._sampler, self.train, num_workers, device)
        self._validation = _Batches(validation, validation_sampler, self.validation, num_workers, device)

    @property
    def train_records(self) -> list[Record]:
        return self.train.records

    @property
    def validation_records(self) -> list[Record]:
        return self.validation.records

    @property
    def images_per_epoch(self) -> int:
        return self._sampler.num_samples

    @property
    def steps_per_epoch(self) -> int:
        return len(self._sampler)

    def train_batches(self, epoch: int, start_batch: int = 0) -> Iterator[Batch]:
        self._sampler.set_position(epoch, start_batch)
        return iter(self._train)

    def validation_batches(self) -> Iterator[Batch]:
        return iter(self._validation)


def _batch(images: Tensor, keys: BatchKeys, table: LabelTable) -> Batch:
    """The batch of the images (B, h, w, 3) that `keys` asked for; its (B, 3, h, w) is a view of them."""
    indices = torch.from_numpy(keys.indices)
    return Batch(
        images.permute(0, 3, 1, 2),
        {name: targets[indices] for name, targets in table.targets.items()},
        {name: targets[indices] for name, targets in table.scoring_targets.items()},
        indices,
    )


class _Batches:
    """Batches made on the processor; where a GPU takes them, those of workers lie in pinned memory, as CUDA agrees.

    Whoever copies a batch to a GPU holds it until that is done: its memory is written again when it is gone."""

    def __init__(
        self,
        images: AugmentedImages,
        sampler: TrainingBatchSampler | EvaluationBatchSampler,
        table: LabelTable,
        num_workers: int | Literal["auto"],
        device: torch.device,
    ) -> None:
        num_workers = workers_for(images, num_workers, device)
        self._feed = BatchFeed(images, sampler, num_workers, page_locked=device.type == "cuda")
        self._table = table

    def __iter__(self) -> Iterator[Batch]:
        for keys, (images,) in self._feed:
            yield _batch(torch.from_numpy(images), keys, self._table)


class TTABatch(NamedTuple):
    """The same images through several pipelines.

    images: (B, 3, h_k, w_k) uint8, one tensor a pipeline
    indices: (B,) int64, the images' rows in the records
    """

    images: list[Tensor]
    indices: Tensor


class TTALoader:
    """All `records`, in order, as each of the deterministic pipelines makes them; may be iterated again.

    cache: where prepared images are kept; None, or where it cannot be used: each is decoded once for all pipelines
    """

    def __init__(
        self,
        records: Sequence[Record],
        pipelines: Sequence[Pipeline],
        batch_size: int,
        num_workers: int | Literal["auto"] = 0,
        device: torch.device | None = None,
        cache: ImageCache | None = None,
    ) -> None:
        device = device or torch.device("cpu")
        paths = [record.path for record in records]
        self._images = TTAImages(paths, pipelines, _cached(cache, paths, pipelines))
        sampler = EvaluationBatchSampler(len(records), batch_size)
        self._feed = BatchFeed(self._images, sampler, workers_for(self._images, num_workers, device))
        self._pinned = device.type == "cuda"

    def __len__(self) -> int:
        return len(self._feed)

    def __iter__(self) -> Iterator[TTABatch]:
        for keys, arrays in self._feed:
            tensors = [torch.from_numpy(array).permute(0, 3, 1, 2) for array in arrays]
            if self._pinned:  # a copy in torch's own memory, which it does not reuse before it has been read
                tensors = [images.pin_memory() for images in tensors]
            yield TTABatch([tensors[number] for number in self._images.array_of], torch.from_numpy(keys.indices))


def _cached(
    cache: ImageCache | None, paths: Sequence[Path], pipelines: Sequence[Pipeline]
) -> list[CachedImages] | None:
    """By pipeline, the images; None where they cannot be kept: an answer is not to fail for that."""
    if cache is None:
        return None
    try:
        prepared = cache.prepare([(paths, pipeline.prefix) for pipeline in pipelines])
    except (InvalidConfig, StorageFullError) as error:
        logger.warning("%s. The images are decoded anew", error)
        return None
    cached = [images for images in prepared if images is not None]
    return cached if len(cached) == len(pipelines) else None


def workers_for(images: AugmentedImages | TTAImages, num_workers: int | Literal["auto"], device: torch.device) -> int:
    """What num_workers says, or what it takes for a model on `device`."""
    if num_workers != "auto":
        return num_workers
    return measured_num_workers(images, device.type == "cuda", distributed.local_world_size())
