"""How sure a score is: intervals and paired tests by person.

Photographs of one person are alike: what is independent is the person. A score's standard error is that of the
delete-one-person jackknife (Efron & Tibshirani 1993, chapter 11), and its 95 % interval Student's on the logit scale.
`python -m benchmarks.coverage` measures how often it covers the truth, beside the percentile bootstrap and others;
docs/scores.md has the figures.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from base.batch import UNKNOWN
from utils.random_streams import numpy_stream

TAIL = 0.025
"""Of a 95 % interval, on each side."""

NUM_EXCHANGES = 2000

Interval = tuple[float, float]


@dataclass(frozen=True)
class Counts:
    """What macro F1 and accuracy are made of; rows add up.

    right: (R, C) by row (a person, or a choice of persons) and class: how many images are predicted right
    total: (R, C), how many images are of a class, and how many are predicted as it: 2 TP + FP + FN
    """

    right: np.ndarray
    total: np.ndarray

    @property
    def whole(self) -> Counts:
        """Of all rows together, R = 1."""
        return Counts(self.right.sum(axis=0, keepdims=True), self.total.sum(axis=0, keepdims=True))

    @property
    def without_each(self) -> Counts:
        """Of all rows but one."""
        whole = self.whole
        return Counts(whole.right - self.right, whole.total - self.total)

    def weighted(self, weights: np.ndarray) -> Counts:
        """Of choices of rows; weights: (choices, R), how often each row is in it."""
        return Counts(weights @ self.right, weights @ self.total)

    def macro_f1(self) -> np.ndarray:
        """(R,): the mean of 2 TP / (2 TP + FP + FN) over the classes that are true or predicted; NaN without any."""
        present = self.total > 0
        by_class = np.divide(2 * self.right, self.total, out=np.zeros_like(self.total), where=present)
        with np.errstate(invalid="ignore"):
            return by_class.sum(axis=1) / present.sum(axis=1)

    def accuracy(self) -> np.ndarray:
        """(R,); NaN without any image."""
        with np.errstate(invalid="ignore"):
            return 2 * self.right.sum(axis=1) / self.total.sum(axis=1)


def number_persons(persons: Sequence[str]) -> np.ndarray:
    """(N,): the number of each image's person, 0 to P - 1."""
    return np.unique(np.asarray(persons), return_inverse=True)[1]


def counts_by_person(truth: np.ndarray, predictions: Sequence[np.ndarray], person_of: np.ndarray) -> list[Counts]:
    """The counts (P, C) of several models' predictions of the same images; their columns are the same classes, those
    that are true or predicted by any.

    truth, predictions: (N,) each; truth -1 = unknown
    person_of: (N,), see `number_persons`
    """
    known = truth != UNKNOWN
    persons, num_persons = person_of[known], int(person_of.max(initial=-1)) + 1
    classes, inverse = np.unique(np.stack([each[known] for each in (truth, *predictions)]), return_inverse=True)
    true, *predicted = inverse.reshape(1 + len(predictions), -1)

    def count(of_class: np.ndarray, chosen: np.ndarray | slice = slice(None)) -> np.ndarray:
        cells = persons[chosen] * len(classes) + of_class[chosen]
        counted = np.bincount(cells, minlength=num_persons * len(classes))
        return counted.reshape(num_persons, len(classes)).astype(np.float64)

    of_truth = count(true)
    return [Counts(count(true, true == each), of_truth + count(each)) for each in predicted]


@dataclass(frozen=True)
class Score:
    """A score between 0 and 1, and what is left of it without each person.

    value: of all persons
    without: (P,)
    num_persons: whose images count
    effective_persons: how many persons would make a plain share as sure
    """

    value: float
    without: np.ndarray
    num_persons: int
    effective_persons: float

    @classmethod
    def macro_f1(cls, counts: Counts) -> Score:
        """Each class counts as much as any: the rarest have few persons, and decide how sure the mean is."""
        persons_by_class = (counts.total > 0).sum(axis=0)
        persons_by_class = persons_by_class[persons_by_class > 0]
        harmonic = len(persons_by_class) ** 2 / (1 / persons_by_class).sum()
        num_persons = _num_persons(counts)
        return cls._of(counts.whole.macro_f1(), counts.without_each.macro_f1(), num_persons, min(num_persons, harmonic))

    @classmethod
    def accuracy(cls, counts: Counts) -> Score:
        num_persons = _num_persons(counts)
        return cls._of(counts.whole.accuracy(), counts.without_each.accuracy(), num_persons, num_persons)

    @classmethod
    def f1_of_each_class(cls, counts: Counts) -> list[Score]:
        """In the order of the classes that are true or predicted."""
        columns = np.flatnonzero(counts.total.sum(axis=0) > 0)
        return [cls.macro_f1(Counts(counts.right[:, [each]], counts.total[:, [each]])) for each in columns]

    @classmethod
    def _of(cls, value: np.ndarray, without: np.ndarray, num_persons: int, effective_persons: float) -> Score:
        whole = float(value[0])
        return cls(whole, np.where(np.isnan(without), whole, without), num_persons, effective_persons)

    @classmethod
    def mean(cls, scores: Sequence[Score]) -> Score:
        """The mean of several scores of the same persons: of attributes, or of seeds."""
        return cls(
            float(np.mean([each.value for each in scores])),
            np.mean([each.without for each in scores], axis=0),
            max(each.num_persons for each in scores),
            min(each.effective_persons for each in scores),
        )

    @property
    def standard_error(self) -> float:
        """Of other persons; NaN for one person."""
        return _standard_error(self.value, self.without, self.num_persons)

    def error_of(self, other: Score) -> float:
        """The standard error of the difference to another score of the same persons."""
        return _standard_error(self.value - other.value, self.without - other.without, self.num_persons)

    def interval(self) -> Interval:
        """95 %. Where all images are right (or wrong), the jackknife knows no error: the exact interval of a share of
        `effective_persons` (Clopper & Pearson 1934) is taken. Of one person nothing is known."""
        if self.num_persons < 2:
            return 0.0, 1.0
        rounding = 1e-12
        if self.value > 1 - rounding:
            return TAIL ** (1 / self.effective_persons), 1.0
        if self.value < rounding:
            return 0.0, 1 - TAIL ** (1 / self.effective_persons)
        half = student(self.num_persons - 1) * self.standard_error / (self.value * (1 - self.value))
        logit = math.log(self.value / (1 - self.value))
        return _logistic(logit - half), _logistic(logit + half)


@dataclass(frozen=True)
class Difference:
    """How much a second score of the same persons is above the first.

    value: the difference
    interval: 95 %
    p_value: how often a difference as large would be met if both models were equally good: of each person the two
        models' predictions are exchanged at random (Noreen 1989; Yeh 2000)
    """

    value: float
    interval: Interval
    p_value: float

    @property
    def is_decided(self) -> bool:
        """Whether interval and test agree that there is a difference."""
        low, high = self.interval
        return not low <= 0 <= high and self.p_value < 2 * TAIL


def difference(first: Sequence[Counts], second: Sequence[Counts], kind: str = "macro_f1", seed: int = 0) -> Difference:
    """Of two models on the same images.

    first, second: the counts of each, as `counts_by_person` makes them together; of several attributes their mean
    kind: "macro_f1" or "accuracy"
    """
    make = Score.macro_f1 if kind == "macro_f1" else Score.accuracy
    scores = [Score.mean([make(counts) for counts in each]) for each in (first, second)]
    value = scores[1].value - scores[0].value
    num_persons = scores[0].num_persons
    error = _standard_error(value, scores[1].without - scores[0].without, num_persons)
    half = student(num_persons - 1) * error if num_persons > 1 else math.inf
    exchanged = numpy_stream(seed, "exchange").random((NUM_EXCHANGES, len(scores[0].without))) < 0.5
    weights = exchanged.astype(np.float64)
    sums = np.zeros(NUM_EXCHANGES)
    for one, other in zip(first, second, strict=True):
        moved = Counts(other.right - one.right, other.total - one.total).weighted(weights)
        a, b = one.whole, other.whole
        ones = Counts(a.right + moved.right, a.total + moved.total)
        others = Counts(b.right - moved.right, b.total - moved.total)
        sums += getattr(others, kind)() - getattr(ones, kind)()
    differences = sums / len(first)
    as_large = int((np.abs(differences) >= abs(value) - 1e-12).sum())
    return Difference(value, (value - half, value + half), (1 + as_large) / (1 + NUM_EXCHANGES))


def interval_over_seeds(scores: Sequence[Score]) -> Interval:
    """95 % of the mean score of a config's seeds, for other persons and for other seeds: both errors are independent,
    and their half widths are added in squares (Zou & Donner 2008)."""
    mean = Score.mean(scores)
    low, high = mean.interval()
    half = error_of_seeds([score.value for score in scores])
    low, high = mean.value - math.hypot(mean.value - low, half), mean.value + math.hypot(high - mean.value, half)
    return max(0.0, low), min(1.0, high)


def error_of_seeds(*groups: Sequence[float]) -> float:
    """How far the mean over seeds, or the difference of two, may be off through the seeds: half of the 95 % interval
    (Welch 1947); 0 where no group has several.

    groups: the values of a config's seeds"""
    several = [each for each in groups if len(each) > 1]
    variances = [statistics.variance(each) / len(each) for each in several]
    if not (total := sum(variances)):
        return 0.0
    shares = (variance**2 / (len(each) - 1) for variance, each in zip(variances, several, strict=True))
    return student(total**2 / sum(shares)) * total**0.5


def student(degrees_of_freedom: float) -> float:
    """The upper 2.5 % quantile of Student's t."""
    from scipy.special import stdtrit  # type: ignore[import-untyped] # a quarter of a second

    return float(stdtrit(degrees_of_freedom, 1 - TAIL))


def _standard_error(value: float, without: np.ndarray, num_persons: int) -> float:
    if num_persons < 2:
        return math.nan
    return math.sqrt((num_persons - 1) / num_persons * float(((without - value) ** 2).sum()))


def _num_persons(counts: Counts) -> int:
    return int((counts.total.sum(axis=1) > 0).sum())


def _logistic(logit: float) -> float:
    return 1 / (1 + math.exp(-min(max(logit, -700), 700)))
