"""Which images an epoch has, in which order, and which of them make which batch."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch.utils.data import Sampler

from base.batch import UNKNOWN
from base.class_weights import Rule, weights_by_rule
from base.label_space import Head, LabelSpace
from data_loader.records.label_table import LabelTable
from utils.errors import DataError, UserError
from utils.random_streams import numpy_stream
from utils.wording import not_one_of

__all__ = ["MPerClassSampler", "RepeatSampler", "WeightedSampler"]

logger = logging.getLogger(__name__)

Times = Annotated[int, Field(ge=1, le=1000)]


@dataclass(frozen=True)
class EpochOrder:
    """The images of every epoch: draw(stream) gives the indices (length,) int64 of one, in order."""

    length: int
    draw: Callable[[np.random.Generator], np.ndarray]


def every_image_once(num_images: int, shuffle: bool = True) -> EpochOrder:
    """The order without a sampler."""
    indices = np.arange(num_images)
    return EpochOrder(num_images, lambda stream: stream.permutation(num_images) if shuffle else indices)


def checked_order(sampler: BaseSampler, table: LabelTable) -> EpochOrder:
    """A sampler's order, whose draws are checked: it may be a plug-in's. Raises UserError."""
    name, order = type(sampler).__name__, sampler.order(table)
    if not isinstance(order, EpochOrder):
        raise UserError(f"sampler {name}: order must give an EpochOrder, not {order!r:.60} (docs/extending.md)")

    def draw(stream: np.random.Generator) -> np.ndarray:
        drawn: Any = order.draw(stream)
        if not isinstance(drawn, np.ndarray) or drawn.shape != (order.length,) or drawn.dtype.kind not in "iu":
            wrong = f"must give {order.length} indices as a NumPy array of integers, not {drawn!r:.60}"
            raise UserError(f"sampler {name}: draw {wrong} (docs/extending.md)")
        if len(outside := drawn[(drawn < 0) | (drawn >= len(table))]):
            raise UserError(f"sampler {name}: draw gives {outside[0]}; the {len(table)} training images count from 0")
        return drawn

    return EpochOrder(order.length, draw)


class BaseSampler(ABC):
    """A rule for which images an epoch has.

    label_space: the program's

    Raises ValueError for names that the label space lacks.
    """

    group_size = 1
    """Batches hold whole groups of so many images."""

    def __init__(self, label_space: LabelSpace) -> None:
        self.label_space = label_space

    @abstractmethod
    def order(self, table: LabelTable) -> EpochOrder:
        """The epochs of these training images. Raises DataError where none can be sampled."""


class WeightedSampler(BaseSampler):
    """Draws as many images as there are, with replacement, the rarer its class the more often an image.

    An image of unknown class has the mean weight, so that such images keep their share.

    by: an attribute, a head or "answer" (the joint class), whose training classes are balanced
    weighting: see base/class_weights.py; with "balanced" each class is drawn equally often

    Raises DataError if no class is known.
    """

    def __init__(self, label_space: LabelSpace, by: str, weighting: Rule = "balanced") -> None:
        super().__init__(label_space)
        self.head = _head_named("by", by, label_space)
        self.weighting = weighting

    def order(self, table: LabelTable) -> EpochOrder:
        targets = _known_targets(self.head, table)
        counts = np.bincount(targets[targets != UNKNOWN], minlength=self.head.num_classes)
        weights = weights_by_rule(self.weighting, torch.from_numpy(counts)).double().numpy()
        by_image = np.where(targets == UNKNOWN, weights[targets[targets != UNKNOWN]].mean(), weights[targets])
        probabilities = by_image / by_image.sum()
        return EpochOrder(len(table), lambda stream: stream.choice(len(table), size=len(table), p=probabilities))


class RepeatSampler(BaseSampler):
    """Repeats the images of some classes within an epoch, shuffled, each time augmented in another way.

    times: by attribute, head or "answer", and by training class, how often: {"mask": {"incorrect": 4, "not_wear": 4}};
        1 for all other classes and for unknown ones; an image of several named classes comes as often as their product
    """

    def __init__(self, label_space: LabelSpace, times: dict[str, dict[str, Times]]) -> None:
        super().__init__(label_space)
        self.heads = {name: _head_named("times", name, label_space) for name in times}
        self.times = times
        for name, by_class in times.items():
            names = self.heads[name].class_names
            for known in by_class:
                if known not in names:
                    raise ValueError(f'times names "{known}", which {not_one_of(known, names)} (the classes of {name})')

    def order(self, table: LabelTable) -> EpochOrder:
        repeats = np.ones(len(table), dtype=np.int64)
        for name, head in self.heads.items():
            by_class = [self.times[name].get(known, 1) for known in head.class_names]
            repeats *= np.array([*by_class, 1])[
                head.targets(table.training_classes).numpy()
            ]  # the last is that of -1, unknown
        repeated = np.repeat(np.arange(len(table)), repeats)
        return EpochOrder(len(repeated), lambda stream: stream.permutation(repeated))


class MPerClassSampler(BaseSampler):
    """Groups of images of one class, for losses that compare images (pytorch-metric-learning's rule).

    The training classes take turns, in an order drawn anew for each epoch; each gives a group of images, drawn without
    replacement if it has so many. So all classes come equally often, and a batch of k groups holds as many different
    classes as it can. An epoch is as long as there are images of known class; the others are left out.

    by: an attribute, a head or "answer" (the joint class)
    images_per_class: of a group; batch_size must be a multiple

    Raises DataError if no class is known.
    """

    def __init__(self, label_space: LabelSpace, by: str, images_per_class: PositiveInt = 4) -> None:
        super().__init__(label_space)
        self.head = _head_named("by", by, label_space)
        self.group_size = images_per_class

    def order(self, table: LabelTable) -> EpochOrder:
        targets = _known_targets(self.head, table)
        members = [np.flatnonzero(targets == number) for number in range(self.head.num_classes)]
        members = [indices for indices in members if len(indices)]
        num_known = sum(map(len, members))
        if num_known < len(table):
            logger.warning(
                'sampler: %d of %d training images are used, those whose "%s" is known',
                num_known,
                len(table),
                self.head.name,
            )
        size = self.group_size
        groups = max(1, num_known // size)

        def draw(stream: np.random.Generator) -> np.ndarray:
            turns = [members[number] for number in stream.permutation(len(members))]
            chosen = [turns[group % len(turns)] for group in range(groups)]
            return np.concatenate([stream.choice(each, size, replace=len(each) < size) for each in chosen])

        return EpochOrder(groups * size, draw)


def _head_named(argument: str, name: str, label_space: LabelSpace) -> Head:
    """The head of that name; or an attribute, or the joint class, as if a head predicted it. Raises ValueError."""
    attributes = {known: Head(known, (attribute,)) for known, attribute in label_space.attributes.items()}
    heads = attributes | label_space.heads
    known = [*heads, "answer"] if label_space.has_joint_class else list(heads)
    if name not in known:
        raise ValueError(f'{argument} names "{name}", which {not_one_of(name, known)}')
    return heads[name] if name in heads else Head(name, label_space.joint_attributes)


def _known_targets(head: Head, table: LabelTable) -> np.ndarray:
    """The head's classes (N,) int64, -1 = unknown. Raises DataError if all are unknown."""
    targets: np.ndarray = head.targets(table.training_classes).numpy()
    if (targets == UNKNOWN).all():
        raise DataError(f'sampler: no training image has a known "{head.name}" to sample by; name another')
    return targets


@dataclass(frozen=True, slots=True)
class BatchKeys:
    """What the images of a batch depend on.

    epoch: of the augmentations
    indices: of the images, (B,) int64
    repeats: how often each image came in this epoch before, (B,) int64; each time it is augmented in another way
    """

    epoch: int
    indices: np.ndarray
    repeats: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)


class TrainingBatchSampler(Sampler[BatchKeys]):
    """The batches of one epoch for one process; `set_position` chooses the epoch and the batch to begin at.

    A global batch is `batch_size * world_size` neighbours of the epoch's order, and each process takes its contiguous
    slice: for a fixed global batch the stream of samples is the same for any number of processes. All processes have
    equally many batches. Without `drop_last` the last, smaller global batch is divided as evenly as possible; where it
    would leave a process one image or none, which batch normalisation cannot take, it joins the batch before it.

    order: the images of an epoch

    Raises DataError if there are too few images for one batch.
    """

    def __init__(
        self, order: EpochOrder, batch_size: int, seed: int, rank: int = 0, world_size: int = 1, drop_last: bool = True
    ) -> None:
        self.order, self.seed, self.rank, self.world_size = order, seed, rank, world_size
        self.epoch = self.start_batch = 0
        ends = [*range(0, order.length + 1, batch_size * world_size)]
        rest = order.length - ends[-1]
        if not drop_last and rest:
            if len(ends) > 1 and rest < 2 * world_size:
                ends[-1] = order.length
            elif rest >= world_size:
                ends.append(order.length)
        self._batches = [*pairwise(ends)]
        if not self._batches:
            processes = f" on {world_size} processes" if world_size > 1 else ""
            raise DataError(
                f"batch_size = {batch_size}{processes} needs {batch_size * world_size} training images, and there are "
                f"{order.length}; set batch_size to {max(1, order.length // world_size)} or less, or drop_last to false"
            )
        self.largest_batch = -(-max(end - start for start, end in self._batches) // world_size)

    def set_position(self, epoch: int, start_batch: int = 0) -> None:
        """The next iteration gives `epoch` from `start_batch` on."""
        self.epoch, self.start_batch = epoch, start_batch

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return len(self._batches)

    def __iter__(self) -> Iterator[BatchKeys]:
        epoch = self.epoch
        order = self.order.draw(numpy_stream(self.seed, "order", epoch))
        repeats = earlier_occurrences(order)
        for start, end in self._batches[self.start_batch :]:
            mine = np.array_split(np.arange(start, end), self.world_size)[self.rank]
            yield BatchKeys(epoch, order[mine], repeats[mine])


def earlier_occurrences(values: np.ndarray) -> np.ndarray:
    """For each of the values (N,), how often it came before: [7, 5, 7, 7] -> [0, 0, 1, 2]."""
    by_value = values.argsort(kind="stable")
    positions = np.arange(len(values))
    is_first = np.diff(values[by_value], prepend=-1) != 0
    occurrences = np.empty_like(positions)
    occurrences[by_value] = positions - np.maximum.accumulate(np.where(is_first, positions, 0))
    return occurrences


class EvaluationBatchSampler(Sampler[BatchKeys]):
    """Every image once, in order: process r takes the images r, r + world_size, ..., and nothing is padded.

    whole_batches: it takes the batches r, r + world_size, ... of one process instead: equal ones, to the bit
    """

    def __init__(
        self, num_samples: int, batch_size: int, rank: int = 0, world_size: int = 1, whole_batches: bool = False
    ) -> None:
        own = range(num_samples) if whole_batches else range(rank, num_samples, world_size)
        batches = [own[start : start + batch_size] for start in range(0, len(own), batch_size)]
        self.batches = batches[rank::world_size] if whole_batches else batches
        self.batch_size = self.largest_batch = batch_size

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[BatchKeys]:
        for batch in self.batches:
            indices = np.array(batch)
            yield BatchKeys(0, indices, np.zeros_like(indices))
