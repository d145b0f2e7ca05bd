"""The metrics that a config may name: functions of the confusion matrix of a whole set.

confusion: (C, C) counts, [true, predicted], on any device. Higher is better, unless the function has
`direction = "min"`. A plug-in's may be functions of (output, target), too: see base/metrics.py.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from torch import Tensor

from base.metrics import Metric, OutputMetric, f1_by_class, num_positional

__all__ = ["accuracy", "f1"]


@dataclass(frozen=True)
class ClassScores:
    """The scores of one class, 0 to 1 or NaN where nothing was counted.

    support: number of samples of the class
    """

    name: str
    precision: float
    recall: float
    f1: float
    support: int


def accuracy(confusion: Tensor) -> float:
    """The share of samples that are right; NaN if there are none."""
    counts = confusion.double()
    return float(counts.diagonal().sum() / counts.sum())


def f1(confusion: Tensor) -> float:
    """Macro F1: the mean of 2 TP / (2 TP + FP + FN) over the classes that are true or predicted at least once, as
    scikit-learn's `f1_score(average="macro")`; NaN if there are no samples."""
    return float(f1_by_class(confusion).nanmean())


def as_metric(found: Any) -> Metric | OutputMetric | None:
    """A plug-in's function, where it can be a metric: of a confusion matrix, or of (output, target)."""
    return found if inspect.isfunction(found) and num_positional(found) in (1, 2) else None


def direction_of(metric: Metric | OutputMetric) -> Literal["min", "max"]:
    """Which way the metric gets better."""
    return cast(Literal["min", "max"], getattr(metric, "direction", "max"))


def per_class(confusion: Tensor, class_names: Sequence[str]) -> list[ClassScores]:
    """Precision, recall, F1 and support of each class, in the order of the classes."""
    counts = confusion.double()
    right, support = counts.diagonal(), confusion.sum(dim=1)
    columns = (right / counts.sum(dim=0), right / support, f1_by_class(confusion), support)
    rows = zip(class_names, *(column.tolist() for column in columns), strict=True)
    return [ClassScores(name, *scores) for name, *scores in rows]
