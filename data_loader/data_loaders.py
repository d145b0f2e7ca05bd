"""Loaders: batches for training, validation and evaluation."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from base.base_data_loader import BaseDataLoader
from base.batch import Batch
from base.label_space import LabelSpace
from data_loader.batch_samplers import EvaluationBatchSampler, TrainingBatchSampler
from data_loader.datasets import AugmentedImages, ImageViews, TargetTable
from data_loader.file_stamps import Stamp
from data_loader.image_store import DEFAULT_CACHE_BUDGET_GIB, ImageStore
from data_loader.records.image_check import check_images, number_of_cores
from data_loader.records.records import Record
from data_loader.samplers import BaseSampler
from data_loader.splits import Split
from data_loader.transforms import Pipeline, TransformLists, build_transforms
from data_loader.workers.feeding import BatchFeed, measured_num_workers
from utils import distributed

__all__ = ["AttributeDataLoader"]

Pixels = Annotated[int, Field(ge=1)]
DEFAULT_BATCH_SIZE = 32

logger = logging.getLogger(__name__)


class AttributeDataLoader(BaseDataLoader):
    """Batches of a split's images, uint8, with the targets of a label space.

    mean, std: the backbone's own, for transforms that give none; device: where the model is; input_size: pixels, or
    [height, width], that both lists of transforms end in (None: whatever they end in); batch_size: per process;
    valid_batch_size: None = as batch_size; num_workers: processes that prepare images, "auto": as many as it takes,
    by measuring; on_bad_image: what to do with an image that cannot be read, before training: "refuse", or "skip" with
    a warning; image_check_cache: a file that remembers which images are good; sampler: what an epoch shows of the
    training images (None: each once, shuffled).

    cache: what is kept of the images after the transforms that leave nothing to chance, so that they are decoded once:
    "none"; in "memory"; on "disk", in `cache_folder`, for all runs that prepare them alike ("device", of an earlier
    version, is taken for "disk"). All give the same batches, bit for bit.
    cache_budget_gib: the most that the cache (the whole folder) may take, in GiB.

    Raises ConfigError for transforms, for what does not suit the sampler, and for a cache that there is no room for;
    DataError for images that cannot be read or are fewer than one global batch.
    """

    def __init__(
        self,
        split: Split,
        label_space: LabelSpace,
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
        cache: Literal["none", "memory", "disk", "device"] = "none",
        cache_budget_gib: Annotated[float, Field(gt=0, le=1_000_000)] = DEFAULT_CACHE_BUDGET_GIB,
    ) -> None:
        if sampler is not None:
            sampler.check_loader(batch_size, shuffle)
        if isinstance(num_workers, int) and num_workers > number_of_cores():
            logger.info("num_workers = %d, and this process has %d cores", num_workers, number_of_cores())
        pipelines = build_transforms(transforms, input_size, mean, std)
        paths = [record.path for record in [*split.train, *split.validation]]
        seen: dict[str, Stamp] = {}
        bad = set(check_images(paths, image_check_cache, on_bad_image, show_progress, seen=seen))
        self.label_space = label_space
        self.batch_size = batch_size
        self.preprocessing = pipelines.preprocessing
        self._train_records, self._validation_records = (
            _without(bad, side) for side in (split.train, split.validation)
        )
        order = None if sampler is None else sampler.order(self._train_records)
        self._sampler = TrainingBatchSampler(
            len(self._train_records), batch_size, seed, rank, world_size, shuffle, drop_last, order
        )
        validation_sampler = EvaluationBatchSampler(
            len(self._validation_records), valid_batch_size or batch_size, rank, world_size
        )
        device = device or torch.device("cpu")
        store = ImageStore(cache, cache_folder, cache_budget_gib, show_progress)
        train, validation = store.images(
            [(self._train_records, pipelines.train), (self._validation_records, pipelines.evaluation)], seen
        )
        train_targets = TargetTable(self._train_records, label_space)
        validation_targets = TargetTable(self._validation_records, label_space)
        augmented = AugmentedImages(train, pipelines.train, seed, self._train_records)
        plain = AugmentedImages(validation, pipelines.evaluation, None, self._validation_records)
        self._train = _HostBatches(augmented, self._sampler, train_targets, num_workers, device)
        self._validation = _HostBatches(plain, validation_sampler, validation_targets, num_workers, device)

    @property
    def train_records(self) -> list[Record]:
        return self._train_records

    @property
    def validation_records(self) -> list[Record]:
        return self._validation_records

    @property
    def images_per_epoch(self) -> int:
        """What an epoch shows, over all processes; images that a sampler repeats count as often as they come."""
        return self._sampler.num_samples

    @property
    def steps_per_epoch(self) -> int:
        return len(self._sampler)

    def train_batches(self, epoch: int, start_batch: int = 0) -> Iterator[Batch]:
        self._sampler.set_position(epoch, start_batch)
        return iter(self._train)

    def validation_batches(self) -> Iterator[Batch]:
        return iter(self._validation)


def _without(bad: Set[Path], records: Sequence[Record]) -> list[Record]:
    return [record for record in records if not bad or record.path not in bad]  # to hash a path is slow


class _HostBatches:
    """Batches made on the processor; where a GPU takes them, those of workers lie in pinned memory, as CUDA agrees.

    Whoever copies a batch to a GPU holds it until that is done: its memory is written again when it is gone."""

    def __init__(
        self,
        images: AugmentedImages,
        sampler: TrainingBatchSampler | EvaluationBatchSampler,
        targets: TargetTable,
        num_workers: int | Literal["auto"],
        device: torch.device,
    ) -> None:
        num_workers = workers_for(images, num_workers, device)
        self._feed = BatchFeed(images, sampler, num_workers, page_locked=device.type == "cuda")
        self._targets = targets

    def __iter__(self) -> Iterator[Batch]:
        for keys, (images,) in self._feed:
            yield self._targets.batch(torch.from_numpy(images), keys)


class Views(NamedTuple):
    """Several views of the same images: images (B, 3, h_k, w_k) uint8, one tensor a pipeline; indices (B,) int64, the
    images' rows in the records."""

    images: list[Tensor]
    indices: Tensor


class ViewsLoader:
    """All `records`, in order, as each of the pipelines makes them; may be iterated again.

    cache: where the images are kept that were prepared once, None to decode each of them, once for all pipelines."""

    def __init__(
        self,
        records: Sequence[Record],
        pipelines: Sequence[Pipeline],
        batch_size: int,
        num_workers: int | Literal["auto"] = 0,
        device: torch.device | None = None,
        store: ImageStore | None = None,
    ) -> None:
        device = device or torch.device("cpu")
        paths = [record.path for record in records]
        cached = None if store is None else store.views(records, pipelines)
        self._views = ImageViews(paths, pipelines, cached)
        sampler = EvaluationBatchSampler(len(records), batch_size)
        self._feed = BatchFeed(self._views, sampler, workers_for(self._views, num_workers, device))
        self._pinned = device.type == "cuda"

    def __len__(self) -> int:
        return len(self._feed)

    def __iter__(self) -> Iterator[Views]:
        for keys, arrays in self._feed:
            different = [torch.from_numpy(array).permute(0, 3, 1, 2) for array in arrays]
            if self._pinned:  # a copy in torch's own memory, which it does not reuse before it has been read
                different = [images.pin_memory() for images in different]
            yield Views([different[place] for place in self._views.places], torch.from_numpy(keys.indices))


def workers_for(images: AugmentedImages | ImageViews, num_workers: int | Literal["auto"], device: torch.device) -> int:
    """What num_workers says, or what it takes for a model on `device`."""
    if num_workers != "auto":
        return num_workers
    return measured_num_workers(images, device.type == "cuda", distributed.local_world_size())
