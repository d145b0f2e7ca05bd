"""Which images make which batch: a function of (seed, epoch, batch), for any number of workers and processes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Sampler

from data_loader.samplers import EpochOrder
from utils.errors import DataError
from utils.random_streams import numpy_stream


@dataclass(frozen=True, slots=True)
class BatchKeys:
    """What a batch is to hold: the images of `indices` (B,) int64, augmented as `epoch` demands.

    repeats (B,) int64: how often each image came in this epoch before; each time it is augmented in another way.
    """

    epoch: int
    indices: np.ndarray
    repeats: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)


class TrainingBatchSampler(Sampler[BatchKeys]):
    """The batches of one epoch for one process; `set_position` says which epoch, and where in it to begin.

    A global batch is `batch_size * world_size` neighbours of the epoch's order, and each process takes its contiguous
    slice: for a fixed global batch the stream of samples is the same for any number of processes. All processes have
    equally many batches. Without `drop_last` the last, smaller global batch is divided as evenly as possible; where it
    would leave a process one image or none, which batch normalisation cannot take, it joins the batch before it.

    order: which images an epoch shows, and in which order; None: each of `num_samples` once, shuffled if `shuffle`

    Raises DataError if there are too few images for one batch.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
        drop_last: bool = True,
        order: EpochOrder | None = None,
    ) -> None:
        num_samples = num_samples if order is None else order.length
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.global_batch_size = batch_size * world_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.shuffle = shuffle
        self.order = order
        self.batches, rest = divmod(num_samples, self.global_batch_size)
        joins = 0 < rest < 2 * world_size and self.batches > 0
        if not drop_last and rest >= world_size and not joins:
            self.batches += 1
        self._end = self.batches * self.global_batch_size if drop_last else num_samples
        self.largest_batch = batch_size + (-(-rest // world_size) if joins and not drop_last else 0)
        self.epoch = 0
        self.start_batch = 0
        if self.batches == 0:
            processes = f" on {world_size} processes" if world_size > 1 else ""
            lower = max(1, num_samples // world_size)
            raise DataError(
                f"data_loader.args.batch_size = {batch_size}{processes} needs {self.global_batch_size} training "
                f"images, and there are {num_samples}; set batch_size to {lower} or less, or drop_last to false"
            )

    def set_position(self, epoch: int, start_batch: int = 0) -> None:
        """The next iteration gives `epoch` from `start_batch` on."""
        self.epoch = epoch
        self.start_batch = start_batch

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return self.batches

    def __iter__(self) -> Iterator[BatchKeys]:
        epoch = self.epoch
        order, repeats = self._order(epoch)
        for batch in range(self.start_batch, self.batches):
            start = batch * self.global_batch_size
            end = self._end if batch == self.batches - 1 else start + self.global_batch_size
            mine = np.array_split(np.arange(start, end), self.world_size)[self.rank]
            yield BatchKeys(epoch, order[mine], repeats[mine])

    def _order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The images of an epoch in order, and how often each of them came before in it."""
        stream = numpy_stream(self.seed, "order", epoch)
        if self.order is not None:
            order = self.order.draw(stream)
            return order, earlier_occurrences(order)
        order = stream.permutation(self.num_samples) if self.shuffle else np.arange(self.num_samples)
        return order, np.zeros_like(order)


def earlier_occurrences(values: np.ndarray) -> np.ndarray:
    """For each of the values (N,), how often it came before: [7, 5, 7, 7] -> [0, 0, 1, 2]."""
    by_value = values.argsort(kind="stable")
    places = np.arange(len(values))
    is_first = np.diff(values[by_value], prepend=-1) != 0
    occurrences = np.empty_like(places)
    occurrences[by_value] = places - np.maximum.accumulate(np.where(is_first, places, 0))
    return occurrences


class EvaluationBatchSampler(Sampler[BatchKeys]):
    """Every image once, in order: process r takes the images r, r + world_size, ..., and nothing is padded."""

    def __init__(self, num_samples: int, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self.indices = range(rank, num_samples, world_size)
        self.batch_size = self.largest_batch = batch_size

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)

    def __iter__(self) -> Iterator[BatchKeys]:
        for start in range(0, len(self.indices), self.batch_size):
            indices = np.array(self.indices[start : start + self.batch_size])
            yield BatchKeys(0, indices, np.zeros_like(indices))
