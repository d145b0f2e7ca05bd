"""Splits: which images train, validate and test."""

from __future__ import annotations

import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field, NonNegativeInt

from base.batch import UNKNOWN
from base.label_space import LabelSpace
from data_loader.records.label_table import LabelTable
from data_loader.records.tables import raise_problems
from utils.errors import DataError, InvalidConfig, Problem
from utils.random_streams import numpy_stream
from utils.wording import not_one_of

__all__ = ["GivenSplit", "ImageSplit", "KFoldSplit", "NoSplit", "PersonSplit"]

logger = logging.getLogger(__name__)

SPLIT_SEED = 42
"""Its own, not the run's: all configs of one table validate on the same people."""

Share = Annotated[float, Field(gt=0, lt=1)]
Ranges = dict[str, list[Annotated[list[float], Field(min_length=2, max_length=2)]]]


@dataclass(frozen=True)
class Split:
    """The three sides; each is sorted by name, so that it does not depend on the order of files and rows."""

    train: LabelTable
    validation: LabelTable
    test: LabelTable

    def digest(self) -> str:
        """A fingerprint of which images are on which side, whose they are, what is known of them and how much they
        weigh: equal for the same data wherever it is."""
        found = hashlib.blake2b(digest_size=16)
        for side in (self.train, self.validation, self.test):
            columns = side.targets | side.scoring_targets
            names = sorted(columns)
            known = zip(*(columns[name].tolist() for name in names), strict=True)
            for record, classes in zip(side.records, known, strict=True):
                weight = "" if record.weight == 1 else f"\0{record.weight}"
                text = f"{record.name}\0{record.person}\0{list(zip(names, classes, strict=True))}{weight}\n"
                found.update(text.encode())
            found.update(b"\n")
        return found.hexdigest()

    def sizes(self) -> dict[str, dict[str, int]]:
        """By side, how many images of how many persons it has."""
        sides = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: {"images": len(side), "persons": side.num_persons} for name, side in sides.items()}

    def validation_digest(self) -> str:
        """A fingerprint of the validation images alone: runs with the same one can be compared."""
        names = "".join(f"{record.name}\0{record.person}\n" for record in self.validation.records)
        return hashlib.blake2b(names.encode(), digest_size=8).hexdigest()


class BaseSplit(ABC):
    """Images whose table gives them to the test side are the test side of every split, and those of a source that is
    `train_only` train in every split, unless they are of a person who validates; a subclass divides the others.

    drop_from_training: by attribute, inclusive ranges of values that are left out of the training side only, such as
        {"age": [[27, 29], [57, 59]]}: people so near a boundary of classes that their labels mislead
    seed: the same one divides the same table in the same way, whatever the run's own seed and training classes are;
        None: by the run's seed and training classes, as the first version did
    """

    title = "the split"
    may_lack_validation = False

    def __init__(self, drop_from_training: Ranges | None = None, seed: int | None = None) -> None:
        self.drop_from_training = drop_from_training or {}
        self.seed = seed

    @abstractmethod
    def _validates(self, table: LabelTable, seed: int) -> np.ndarray:
        """Whether each image validates, (N,) bool; none of them is for testing, or for training alone."""

    def divide(self, table: LabelTable, run_seed: int) -> Split:
        """The division, the same for any order of the rows. A class that one side lacks is warned of.

        Raises DataError where a side would be empty, or a person is both in a given test side and elsewhere."""
        table = table[np.array(sorted(range(len(table)), key=lambda row: table.records[row].name), dtype=np.int64)]
        is_test = np.array([record.part == "test" for record in table.records], dtype=bool)
        train_only = np.array([record.train_only for record in table.records], dtype=bool)
        test, rest = table[is_test], table[~is_test & ~train_only]
        _check_test_persons(table[~is_test], test)
        validates = np.zeros(len(table), dtype=bool)
        validates[~is_test & ~train_only] = self._validates(rest, run_seed if self.seed is None else self.seed)
        is_left_out = train_only & _is_of_persons_in(table, table[validates])
        if is_left_out.any():
            logger.info("%s: %d images of train_only sources are of persons who validate, and are left out",
                        self.title, is_left_out.sum())  # fmt: skip
        trains = ~is_test & ~validates & ~is_left_out & ~self._is_dropped(table)
        split = Split(table[trains], table[validates], test)
        for side, name in ((split.train, "training"), (split.validation, "validation")):
            if len(side):
                side.warn_of_absent_classes(f"the {name} side of {self.title}", whole=table)
            elif side is split.train or not self.may_lack_validation:
                raise DataError(
                    f"{type(self).__name__}: the {name} side of {self.title} is empty ({len(rest)} images of "
                    f"{rest.num_persons} persons to divide); give more data, or another split"
                )
        return split

    def check_config(self, label_space: LabelSpace) -> None:
        """Raises InvalidConfig for an attribute that the labels lack, and ValueError for what cannot be."""
        problems = _unknown_attributes("drop_from_training", self.drop_from_training, label_space)
        for name, ranges in self.drop_from_training.items():
            key_path = ("drop_from_training", name)
            if name in label_space.attributes and label_space.attributes[name].bins is None:
                problems.append(Problem(key_path, f"needs an attribute with bins; {name} has classes"))
            problems += [
                Problem((*key_path, number), f"= [{low:g}, {high:g}] must be [lowest, highest]")
                for number, (low, high) in enumerate(ranges)
                if low > high
            ]
        if problems:
            raise InvalidConfig(problems)

    def _is_dropped(self, table: LabelTable) -> np.ndarray:
        """(N,) bool; an unknown value is in no range."""
        dropped = np.zeros(len(table), dtype=bool)
        for name, ranges in self.drop_from_training.items():
            values = table.numbers[name].numpy()
            for low, high in ranges:
                dropped |= (low <= values) & (values <= high)
        return dropped


class _StratifiedSplit(BaseSplit):
    """Chooses persons by their positions in an order in which neighbours are alike, so that every n-th of them has the
    whole set's mixture of the stratified classes (systematic sampling)."""

    def __init__(self, stratify: list[str] | None, drop_from_training: Ranges | None, seed: int | None) -> None:
        super().__init__(drop_from_training, seed)
        self.stratify = stratify or []

    def check_config(self, label_space: LabelSpace) -> None:
        super().check_config(label_space)
        if problems := _unknown_attributes("stratify", self.stratify, label_space):
            raise InvalidConfig(problems)

    @abstractmethod
    def _chosen(self, num_persons: int) -> np.ndarray:
        """Whether the person at each position validates, (P,) bool."""

    def _validates(self, table: LabelTable, seed: int) -> np.ndarray:
        if any(record.part == "validation" for record in table.records):
            logger.warning("%s ignores the table's own validation side; GivenSplit keeps it", type(self).__name__)
        names, persons = np.unique([record.person for record in table.records], return_inverse=True)
        stream = numpy_stream(seed, "split")
        keys = [stream.permutation(len(names))]  # within a stratum; lexsort's last key counts most
        columns = table.training_classes if self.seed is None else table.scoring_classes
        for name in self.stratify:  # the strata of an attribute are in random order, the first attribute outermost
            found, by_person = np.unique(_most_frequent(columns[name].numpy(), persons), return_inverse=True)
            keys.insert(1, stream.permutation(len(found))[by_person])
        positions = np.lexsort(keys).argsort()
        return self._chosen(len(names))[positions][persons]


class PersonSplit(_StratifiedSplit):
    """`validation_share` of the persons validate, the others train; no person is on both sides.

    Each combination of the scored classes of `stratify` is within one person of its share; a person's class is the most
    frequent known one of the images.

    validation_share: of the persons, 0 to 1
    stratify: attributes
    """

    def __init__(
        self,
        validation_share: Share = 0.1,
        stratify: list[str] | None = None,
        drop_from_training: Ranges | None = None,
        seed: NonNegativeInt | None = SPLIT_SEED,
    ) -> None:
        super().__init__(stratify, drop_from_training, seed)
        self.validation_share = validation_share

    def _chosen(self, num_persons: int) -> np.ndarray:
        return np.diff(np.floor(np.arange(num_persons + 1) * self.validation_share + 0.5)) > 0


class KFoldSplit(_StratifiedSplit):
    """Every person validates in exactly one of `folds` folds, and trains in the others; stratified as PersonSplit.

    folds: their number
    fold: the one that validates, counted from 0; None: each in its turn, one training after another
    stratify: attributes
    """

    def __init__(
        self,
        folds: Annotated[int, Field(ge=2)] = 5,
        fold: NonNegativeInt | None = None,
        stratify: list[str] | None = None,
        drop_from_training: Ranges | None = None,
        seed: NonNegativeInt | None = SPLIT_SEED,
    ) -> None:
        super().__init__(stratify, drop_from_training, seed)
        if fold is not None and fold >= folds:
            raise ValueError(f"fold = {fold} must be 0 to {folds - 1} (folds = {folds})")
        self.folds = folds
        self.fold = fold

    @property
    def title(self) -> str:  # type: ignore[override] # computed: scripts set `fold`
        return f"fold {self.fold}"

    def _chosen(self, num_persons: int) -> np.ndarray:
        assert self.fold is not None, "one fold is divided at a time"
        if num_persons < self.folds:
            raise DataError(f"KFoldSplit: folds = {self.folds}, and there are {num_persons} persons; use fewer folds")
        return np.arange(num_persons) % self.folds == self.fold


class GivenSplit(BaseSplit):
    """The split that the tables give (AttributeTable's split_column); a row that is given no side is an error."""

    def __init__(self, drop_from_training: Ranges | None = None) -> None:
        super().__init__(drop_from_training)

    def _validates(self, table: LabelTable, seed: int) -> np.ndarray:  # noqa: ARG002
        raise_problems(
            [
                f'{record.origin}: "{record.name}" is given no side; fill its split column, set split_column, '
                f"or use PersonSplit"
                for record in table.records
                if record.part is None
            ]
        )
        return np.array([record.part == "validation" for record in table.records], dtype=bool)


class ImageSplit(BaseSplit):
    """`validation_share` of the images, at random. It leaks: one person's photographs are on both sides.

    validation_share: of the images, 0 to 1
    """

    def __init__(
        self,
        validation_share: Share = 0.1,
        drop_from_training: Ranges | None = None,
        seed: NonNegativeInt | None = SPLIT_SEED,
    ) -> None:
        super().__init__(drop_from_training, seed)
        self.validation_share = validation_share

    def _validates(self, table: LabelTable, seed: int) -> np.ndarray:
        count = int(len(table) * self.validation_share + 0.5)
        chosen = numpy_stream(seed, "split").permutation(len(table)) < count
        logger.warning(
            "ImageSplit leaks: %d of %d persons are in training and in validation, so validation scores flatter; "
            "PersonSplit does not",
            table[chosen].num_persons + table[~chosen].num_persons - table.num_persons,
            table.num_persons,
        )
        return chosen


class NoSplit(BaseSplit):
    """Everything trains; there is no validation."""

    may_lack_validation = True

    def __init__(self, drop_from_training: Ranges | None = None) -> None:
        super().__init__(drop_from_training)

    def _validates(self, table: LabelTable, seed: int) -> np.ndarray:  # noqa: ARG002
        return np.zeros(len(table), dtype=bool)


def _unknown_attributes(argument: str, names: Iterable[str], label_space: LabelSpace) -> list[Problem]:
    known = label_space.attributes
    return [
        Problem((argument,), f'names "{name}", which {not_one_of(name, known)}') for name in names if name not in known
    ]


def _most_frequent(classes: np.ndarray, persons: np.ndarray) -> np.ndarray:
    """By person, the most frequent known class of the images (the lowest of equals), else -1.

    classes, persons: (N,) of each image; persons are numbered from 0"""
    counts = np.zeros((persons.max(initial=-1) + 1, classes.max(initial=0) + 1), dtype=np.int64)
    known = classes != UNKNOWN
    np.add.at(counts, (persons[known], classes[known]), 1)
    return np.where(counts.any(axis=1), counts.argmax(axis=1), UNKNOWN)


def _is_of_persons_in(table: LabelTable, other: LabelTable) -> np.ndarray:
    """Whether each image of `table` is of a person in `other`, (N,) bool."""
    persons = {record.person for record in other.records}
    return np.array([record.person in persons for record in table.records], dtype=bool)


def _check_test_persons(rest: LabelTable, test: LabelTable) -> None:
    held_out = {record.person: record for record in test.records}
    first = {record.person: record for record in rest.records if record.person in held_out}
    raise_problems(
        [
            f'{record.origin}: person "{person}" is in the test side too ({held_out[person].origin}); '
            f"keep a person on one side"
            for person, record in first.items()
        ]
    )
