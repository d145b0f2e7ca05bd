"""What the predictions of a run come to: scores, classes, confusions, calibration, subgroups, the worst errors."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from base.batch import UNKNOWN
from base.label_space import LabelSpace
from inference.out_of_fold import PredictionTable
from inference.predictor import Probabilities
from inference.scoring.evaluation import JOINT, Classification, SetScores, classifications, evaluate
from inference.scoring.intervals import Interval, Score, number_persons
from inference.tuning.calibration import Calibration
from inference.tuning.reliability import Reliability, cross_fitted
from model.metric import per_class

MOST_CONFUSION_CLASSES = 40
"""Of more classes there is no table of [true, predicted]; the most confused pairs stand."""
MOST_CLASSES = 60
"""So many rows has a table of classes: those of most images."""
MOST_PAIRS = 10
MOST_SUBGROUPS = 60
FEWEST_PERSONS = 5
"""Of fewer, no error rate is shown: it would say more of the persons than of the group."""
NUM_WORST = 18


@dataclass(frozen=True)
class ClassRow:
    """A class that is true or predicted. precision, recall: None where nothing was counted"""

    number: int
    name: str
    support: int
    precision: float | None
    recall: float | None
    f1: float
    interval: Interval


@dataclass(frozen=True)
class Cell:
    """count: images; share: of the images of its row's class, 0 to 1"""

    count: int
    share: float


@dataclass(frozen=True)
class Pair:
    """Images of one class that are taken for another; share: of the true class's images"""

    true: str
    predicted: str
    count: int
    share: float


@dataclass(frozen=True)
class Calibrated:
    """after: None where there are too few persons to fit temperatures on others"""

    before: Reliability
    after: Reliability | None


@dataclass(frozen=True)
class Classified:
    """One classification: the joint class or an attribute.

    name: of the attribute; "" of the joint class
    left_out: classes that `classes` does not show
    confusion: by true, then predicted class; empty where there are too many
    """

    name: str
    class_names: Sequence[str]
    classes: list[ClassRow]
    left_out: int
    confusion: list[list[Cell]]
    pairs: list[Pair]
    calibration: Calibrated


@dataclass(frozen=True)
class Rate:
    """A share of images that are wrong, with its 95 % interval."""

    value: float
    interval: Interval


@dataclass(frozen=True)
class Subgroup:
    """rates: of each classification, by name; None where too few persons are known"""

    name: str
    num_images: int
    num_persons: int
    rates: dict[str, Rate | None]


@dataclass(frozen=True)
class Subgroups:
    """title: the attributes; hidden: how many groups have too few persons"""

    title: str
    rows: list[Subgroup]
    hidden: int


@dataclass(frozen=True)
class Decided:
    """What is predicted of one attribute of an image.

    true, predicted: classes, `true` None where it is unknown
    of_true, of_predicted: their probabilities
    """

    attribute: str
    true: str | None
    predicted: str
    of_true: float
    of_predicted: float


@dataclass(frozen=True)
class WorstImage:
    """id: as in out_of_fold.csv; of_truth: the probability of the truth"""

    id: str
    person: str
    of_truth: float
    decided: list[Decided]


@dataclass(frozen=True)
class Findings:
    """scores: as `evaluate`; by_fold: the same of each fold's images, none where there are no folds
    temperatures: by head, fitted on all images"""

    num_images: int
    num_persons: int
    scores: list[SetScores]
    by_fold: dict[int, list[SetScores]]
    classified: list[Classified]
    temperatures: dict[str, float]
    subgroups: list[Subgroups]
    worst: list[WorstImage]
    num_wrong: int


def find(table: PredictionTable) -> Findings:
    """What the predictions of images whose truth is known come to."""
    labels = table.labels
    predicted = Probabilities.from_heads(labels, table.by_head)
    found = _classifications(labels, predicted, table.truth)
    numbers = sorted(set(table.folds.tolist()) - {UNKNOWN})
    by_fold = {number: table[np.flatnonzero(table.folds.numpy() == number).tolist()].scores() for number in numbers}
    heads = {name: each.double().numpy() for name, each in table.by_head.items()}
    truth = {name: classes.numpy() for name, classes in table.truth.items()}
    calibrated = cross_fitted(labels, heads, truth, table.persons)
    after = None
    if calibrated is not None:
        after = Probabilities.from_heads(labels, {name: torch.from_numpy(each) for name, each in calibrated.items()})
    person_of = number_persons(table.persons)
    worst, num_wrong = _worst(table, predicted, found)
    return Findings(
        len(table),
        len(set(table.persons)),
        evaluate(labels, found, table.persons),
        by_fold if len(by_fold) > 1 else {},
        [
            _classified(
                each, person_of, _table(predicted, each.name), None if after is None else _table(after, each.name)
            )
            for each in found
        ],
        Calibration.fit(labels, heads, truth, "temperature").temperatures,
        _subgroups(labels, found, table.truth, person_of),
        worst,
        num_wrong,
    )


def _classifications(labels: LabelSpace, predicted: Probabilities, truth: Mapping[str, Tensor]) -> list[Classification]:
    joint = None if predicted.joint is None else predicted.joint.argmax(dim=1)
    classes = {name: table.argmax(dim=1) for name, table in predicted.by_attribute.items()}
    found = classifications(labels, joint, classes, truth)
    single = len(found) == 2 and [*labels.predicted_attributes] == [each.name for each in labels.joint_attributes]
    return found[1:] if single else found  # of one attribute the joint class is the same


def _table(predicted: Probabilities, name: str) -> np.ndarray:
    table = predicted.joint if name == JOINT else predicted.by_attribute[name]
    assert table is not None
    return table.double().numpy()


def _classified(
    found: Classification, person_of: np.ndarray, before: np.ndarray, after: np.ndarray | None
) -> Classified:
    confusion = found.confusion()
    rows = [(number, row) for number, row in enumerate(per_class(confusion, found.class_names)) if row.f1 == row.f1]
    scores = Score.f1_of_each_class(found.counts(person_of))
    classes = [
        ClassRow(number, row.name, row.support, _number(row.precision), _number(row.recall), row.f1, score.interval())
        for (number, row), score in zip(rows, scores, strict=True)
    ]
    kept = sorted(classes, key=lambda row: -row.support)[:MOST_CLASSES]
    counts = confusion.tolist()
    shares = (confusion.double() / confusion.sum(dim=1, keepdim=True).clamp(min=1)).tolist()
    cells = [[Cell(*cell) for cell in zip(*row, strict=True)] for row in zip(counts, shares, strict=True)]
    known = found.known.numpy()
    truth = found.truth.numpy()[known]
    return Classified(
        "" if found.name == JOINT else found.name,
        found.class_names,
        sorted(kept, key=lambda row: row.number),
        len(classes) - len(kept),
        cells if len(cells) <= MOST_CONFUSION_CLASSES else [],
        _pairs(confusion, found.class_names),
        Calibrated(
            Reliability.of(before[known], truth), None if after is None else Reliability.of(after[known], truth)
        ),
    )


def _pairs(confusion: Tensor, class_names: Sequence[str]) -> list[Pair]:
    wrong = confusion.clone().fill_diagonal_(0)
    support = confusion.sum(dim=1)
    order = wrong.flatten().argsort(descending=True, stable=True)[:MOST_PAIRS].tolist()
    places = [divmod(place, len(class_names)) for place in order]
    return [
        Pair(class_names[true], class_names[other], count, count / int(support[true]))
        for true, other in places
        if (count := int(wrong[true, other]))
    ]


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


# --- subgroups ---


def _subgroups(
    labels: LabelSpace, found: Sequence[Classification], truth: Mapping[str, Tensor], person_of: np.ndarray
) -> list[Subgroups]:
    """By each attribute, and by all of them together where they are not too many."""
    attributes = {each.name: each.class_names for each in found if each.name != JOINT}
    tables = [_subgroups_by([name], labels, found, truth, person_of) for name in attributes]
    if len(attributes) > 1 and math.prod(map(len, attributes.values())) <= MOST_SUBGROUPS:
        tables.append(_subgroups_by([*attributes], labels, found, truth, person_of))
    return [table for table in tables if table.rows]


def _subgroups_by(
    names: Sequence[str],
    labels: LabelSpace,
    found: Sequence[Classification],
    truth: Mapping[str, Tensor],
    person_of: np.ndarray,
) -> Subgroups:
    rows = []
    sizes = [range(len(labels.attributes[name].class_names)) for name in names]
    for classes in itertools.product(*sizes):
        inside = torch.stack([truth[name] == own for name, own in zip(names, classes, strict=True)]).all(dim=0)
        num_persons = len(np.unique(person_of[inside.numpy()]))
        if num_persons:
            title = " ".join(labels.attributes[name].class_names[own] for name, own in zip(names, classes, strict=True))
            rates = {each.name: _rate(each, inside, person_of) for each in found}
            rows.append(Subgroup(title, int(inside.sum()), num_persons, rates))
    shown = [row for row in rows if row.num_persons >= FEWEST_PERSONS]
    return Subgroups(" × ".join(names), shown, len(rows) - len(shown))


def _rate(found: Classification, inside: Tensor, person_of: np.ndarray) -> Rate | None:
    counted = inside & found.known
    rows = counted.numpy()
    if len(np.unique(person_of[rows])) < FEWEST_PERSONS:
        return None
    own = Classification(found.name, found.truth[counted], found.predicted[counted], found.class_names)
    score = Score.accuracy(own.counts(np.unique(person_of[rows], return_inverse=True)[1]))
    low, high = score.interval()
    return Rate(1 - score.value, (1 - high, 1 - low))


# --- the worst errors ---


def _worst(
    table: PredictionTable, predicted: Probabilities, found: Sequence[Classification]
) -> tuple[list[WorstImage], int]:
    """The wrong images whose truth has the least probability, and how many are wrong: by the joint class; without one,
    by the product over the known attributes."""
    of_truth = np.ones(len(table))
    is_wrong = np.zeros(len(table), dtype=bool)
    scored = [each for each in found if each.name == JOINT] or found
    for each in scored:
        known = each.known.numpy()
        rows = np.flatnonzero(known)
        of_truth[rows] *= _table(predicted, each.name)[rows, each.truth.numpy()[rows]]
        is_wrong |= known & (each.truth != each.predicted).numpy()
    order = np.argsort(np.where(is_wrong, of_truth, np.inf), kind="stable")[: min(NUM_WORST, int(is_wrong.sum()))]
    worst = [
        WorstImage(table.ids[row], table.persons[row], of_truth[row], _decided(table, predicted, row)) for row in order
    ]
    return worst, int(is_wrong.sum())


def _decided(table: PredictionTable, predicted: Probabilities, row: int) -> list[Decided]:
    found = []
    for name, attribute in table.labels.predicted_attributes.items():
        probabilities = predicted.by_attribute[name][row].tolist()
        best, true = int(np.argmax(probabilities)), int(table.truth[name][row])
        known = true != UNKNOWN
        found.append(
            Decided(
                name,
                attribute.class_names[true] if known else None,
                attribute.class_names[best],
                probabilities[true] if known else math.nan,
                probabilities[best],
            )
        )
    return found
