"""Which images an epoch shows, rare classes more often if asked, and which of them make which batch."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch.utils.data import Sampler

from base.batch import UNKNOWN
from base.class_weights import Rule, weights_by_rule
from base.label_space import Head, LabelSpace
from data_loader.records.label_table import LabelTable
from utils.config.signatures import PositiveInt
from utils.errors import DataError, InvalidConfig, Problem
from utils.random_streams import numpy_stream
from utils.wording import not_one_of

__all__ = ["MPerClassSampler", "RepeatSampler", "WeightedSampler"]

logger = logging.getLogger(__name__)

MOST_REPEATS = 1000
Times = Annotated[int, Field(ge=1, le=MOST_REPEATS)]


@dataclass(frozen=True)
class EpochOrder:
    """The images of every epoch: draw(stream) gives the indices (length,) int64 of one, in order."""

    length: int
    draw: Callable[[np.random.Generator], np.ndarray]


class BaseSampler(ABC):
    """A rule for what an epoch shows. `label_space` is the program's; names that it lacks are ValueErrors."""

    def __init__(self, label_space: LabelSpace) -> None:
        self.label_space = label_space

    @abstractmethod
    def order(self, table: LabelTable) -> EpochOrder:
        """The epochs of these training images. Raises DataError where they cannot be sampled so."""

    def check_loader(self, batch_size: int, shuffle: bool) -> None:  # noqa: ARG002
        """Raises InvalidConfig, its key paths of the whole config, if a loader with these arguments does not suit."""
        if not shuffle:
            key_path = ("data_loader", "args", "shuffle")
            raise InvalidConfig([Problem(key_path, "= false goes without a sampler, which has its own order")])


class WeightedSampler(BaseSampler):
    """Draws as many images as there are, with replacement, the rarer its class the more often an image.

    by: an attribute, a head, or "answer" (the combined classes), whose training classes are balanced; weighting: see
    base/class_weights.py; with "balanced" each class is drawn equally often. An image whose class is
    unknown has the mean weight, so that such images keep their share. Raises DataError if no class is known.
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
        chances = by_image / by_image.sum()
        return EpochOrder(len(table), lambda stream: stream.choice(len(table), size=len(table), p=chances))


class RepeatSampler(BaseSampler):
    """Shows the images of some classes several times an epoch, shuffled, each time augmented in another way.

    times: by attribute, head or "answer", and by training class, how often: {"mask": {"incorrect": 4, "not_wear": 4}};
    1 for all others and where the class is unknown. Where an image is named by several, their product.
    """

    def __init__(self, label_space: LabelSpace, times: dict[str, dict[str, Times]]) -> None:
        super().__init__(label_space)
        self.heads = {name: _head_named("times", name, label_space) for name in times}
        self.times = times
        for name, by_class in times.items():
            for known in by_class:
                if known not in self.heads[name].class_names:
                    names = self.heads[name].class_names
                    raise ValueError(f'times names "{known}", which {not_one_of(known, names)} (the classes of {name})')

    def order(self, table: LabelTable) -> EpochOrder:
        repeats = np.ones(len(table), dtype=np.int64)
        for name, head in self.heads.items():
            by_class = [self.times[name].get(known, 1) for known in head.class_names]
            repeats *= np.array([*by_class, 1])[_targets(head, table)]  # the last is that of -1, unknown
        if repeats.max() > MOST_REPEATS:
            raise DataError(
                f"sampler.args.times: some image is named by several, and would come {repeats.max()} times an epoch; "
                f"at most {MOST_REPEATS} make sense"
            )
        shown = np.repeat(np.arange(len(table)), repeats)
        return EpochOrder(len(shown), lambda stream: stream.permutation(shown))


class MPerClassSampler(BaseSampler):
    """Batches of groups of images of one class, for losses that compare images (pytorch-metric-learning's rule).

    The training classes of `by` (an attribute, a head or "answer") take turns, in an order drawn anew for each epoch;
    each gives `images_per_class` images at a time, drawn without replacement if it has so many. So all classes that
    there are come equally often, and a batch of k groups holds as many different classes as it can. batch_size must be
    a multiple of images_per_class. An epoch is as long as there are images whose class is known; no others are shown.

    by: an attribute, a head or "answer"
    images_per_class: of a group

    Raises DataError if no class is known.
    """

    def __init__(self, label_space: LabelSpace, by: str, images_per_class: PositiveInt = 4) -> None:
        super().__init__(label_space)
        self.head = _head_named("by", by, label_space)
        self.images_per_class = images_per_class

    def check_loader(self, batch_size: int, shuffle: bool) -> None:
        super().check_loader(batch_size, shuffle)
        if batch_size % self.images_per_class:
            wrong = f"= {self.images_per_class} must divide data_loader.args.batch_size = {batch_size}"
            raise InvalidConfig([Problem(("sampler", "args", "images_per_class"), wrong)])

    def order(self, table: LabelTable) -> EpochOrder:
        targets = _known_targets(self.head, table)
        members = [np.flatnonzero(targets == number) for number in range(self.head.num_classes)]
        members = [indices for indices in members if len(indices)]
        self._warn_of_what_is_left_out(table[targets != UNKNOWN], len(table))
        size = self.images_per_class
        groups = max(1, sum(map(len, members)) // size)

        def draw(stream: np.random.Generator) -> np.ndarray:
            turns = [members[number] for number in stream.permutation(len(members))]
            chosen = [turns[group % len(turns)] for group in range(groups)]
            return np.concatenate([stream.choice(each, size, replace=len(each) < size) for each in chosen])

        return EpochOrder(groups * size, draw)

    def _warn_of_what_is_left_out(self, shown: LabelTable, total: int) -> None:
        if len(shown) == total:
            return
        logger.warning(
            'sampler: %d of %d training images are shown, those whose "%s" is known', len(shown), total, self.head.name
        )
        for name, count in shown.class_counts().items():
            if count.sum() == 0:
                logger.warning("sampler: the head %s cannot learn: none of the images shown has a label for it", name)


def _head_named(argument: str, name: str, label_space: LabelSpace) -> Head:
    """The head of that name; or an attribute, or the whole answer, as if a head predicted it. Raises ValueError."""
    attributes = {known: Head(known, (attribute,)) for known, attribute in label_space.attributes.items()}
    heads = attributes | label_space.heads
    known = [*heads, "answer"] if label_space.has_joint_class else list(heads)
    if name not in known:
        raise ValueError(f'{argument} names "{name}", which {not_one_of(name, known)}')
    return heads[name] if name in heads else Head(name, label_space.joint_attributes)


def _targets(head: Head, table: LabelTable) -> np.ndarray:
    """The head's classes (N,) int64, -1 = unknown."""
    return head.targets(table.training_classes).numpy()


def _known_targets(head: Head, table: LabelTable) -> np.ndarray:
    """As `_targets`. Raises DataError if all are unknown."""
    targets = _targets(head, table)
    if (targets == UNKNOWN).all():
        raise DataError(f'sampler: no training image has a known "{head.name}" to sample by; name another')
    return targets


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
