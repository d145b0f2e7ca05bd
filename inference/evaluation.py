"""How good a set of answers is, with what it must be compared to: its interval, the majority and chance."""

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
"""The row of the joint class; without one, of the attributes' mean."""


@dataclass(frozen=True)
class SetScores:
    """The scores of one classification.

    interval: 95 % of macro F1, by resampling persons.
    majority_accuracy, majority_f1: of always predicting the class that is most frequent in the truth.
    chance_f1: of guessing evenly."""

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
class _Pair:
    """What is true and what is predicted of one classification, (N,) each; truth -1 = unknown."""

    name: str
    truth: Tensor
    predicted: Tensor
    num_classes: int

    @property
    def known(self) -> Tensor:
        return self.truth != UNKNOWN


def report_scores(
    labels: LabelSpace,
    joint: Tensor | None,
    classes: Mapping[str, Tensor],
    truth: Mapping[str, Tensor],
    persons: Sequence[str],
) -> list[SetScores]:
    """As `evaluate_classes`, each score and a table of the classes in the log; [] where nothing is known."""
    for line in per_class_table(labels, joint, classes, truth):
        logger.info("%s", line)
    scores = evaluate_classes(labels, joint, classes, truth, persons)
    for row in scores:
        logger.info("%s", row)
    return scores


def evaluate_classes(
    labels: LabelSpace,
    joint: Tensor | None,
    classes: Mapping[str, Tensor],
    truth: Mapping[str, Tensor],
    persons: Sequence[str],
) -> list[SetScores]:
    """The scores of the joint class (without one, of the attributes' mean) and of each attribute.

    joint: (N,), None where it is not predicted; classes, truth: by attribute, (N,), truth -1 = unknown.
    persons: (N,), whose images they are.

    What is not predicted, or has no known truth at all, is left out."""
    joint_pair, pairs = _pairs(labels, joint, classes, truth)
    rows = [_score(pair, persons) for pair in pairs]
    if joint_pair is not None:
        return [_score(joint_pair, persons), *rows]
    if labels.has_joint_class or not rows:
        return rows
    known = torch.stack([pair.known for pair in pairs]).any(dim=0)
    mean = {
        key: float(np.mean([getattr(row, key) for row in rows]))
        for key in ("accuracy", "macro_f1", "majority_accuracy", "majority_f1", "chance_f1")
    }
    return [SetScores(JOINT, int(known.sum()), interval=macro_f1_interval(pairs, persons), **mean), *rows]


def _pairs(
    labels: LabelSpace, joint: Tensor | None, classes: Mapping[str, Tensor], truth: Mapping[str, Tensor]
) -> tuple[_Pair | None, list[_Pair]]:
    """The joint class and the attributes that are both predicted and, at least once, known."""
    pairs = [
        _Pair(name, truth[name], classes[name], len(attribute.class_names))
        for name, attribute in labels.predicted_attributes.items()
        if name in truth and name in classes
    ]
    pairs = [pair for pair in pairs if pair.known.any()]
    if joint is None or any(attribute.name not in truth for attribute in labels.joint_attributes):
        return None, pairs
    joint_pair = _Pair(JOINT, labels.joint_classes(truth), joint, labels.num_joint_classes)
    return joint_pair if joint_pair.known.any() else None, pairs


def _score(pair: _Pair, persons: Sequence[str]) -> SetScores:
    confusion = _confusion(pair.truth, pair.predicted, pair.num_classes)
    majority = torch.full_like(pair.truth, int(confusion.sum(dim=1).argmax()))
    majority_confusion = _confusion(pair.truth, majority, pair.num_classes)
    return SetScores(
        pair.name,
        int(confusion.sum()),
        accuracy(confusion),
        f1(confusion),
        macro_f1_interval([pair], persons),
        accuracy(majority_confusion),
        f1(majority_confusion),
        chance_macro_f1(confusion),
    )


def _confusion(truth: Tensor, predicted: Tensor, num_classes: int) -> Tensor:
    counts = ConfusionCounts(num_classes)
    counts.update(truth, predicted)
    return counts.matrix


def chance_macro_f1(confusion: Tensor) -> float:
    """Macro F1 of guessing the classes of `confusion` evenly, from the expected counts: 2 p / (p C + 1) for a class of
    share p among C, the mean over the classes that are there."""
    share = confusion.sum(dim=1).double() / confusion.sum()
    num_classes = len(share)
    return float((2 * share / (share * num_classes + 1))[share > 0].mean())


def macro_f1_interval(pairs: Sequence[_Pair], persons: Sequence[str], seed: int = 0) -> tuple[float, float]:
    """The 95 % percentile interval of macro F1, of several classifications of their mean, when whole persons are drawn
    again with replacement (cluster bootstrap, Field & Welsh 2007): photographs of one person are not independent."""
    known = torch.stack([pair.known for pair in pairs]).any(dim=0).numpy()
    _, person_of = np.unique(np.asarray(persons)[known], return_inverse=True)
    num_persons = int(person_of.max()) + 1
    draws = numpy_stream(seed, "bootstrap").multinomial(
        num_persons, [1 / num_persons] * num_persons, size=NUM_RESAMPLES
    )
    scores = [_resampled_macro_f1(pair, known, person_of, draws.astype(np.float32)) for pair in pairs]
    low, high = np.nanpercentile(np.nanmean(scores, axis=0), [2.5, 97.5])
    return float(low), float(high)


def _resampled_macro_f1(pair: _Pair, chosen: np.ndarray, person_of: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Macro F1 of each resample, (R,). draws: (R, P), how often each person is drawn; person_of: of the chosen rows."""
    truth, predicted = pair.truth.numpy()[chosen], pair.predicted.numpy()[chosen]
    known = truth != UNKNOWN
    truth, predicted, person_of = truth[known], predicted[known], person_of[known]
    present, both = np.unique(np.concatenate([truth, predicted]), return_inverse=True)
    truth, predicted = both[: len(truth)], both[len(truth) :]

    def drawn(rows: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """How many samples of each class the resamples have, (R, C)."""
        by_person = np.zeros((draws.shape[1], len(present)), dtype=np.float32)
        np.add.at(by_person, (rows, classes), 1)
        return draws @ by_person

    right = truth == predicted
    total = drawn(person_of, truth) + drawn(person_of, predicted)  # 2 TP + FN + FP
    with np.errstate(invalid="ignore"):
        by_class = 2 * drawn(person_of[right], truth[right]) / total
    counted = ~np.isnan(by_class)
    return np.where(counted, by_class, 0).sum(axis=1) / np.where(counted.any(axis=1), counted.sum(axis=1), np.nan)


def per_class_table(
    labels: LabelSpace, joint: Tensor | None, classes: Mapping[str, Tensor], truth: Mapping[str, Tensor]
) -> list[str]:
    """Precision, recall and F1 of each joint class that is true or predicted, a line each; where the joint class is not
    known, those of each attribute's classes."""
    joint_pair, pairs = _pairs(labels, joint, classes, truth)
    lines = []
    for pair in pairs if joint_pair is None else [joint_pair]:
        names = labels.joint_class_names if joint_pair else labels.attributes[pair.name].class_names
        prefix = "" if joint_pair else f"{pair.name} "
        lines += [
            f"{number:>3}  {prefix + row.name:<24} {row.support:>6}  "
            f"precision {row.precision:.3f}  recall {row.recall:.3f}  F1 {row.f1:.3f}"
            for number, row in enumerate(per_class(_confusion(pair.truth, pair.predicted, pair.num_classes), names))
            if row.f1 == row.f1
        ]
    return lines


def class_distribution(labels: LabelSpace, joint: Tensor | None, classes: Mapping[str, Tensor]) -> list[str]:
    """How many images each joint class, or each attribute's class, was given: a line a class."""
    if joint is not None:
        return _distribution("", labels.joint_class_names, joint)
    return [
        line
        for name, own in classes.items()
        for line in _distribution(f"{name} ", labels.attributes[name].class_names, own)
    ]


def _distribution(prefix: str, names: Sequence[str], predicted: Tensor) -> list[str]:
    counts = predicted.bincount(minlength=len(names)).tolist()
    return [
        f"{number:>3}  {prefix + name:<24} {count:>6}  {count / len(predicted):6.1%}"
        for number, (name, count) in enumerate(zip(names, counts, strict=True))
    ]
