"""Loaders: batches for training, validation and evaluation, from worker processes or without."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import cv2
import torch
from pydantic import Field
from torch.utils.data import DataLoader

from base.base_data_loader import BaseDataLoader
from base.batch import Batch
from base.label_space import LabelSpace
from data_loader.batch_samplers import EvaluationBatchSampler, TrainingBatchSampler
from data_loader.datasets import AttributeDataset, Views, ViewsDataset
from data_loader.image_check import check_images
from data_loader.pipeline import Pipeline, first_line
from data_loader.records import Record
from data_loader.samplers import BaseSampler
from data_loader.splits import Split
from data_loader.transforms import TransformLists, build_transforms
from utils.errors import DataError, UserError

__all__ = ["AttributeDataLoader"]

Pixels = Annotated[int, Field(ge=1)]
DEFAULT_BATCH_SIZE = 32


class AttributeDataLoader(BaseDataLoader):
    """Batches of a split's images, uint8, with the targets of a label space.

    mean, std: the backbone's own, for transforms that give none; input_size: pixels, or [height, width], that both
    lists of transforms end in (None: whatever they end in); batch_size: per process; valid_batch_size: None = as
    batch_size; on_bad_image: what to do with an image that cannot be read, before training: "refuse", or "skip" with
    a warning; image_check_cache: a file that remembers which images are good; sampler: what an epoch shows of the
    training images (None: each once, shuffled).

    Raises ConfigError for transforms and for what does not suit the sampler, DataError for images that cannot be read
    or are fewer than one global batch.
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
        pin_memory: bool = False,
        image_check_cache: Path | None = None,
        show_progress: bool = False,
        sampler: BaseSampler | None = None,
        *,
        input_size: Pixels | Annotated[list[Pixels], Field(min_length=2, max_length=2)] | None = None,
        batch_size: Annotated[int, Field(ge=1)] = DEFAULT_BATCH_SIZE,
        valid_batch_size: Annotated[int, Field(ge=1)] | None = None,
        num_workers: Annotated[int, Field(ge=0)] = 4,
        drop_last: bool = True,
        shuffle: bool = True,
        on_bad_image: Literal["refuse", "skip"] = "refuse",
    ) -> None:
        if sampler is not None:
            sampler.check_loader(batch_size, shuffle)
        pipelines = build_transforms(transforms, input_size, mean, std)
        paths = [record.path for record in [*split.train, *split.validation]]
        bad = set(check_images(paths, image_check_cache, on_bad_image, show_progress))
        self.label_space = label_space
        self.batch_size = batch_size
        self.preprocessing = pipelines.preprocessing
        self._train_records = [record for record in split.train if record.path not in bad]
        self._validation_records = [record for record in split.validation if record.path not in bad]
        order = None if sampler is None else sampler.order(self._train_records)
        self._sampler = TrainingBatchSampler(
            len(self._train_records), batch_size, seed, rank, world_size, shuffle, drop_last, order
        )
        train = AttributeDataset(self._train_records, label_space, pipelines.train, seed)
        validation = AttributeDataset(self._validation_records, label_space, pipelines.evaluation, seed=None)
        validation_sampler = EvaluationBatchSampler(len(validation), valid_batch_size or batch_size, rank, world_size)
        self._train = _torch_loader(train, self._sampler, num_workers, pin_memory)
        self._validation = _torch_loader(validation, validation_sampler, num_workers, pin_memory)

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
        return _batches(self._train)

    def validation_batches(self) -> Iterator[Batch]:
        return _batches(self._validation)


class ViewsLoader:
    """Every image once, in order, prepared as a checkpoint's preprocessing says; may be iterated again."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self._loader = loader

    def __len__(self) -> int:
        """Batches of this process."""
        return len(self._loader)

    def __iter__(self) -> Iterator[Views]:
        return _batches(self._loader)


def views_loader(
    records: Sequence[Record],
    pipelines: Sequence[Pipeline],
    batch_size: int,
    num_workers: int = 0,
    pin_memory: bool = False,
) -> ViewsLoader:
    """All `records`, in order, as each of the pipelines makes them: every image is decoded once for all of them."""
    dataset = ViewsDataset(records, pipelines)
    sampler = EvaluationBatchSampler(len(dataset), batch_size)
    return ViewsLoader(_torch_loader(dataset, sampler, num_workers, pin_memory))


def _torch_loader(
    dataset: AttributeDataset | ViewsDataset,
    sampler: TrainingBatchSampler | EvaluationBatchSampler,
    num_workers: int,
    pin_memory: bool,
) -> DataLoader[Any]:
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=num_workers,
        collate_fn=_unchanged,
        pin_memory=pin_memory,
        worker_init_fn=_start_worker,
        persistent_workers=num_workers > 0,
        generator=torch.Generator(),  # torch draws seeds for workers, else from the generator that dropout uses
    )


def _unchanged(batch: Any) -> Any:
    """The data set collates: it makes whole batches (`AttributeDataset.__getitems__`)."""
    return batch


def _start_worker(_number: int) -> None:
    """One thread a worker; signals that reach all processes (Ctrl-C, a scheduler's) are the main process's business.

    A worker ends with its loader; when its parent says so by SIGTERM, as Python does at its exit; or when the parent
    is gone, which torch's workers look for every few seconds."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # left to the thread, which learns who sent it
    threading.Thread(target=_end_when_parent_says, args=(os.getppid(),), daemon=True).start()


def _end_when_parent_says(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def _batches(loader: DataLoader[Any]) -> Iterator[Any]:
    """The loader's batches; raises what a worker returned as an error of the user's, and tells of workers that died."""
    try:
        for batch in loader:
            if isinstance(batch, UserError):
                raise batch
            yield batch
    except (RuntimeError, ConnectionError, EOFError, FileNotFoundError) as error:
        # torch tells of a dead worker by the first; the others come of taking a batch from it before that is noticed
        if isinstance(error, RuntimeError) and not re.match(r"DataLoader worker \(pid", str(error)):
            raise
        raise DataError(
            f"a loader's worker process died ({first_line(error)}); if memory ran out, lower "
            f"data_loader.args.num_workers or batch_size"
        ) from error
