"""Splits: which records train, validate and test."""

from __future__ import annotations

import hashlib
import logging
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from base.attribute import is_unknown
from base.batch import UNKNOWN
from base.label_space import LabelSpace
from data_loader.absent_classes import warn_of_absent_classes
from data_loader.records.records import Record
from data_loader.records.tables import raise_problems
from utils.errors import DataError, InvalidConfig, Problem
from utils.random_streams import numpy_stream
from utils.wording import not_one_of

__all__ = ["GivenSplit", "ImageSplit", "KFoldSplit", "NoSplit", "PersonSplit"]

logger = logging.getLogger(__name__)

Share = Annotated[float, Field(gt=0, lt=1)]
Ranges = dict[str, list[Annotated[list[float], Field(min_length=2, max_length=2)]]]


@dataclass(frozen=True)
class Split:
    """The three sides; each is sorted by name, so that it depends on what the files are, not on how they lie."""

    train: list[Record]
    validation: list[Record]
    test: list[Record]

    def digest(self, label_space: LabelSpace) -> str:
        """A fingerprint of which images are on which side, whose they are, and what is known of them: equal for the
        same data wherever it lies."""
        found = hashlib.blake2b(digest_size=16)
        for side in (self.train, self.validation, self.test):
            for record in side:
                known = {**label_space.targets(record.attributes), **label_space.scoring_targets(record.attributes)}
                found.update(f"{record.name}\0{record.person}\0{sorted(known.items())}\n".encode())
            found.update(b"\n")
        return found.hexdigest()


class BaseSplit(ABC):
    """Records whose table says "test" are the test side of every split; a subclass divides the others.

    drop_from_training: by attribute, inclusive ranges of values that are left out of the training side only, such as
    {"age": [[27, 29], [57, 59]]}: people so near a boundary of classes that their labels mislead.
    """

    validates = True

    def __init__(self, drop_from_training: Ranges | None = None) -> None:
        self.drop_from_training = drop_from_training or {}

    @property
    def _called(self) -> str:
        """What messages call this division, where there are several."""
        return ""

    @abstractmethod
    def _in_validation(self, records: Sequence[Record], label_space: LabelSpace, seed: int) -> list[bool]:
        """For each record that is not for testing, whether it validates."""

    def divide(self, records: Sequence[Record], label_space: LabelSpace, seed: int) -> Split:
        """The same division for the same records (in any order) and seed.

        A class that one side lacks is warned of. Raises InvalidConfig for an attribute that there is none of, and
        DataError where a side would be empty, or a person stands both in a given test side and elsewhere."""
        self.check_config(label_space)
        ordered = sorted(records, key=lambda record: record.name)
        test = [record for record in ordered if record.part == "test"]
        rest = [record for record in ordered if record.part != "test"]
        _check_test_persons(rest, test)
        chosen = self._in_validation(rest, label_space, seed)
        validation = [record for record, validates in zip(rest, chosen, strict=True) if validates]
        train = [record for record, validates in zip(rest, chosen, strict=True) if not validates]
        train = [record for record in train if not self._is_dropped(record, label_space)]
        for side, name in ((train, "training"), (validation, "validation")):
            if not side and (self.validates or side is train):
                raise DataError(
                    f"{type(self).__name__}: the {name} side of {self._called or 'the split'} is empty ({len(rest)} "
                    f"images of {len({record.person for record in rest})} persons to divide); give more data, or "
                    f"another split"
                )
            if side:
                place = f"the {name} side" + (f" of {self._called}" if self._called else "")
                warn_of_absent_classes(side, place, label_space)
        return Split(train, validation, test)

    def check_config(self, label_space: LabelSpace) -> None:
        """Raises InvalidConfig for an attribute that there is none of, and the like; `divide` does it, too."""
        problems = _unknown_attributes("drop_from_training", list(self.drop_from_training), label_space)
        for name, ranges in self.drop_from_training.items():
            key_path = ("drop_from_training", name)
            if name in label_space.attributes and label_space.attributes[name].bins is None:
                problems.append(Problem(key_path, f"needs an attribute with bins; {name} has classes"))
            for number, (low, high) in enumerate(ranges):
                if low > high:
                    problems.append(Problem((*key_path, number), f"= [{low:g}, {high:g}] must be [lowest, highest]"))
        if problems:
            raise InvalidConfig(problems)

    def _is_dropped(self, record: Record, label_space: LabelSpace) -> bool:
        for name, ranges in self.drop_from_training.items():
            raw = record.attributes.get(name)
            if not is_unknown(raw):
                value = label_space.attributes[name].number(raw)
                if any(low <= value <= high for low, high in ranges):
                    return True
        return False


class _StratifiedSplit(BaseSplit):
    """Persons in an order such that any run of neighbours has the whole set's mixture of the chosen classes."""

    def __init__(self, stratify: list[str] | None, drop_from_training: Ranges | None) -> None:
        super().__init__(drop_from_training)
        self.stratify = stratify or []

    def check_config(self, label_space: LabelSpace) -> None:
        problems = _unknown_attributes("stratify", self.stratify, label_space)
        if problems:
            raise InvalidConfig(problems)
        super().check_config(label_space)

    def _ordered_persons(self, records: Sequence[Record], label_space: LabelSpace, seed: int) -> list[str]:
        """Persons by stratum (strata in random order, the first attribute outermost), randomly within each."""
        if any(record.part == "validation" for record in records):
            logger.warning("%s divides anew what a table gave to validation; GivenSplit keeps it", type(self).__name__)
        classes = _person_classes(records, self.stratify, label_space)
        persons = sorted(classes)
        stream = numpy_stream(seed, "split")
        rank = dict(zip(persons, stream.permutation(len(persons)).tolist(), strict=True))
        class_ranks = [
            dict(zip(values, stream.permutation(len(values)).tolist(), strict=True))
            for values in (sorted({found[level] for found in classes.values()}) for level in range(len(self.stratify)))
        ]
        return sorted(
            persons,
            key=lambda person: (
                *(ranks[value] for ranks, value in zip(class_ranks, classes[person], strict=True)),
                rank[person],
            ),
        )


class PersonSplit(_StratifiedSplit):
    """`validation_share` of the persons validate, the others train; no person is on both sides.

    Stratified over the attributes of `stratify` together: each combination of their training classes is within one
    person of its share (systematic sampling); a person's class is the most frequent that is known of the images.
    """

    def __init__(
        self,
        validation_share: Share = 0.1,
        stratify: list[str] | None = None,
        drop_from_training: Ranges | None = None,
    ) -> None:
        super().__init__(stratify, drop_from_training)
        self.validation_share = validation_share

    def _in_validation(self, records: Sequence[Record], label_space: LabelSpace, seed: int) -> list[bool]:
        persons = self._ordered_persons(records, label_space, seed)
        steps = np.floor(np.arange(len(persons) + 1) * self.validation_share + 0.5)
        chosen = {person for person, step in zip(persons, np.diff(steps), strict=True) if step}
        return [record.person in chosen for record in records]


class KFoldSplit(_StratifiedSplit):
    """Every person validates in exactly one of `folds` folds, and trains in the others; stratified as PersonSplit.

    fold: the one that validates, counted from 0; None: each in its turn, one training after another.
    """

    def __init__(
        self,
        folds: Annotated[int, Field(ge=2)] = 5,
        fold: Annotated[int, Field(ge=0)] | None = None,
        stratify: list[str] | None = None,
        drop_from_training: Ranges | None = None,
    ) -> None:
        super().__init__(stratify, drop_from_training)
        self.folds = folds
        self.fold = fold

    @property
    def _called(self) -> str:
        return f"fold {self.fold}"

    def check_config(self, label_space: LabelSpace) -> None:
        super().check_config(label_space)
        if self.fold is not None and self.fold >= self.folds:
            raise ValueError(f"fold = {self.fold} must be 0 to {self.folds - 1} (folds = {self.folds})")

    def _in_validation(self, records: Sequence[Record], label_space: LabelSpace, seed: int) -> list[bool]:
        assert self.fold is not None, "one fold is divided at a time"
        persons = self._ordered_persons(records, label_space, seed)
        if len(persons) < self.folds:
            raise DataError(f"split.args.folds = {self.folds}: there are {len(persons)} persons; use no more folds")
        chosen = {person for place, person in enumerate(persons) if place % self.folds == self.fold}
        return [record.person in chosen for record in records]


class GivenSplit(BaseSplit):
    """The split that the tables give (AttributeTable's split_column); a row that is given no side is an error."""

    def _in_validation(self, records: Sequence[Record], label_space: LabelSpace, seed: int) -> list[bool]:  # noqa: ARG002
        raise_problems(
            [
                f'{record.origin}: "{record.name}" is given no side; fill its split column, set split_column, '
                f"or use PersonSplit"
                for record in records
                if record.part is None
            ]
        )
        return [record.part == "validation" for record in records]


class ImageSplit(BaseSplit):
    """`validation_share` of the images, at random. It leaks: one person's photographs fall on both sides."""

    def __init__(self, validation_share: Share = 0.1, drop_from_training: Ranges | None = None) -> None:
        super().__init__(drop_from_training)
        self.validation_share = validation_share

    def _in_validation(self, records: Sequence[Record], label_space: LabelSpace, seed: int) -> list[bool]:  # noqa: ARG002
        count = int(len(records) * self.validation_share + 0.5)
        chosen = numpy_stream(seed, "split").permutation(len(records)) < count
        sides: dict[str, set[bool]] = defaultdict(set)
        for record, validates in zip(records, chosen.tolist(), strict=True):
            sides[record.person].add(validates)
        both = sum(len(side) == 2 for side in sides.values())
        logger.warning(
            "ImageSplit leaks: %d of %d persons are in training and in validation, so validation scores flatter; "
            "PersonSplit does not",
            both,
            len(sides),
        )
        return chosen.tolist()


class NoSplit(BaseSplit):
    """Everything trains; there is no validation."""

    validates = False

    def _in_validation(self, records: Sequence[Record], label_space: LabelSpace, seed: int) -> list[bool]:  # noqa: ARG002
        return [False] * len(records)


def _unknown_attributes(argument: str, names: Sequence[str], label_space: LabelSpace) -> list[Problem]:
    known = label_space.attributes
    return [
        Problem((argument,), f'names "{name}", which {not_one_of(name, known)}') for name in names if name not in known
    ]


def _person_classes(
    records: Sequence[Record], names: Sequence[str], label_space: LabelSpace
) -> dict[str, tuple[int, ...]]:
    """By person, the class of each named attribute: the most frequent known one (the lowest of equals), else -1."""
    counts: dict[str, list[Counter[int]]] = defaultdict(lambda: [Counter() for _ in names])
    for record in records:
        for counter, name in zip(counts[record.person], names, strict=True):
            found = label_space.attributes[name].training_class(record.attributes.get(name))
            if found != UNKNOWN:
                counter[found] += 1
    return {
        person: tuple(
            max(counter, key=lambda found: (counter[found], -found)) if counter else UNKNOWN for counter in counters
        )
        for person, counters in counts.items()
    }


def _check_test_persons(rest: Sequence[Record], test: Sequence[Record]) -> None:
    held_out = {record.person: record for record in test}
    first = {record.person: record for record in rest if record.person in held_out}
    raise_problems(
        [
            f'{record.origin}: person "{person}" is in the test side too ({held_out[person].origin}); '
            f"keep a person on one side"
            for person, record in first.items()
        ]
    )
