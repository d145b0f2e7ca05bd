"""How good answers are: accuracy and macro F1 with an interval, beside the majority class and chance."""

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
from model.metric import accuracy, f1, per_class
from utils.random_streams import numpy_stream

logger = logging.getLogger(__name__)

NUM_RESAMPLES = 1000

JOINT = "answer"
"""The name of the joint class's scores; without a joint class, of the attributes' mean."""


@dataclass(frozen=True)
class SetScores:
    """The scores of one classification.

    interval: 95 % of macro F1, by resampling persons
    majority_accuracy, majority_f1: of always predicting the class that is most frequent in the truth
    chance_f1: of guessing with equal probability
    """

    name: str
    num_images: int
    accuracy: float
    macro_f1: float
    interval: tuple[float, float]
    majority_accuracy: float
    majority_f1: float
    chance_f1: float

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"{self.name:<10} {self.num_images:>6} images  "
            f"macro F1 {self.macro_f1:.4f} [{low:.4f}, {high:.4f}] (majority {self.majority_f1:.4f}, "
            f"chance {self.chance_f1:.4f})  accuracy {self.accuracy:.4f} (majority {self.majority_accuracy:.4f})"
        )


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
    for line in per_class_table(found):
        logger.info("%s", line)
    scores = evaluate(labels, found, persons)
    for row in scores:
        logger.info("%s", row)
    return scores


def evaluate(labels: LabelSpace, found: Sequence[Classification], persons: Sequence[str]) -> list[SetScores]:
    """The scores of each classification; first of the attributes' mean, where the label space has no joint class.

    persons: (N,), whose images they are
    """
    rows = [_score(each, persons) for each in found]
    if labels.has_joint_class or not rows:
        return rows
    num_images = int(torch.stack([each.known for each in found]).any(dim=0).sum())
    names = ("accuracy", "macro_f1", "majority_accuracy", "majority_f1", "chance_f1")
    mean = {name: float(np.mean([getattr(row, name) for row in rows])) for name in names}
    return [SetScores(JOINT, num_images, interval=macro_f1_interval(found, persons), **mean), *rows]


def _score(found: Classification, persons: Sequence[str]) -> SetScores:
    confusion = found.confusion()
    majority = found.confusion(torch.full_like(found.truth, int(confusion.sum(dim=1).argmax())))
    return SetScores(
        found.name,
        int(confusion.sum()),
        accuracy(confusion),
        f1(confusion),
        macro_f1_interval([found], persons),
        accuracy(majority),
        f1(majority),
        chance_macro_f1(confusion),
    )


def chance_macro_f1(confusion: Tensor) -> float:
    """Macro F1 of guessing each class with equal probability, from the expected counts: 2 p / (p C + 1) for a class of
    share p among C, the mean over the classes that are there."""
    share = confusion.sum(dim=1).double() / confusion.sum()
    num_classes = len(share)
    return float((2 * share / (share * num_classes + 1))[share > 0].mean())


def macro_f1_interval(found: Sequence[Classification], persons: Sequence[str], seed: int = 0) -> tuple[float, float]:
    """The 95 % percentile interval of macro F1, of several classifications of their mean.

    Whole persons are drawn with replacement (cluster bootstrap, Field & Welsh 2007): photographs of one person are not
    independent."""
    known = torch.stack([each.known for each in found]).any(dim=0).numpy()
    _, person_of = np.unique(np.asarray(persons)[known], return_inverse=True)
    num_persons = int(person_of.max()) + 1
    share = np.full(num_persons, 1 / num_persons)
    draws = numpy_stream(seed, "bootstrap").multinomial(num_persons, share, size=NUM_RESAMPLES).astype(np.float32)
    scores = [
        resampled_macro_f1(each.truth.numpy()[known], each.predicted.numpy()[known], person_of, draws) for each in found
    ]
    low, high = np.nanpercentile(np.nanmean(scores, axis=0), [2.5, 97.5])
    return float(low), float(high)


def resampled_macro_f1(
    truth: np.ndarray, predicted: np.ndarray, person_of: np.ndarray, draws: np.ndarray
) -> np.ndarray:
    """Macro F1 of each resample, (R,); NaN where it has no known image.

    truth, predicted: (N,); truth -1 = unknown
    person_of: (N,), the number of the person of each image
    draws: (R, P), how often each person is drawn
    """
    known = truth != UNKNOWN
    classes, inverse = np.unique(np.stack([truth[known], predicted[known]]), return_inverse=True)
    truth, predicted = inverse.reshape(2, -1)

    def resampled_counts(rows: np.ndarray, of_class: np.ndarray) -> np.ndarray:
        """(R, C), from each image's person and class."""
        by_person = np.zeros((draws.shape[1], len(classes)), dtype=np.float32)
        np.add.at(by_person, (rows, of_class), 1)
        return draws @ by_person

    person_of, right = person_of[known], truth == predicted
    total = resampled_counts(person_of, truth) + resampled_counts(person_of, predicted)  # 2 TP + FN + FP
    present, right_counts = total > 0, resampled_counts(person_of[right], truth[right])
    by_class = np.divide(2 * right_counts, total, out=np.zeros_like(total), where=present)
    with np.errstate(invalid="ignore"):
        return by_class.sum(axis=1) / present.sum(axis=1)


def per_class_table(found: Sequence[Classification]) -> list[str]:
    """A line for each joint class that is true or predicted; without a joint class, for each attribute's classes."""
    return [
        f"{number:>3}  {_prefixed(each.name, row.name):<24} {row.support:>6}  "
        f"precision {_share(row.precision)}  recall {_share(row.recall)}  F1 {row.f1:.3f}"
        for each in (found[:1] if found and found[0].name == JOINT else found)
        for number, row in enumerate(per_class(each.confusion(), each.class_names))
        if row.f1 == row.f1
    ]


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
