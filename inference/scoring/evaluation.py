"""How good answers are: accuracy and macro F1 with their intervals, beside the majority class and chance."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from base.batch import UNKNOWN
from base.label_space import LabelSpace
from base.metrics import ConfusionCounts
from inference.scoring.intervals import Counts, Interval, Score, counts_by_person, number_persons
from model.metric import accuracy, f1, per_class

logger = logging.getLogger(__name__)

JOINT = "answer"
"""The name of the joint class's scores; without a joint class, of the attributes' mean."""


@dataclass(frozen=True)
class SetScores:
    """The scores of one classification.

    interval, accuracy_interval: 95 % of macro F1 and of accuracy, by persons
    majority_accuracy, majority_f1: of always predicting the class that is most frequent in the truth
    chance_f1: of guessing with equal probability
    """

    name: str
    num_images: int
    accuracy: float
    macro_f1: float
    interval: Interval
    accuracy_interval: Interval
    majority_accuracy: float
    majority_f1: float
    chance_f1: float

    def __str__(self) -> str:
        macro_f1 = with_interval(self.macro_f1, self.interval)
        accuracy = with_interval(self.accuracy, self.accuracy_interval)
        return (
            f"{self.name:<10} {self.num_images:>6} images  "
            f"macro F1 {macro_f1} (majority {self.majority_f1:.4f}, chance {self.chance_f1:.4f})  "
            f"accuracy {accuracy} (majority {self.majority_accuracy:.4f})"
        )


def with_interval(value: float, interval: Interval, sign: str = "") -> str:
    """Such as "0.8134 [0.7725, 0.8481]"; sign: "+" for a difference."""
    low, high = interval
    return f"{value:{sign}.4f} [{low:{sign}.4f}, {high:{sign}.4f}]"


@dataclass(frozen=True)
class Classification:
    """True and predicted classes of a set of images.

    name: of the attribute, or JOINT
    truth, predicted: (N,) int64; truth -1 = unknown
    class_names: in the order of the classes
    """

    name: str
    truth: Tensor
    predicted: Tensor
    class_names: Sequence[str]

    @property
    def known(self) -> Tensor:
        """(N,) bool"""
        return self.truth != UNKNOWN

    def counts(self, person_of: np.ndarray) -> Counts:
        """By person, (P, C); person_of: (N,), the number of each image's person."""
        return counts_by_person(self.truth.numpy(), [self.predicted.numpy()], person_of)[0]

    def confusion(self, predicted: Tensor | None = None) -> Tensor:
        """Counts (C, C) by [true, predicted]; predicted: other predictions than its own."""
        counts = ConfusionCounts(len(self.class_names))
        counts.update(self.truth, self.predicted if predicted is None else predicted)
        return counts.matrix


def classifications(
    labels: LabelSpace, joint: Tensor | None, classes: Mapping[str, Tensor], truth: Mapping[str, Tensor]
) -> list[Classification]:
    """The joint class, then each attribute: those that are both predicted and, for some image, known.

    joint: (N,), None where it is not predicted
    classes, truth: by attribute, (N,); truth -1 = unknown
    """
    found = []
    if joint is not None and all(attribute.name in truth for attribute in labels.joint_attributes):
        found = [Classification(JOINT, labels.joint_classes(truth), joint, labels.joint_class_names)]
    found += [
        Classification(name, truth[name], classes[name], attribute.class_names)
        for name, attribute in labels.predicted_attributes.items()
        if name in truth and name in classes
    ]
    return [each for each in found if each.known.any()]


def report_scores(labels: LabelSpace, found: Sequence[Classification], persons: Sequence[str]) -> list[SetScores]:
    """As `evaluate`; logs the scores, and a table of the classes."""
    for line in per_class_table(found, persons):
        logger.info("%s", line)
    scores = evaluate(labels, found, persons)
    for row in scores:
        logger.info("%s", row)
    return scores


def evaluate(labels: LabelSpace, found: Sequence[Classification], persons: Sequence[str]) -> list[SetScores]:
    """The scores of each classification; first of the attributes' mean, where the label space has no joint class.

    persons: (N,), whose images they are
    """
    person_of = number_persons(persons)
    counts = [each.counts(person_of) for each in found]
    macro_f1, accuracies = [Score.macro_f1(each) for each in counts], [Score.accuracy(each) for each in counts]
    rows = [_score(*each) for each in zip(found, macro_f1, accuracies, strict=True)]
    if labels.has_joint_class or not rows:
        return rows
    num_images = int(torch.stack([each.known for each in found]).any(dim=0).sum())
    names = ("majority_accuracy", "majority_f1", "chance_f1")
    means = [float(np.mean([getattr(row, name) for row in rows])) for name in names]
    return [_row(JOINT, num_images, Score.mean(accuracies), Score.mean(macro_f1), *means), *rows]


def _score(found: Classification, macro_f1: Score, accuracy_score: Score) -> SetScores:
    confusion = found.confusion()
    majority = found.confusion(torch.full_like(found.truth, int(confusion.sum(dim=1).argmax())))
    others = (accuracy(majority), f1(majority), chance_macro_f1(confusion))
    return _row(found.name, int(confusion.sum()), accuracy_score, macro_f1, *others)


def _row(name: str, num_images: int, accuracy_score: Score, macro_f1: Score, *others: float) -> SetScores:
    intervals = (macro_f1.interval(), accuracy_score.interval())
    return SetScores(name, num_images, accuracy_score.value, macro_f1.value, *intervals, *others)


def chance_macro_f1(confusion: Tensor) -> float:
    """Macro F1 of guessing each class with equal probability, from the expected counts: 2 p / (p C + 1) for a class of
    share p among C, the mean over the classes that are there."""
    share = confusion.sum(dim=1).double() / confusion.sum()
    num_classes = len(share)
    return float((2 * share / (share * num_classes + 1))[share > 0].mean())


def per_class_table(found: Sequence[Classification], persons: Sequence[str]) -> list[str]:
    """A line for each joint class that is true or predicted; without a joint class, for each attribute's classes.

    persons: (N,), whose images they are
    """
    person_of = number_persons(persons)
    lines = []
    for each in found[:1] if found and found[0].name == JOINT else found:
        rows = [
            (number, row)
            for number, row in enumerate(per_class(each.confusion(), each.class_names))
            if row.f1 == row.f1
        ]
        for (number, row), score in zip(rows, Score.f1_of_each_class(each.counts(person_of)), strict=True):
            low, high = score.interval()
            right = f"precision {_share(row.precision)}  recall {_share(row.recall)}"
            title = f"{number:>3}  {_prefixed(each.name, row.name):<24} {row.support:>6}"
            lines.append(f"{title}  {right}  F1 {row.f1:.3f} [{low:.3f}, {high:.3f}]")
    return lines


def _share(value: float) -> str:
    """A dash for the precision of a class that is never predicted, and for the recall of one that is never true."""
    return f"{value:.3f}" if value == value else "    -"


def class_distribution(labels: LabelSpace, joint: Tensor | None, classes: Mapping[str, Tensor]) -> list[str]:
    """How many images are predicted as each joint class, or as each attribute's classes: a line a class."""
    predicted = classes if joint is None else {JOINT: joint}
    lines = []
    for name, own in predicted.items():
        class_names = labels.joint_class_names if joint is not None else labels.attributes[name].class_names
        counts = own.bincount(minlength=len(class_names)).tolist()
        lines += [
            f"{number:>3}  {_prefixed(name, text):<24} {count:>6}  {count / len(own):6.1%}"
            for number, (text, count) in enumerate(zip(class_names, counts, strict=True))
        ]
    return lines


def _prefixed(name: str, class_name: str) -> str:
    return class_name if name == JOINT else f"{name} {class_name}"
