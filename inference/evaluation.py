"""How good a set of answers is, with what it must be compared to: its interval, the majority and chance."""

from __future__ import annotations

import logging
from collections.abc import Sequence
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


@dataclass(frozen=True)
class SetScores:
    """The scores of one classification. majority_f1: that of always saying the most frequent class (of each attribute,
    for the combined answer); chance_f1: that of guessing evenly; interval: 95 % of macro F1, by resampling persons."""

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


def tell_scores(
    labels: LabelSpace,
    answers: Tensor,
    said: dict[str, Tensor],
    truth: dict[str, Tensor],
    persons: Sequence[str],
) -> list[SetScores]:
    """As `evaluate_classes`, each score and a table of the combined classes in the log; [] where nothing is known."""
    if all((target == UNKNOWN).all() for target in truth.values()):
        return []
    for line in per_class_table(labels, answers, labels.joint_classes(truth)):
        logger.info("%s", line)
    scores = evaluate_classes(labels, answers, said, truth, persons)
    for row in scores:
        logger.info("%s", row)
    return scores


def evaluate_classes(
    labels: LabelSpace,
    answers: Tensor,
    said: dict[str, Tensor],
    truth: dict[str, Tensor],
    persons: Sequence[str],
) -> list[SetScores]:
    """Scores the combined answer (N,), and what is said of each attribute, (N,) each, against the truth, -1 = unknown.

    What has no known truth at all is left out."""
    majority = {name: torch.full_like(target, _majority_class(target)) for name, target in truth.items()}
    combined_truth = labels.joint_classes(truth)
    rows = [
        ("answer", answers, combined_truth, labels.joint_classes(majority), labels.num_joint_classes),
        *((name, said[name], truth[name], majority[name], len(labels.attributes[name].class_names)) for name in truth),
    ]
    return [_score(*row, persons) for row in rows if (row[2] != UNKNOWN).any()]


def _majority_class(target: Tensor) -> int:
    known = target[target != UNKNOWN]
    return int(known.bincount().argmax()) if len(known) else 0


def _confusion(truth: Tensor, said: Tensor, num_classes: int) -> Tensor:
    counts = ConfusionCounts(num_classes)
    counts.update(truth, said)
    return counts.matrix


def _score(
    name: str, said: Tensor, truth: Tensor, majority: Tensor, num_classes: int, persons: Sequence[str]
) -> SetScores:
    confusion = _confusion(truth, said, num_classes)
    majority_confusion = _confusion(truth, majority, num_classes)
    return SetScores(
        name,
        int(confusion.sum()),
        accuracy(confusion),
        f1(confusion),
        macro_f1_interval(truth, said, num_classes, persons),
        accuracy(majority_confusion),
        f1(majority_confusion),
        chance_macro_f1(confusion),
    )


def chance_macro_f1(confusion: Tensor) -> float:
    """Macro F1 of guessing the classes of `confusion` evenly, from the expected counts: 2 p / (p C + 1) for a class of
    share p among C, the mean over the classes that are there."""
    share = confusion.sum(dim=1).double() / confusion.sum()
    num_classes = len(share)
    return float((2 * share / (share * num_classes + 1))[share > 0].mean())


def macro_f1_interval(
    truth: Tensor, said: Tensor, num_classes: int, persons: Sequence[str], seed: int = 0
) -> tuple[float, float]:
    """The 95 % percentile interval of macro F1 when whole persons are drawn again with replacement (cluster bootstrap,
    Field & Welsh 2007): photographs of one person are not independent."""
    known = (truth != UNKNOWN).numpy()
    _, person_rows = np.unique(np.asarray(persons)[known], return_inverse=True)
    num_persons = int(person_rows.max()) + 1
    by_person = np.zeros((num_persons, num_classes * num_classes), dtype=np.float32)
    np.add.at(by_person, (person_rows, truth.numpy()[known] * num_classes + said.numpy()[known]), 1)
    draws = numpy_stream(seed, "bootstrap").multinomial(
        num_persons, [1 / num_persons] * num_persons, size=NUM_RESAMPLES
    )
    confusions = torch.from_numpy(draws.astype(np.float32) @ by_person).view(NUM_RESAMPLES, num_classes, num_classes)
    low, high = np.nanpercentile([f1(confusion) for confusion in confusions], [2.5, 97.5])
    return float(low), float(high)


def per_class_table(labels: LabelSpace, answers: Tensor, truth: Tensor) -> list[str]:
    """Precision, recall and F1 of each combined class that is true or said, a line each; truth (N,), -1 = unknown."""
    rows = per_class(_confusion(truth, answers, labels.num_joint_classes), labels.joint_class_names)
    return [
        f"{number:>3}  {row.name:<24} {row.support:>6}  "
        f"precision {row.precision:.3f}  recall {row.recall:.3f}  F1 {row.f1:.3f}"
        for number, row in enumerate(rows)
        if row.f1 == row.f1
    ]


def class_distribution(labels: LabelSpace, answers: Tensor) -> list[str]:
    """How many images each combined class was given, a line a class."""
    counts = answers.bincount(minlength=labels.num_joint_classes).tolist()
    rows = zip(labels.joint_class_names, counts, strict=True)
    return [
        f"{number:>3}  {name:<24} {count:>6}  {count / len(answers):6.1%}" for number, (name, count) in enumerate(rows)
    ]
