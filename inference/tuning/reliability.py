"""How far probabilities can be taken at their word: the reliability diagram, and the expected calibration error.

Images are sorted into bins by the probability of the class that they are given. Of a calibrated model as large a share
of a bin is right as its probabilities say on the mean:

    ECE = sum over bins b of  n_b / N * | share right in b - mean probability in b |              (Naeini et al. 2015)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from base.label_space import LabelSpace
from inference.scoring.intervals import number_persons
from inference.tuning.calibration import Calibration
from utils.random_streams import numpy_stream

NUM_BINS = 10
"""Of equal width."""

NUM_FOLDS = 5
"""Of persons, for temperatures that are fitted on others than those that they are applied to."""

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Reliability:
    """confidence: the mean probability of the predicted class, by bin, (B,), NaN in an empty one
    right: the share of images that are right, (B,), NaN in an empty one
    count: images, (B,)
    """

    confidence: np.ndarray
    right: np.ndarray
    count: np.ndarray

    @classmethod
    def of(cls, probabilities: np.ndarray, truth: np.ndarray) -> Reliability:
        """probabilities: (N, C); truth: (N,), each known"""
        predicted = probabilities.argmax(axis=1)
        confidence = probabilities[np.arange(len(truth)), predicted].clip(0, 1)
        bins = np.minimum((confidence * NUM_BINS).astype(np.int64), NUM_BINS - 1)
        count = np.bincount(bins, minlength=NUM_BINS)
        with np.errstate(invalid="ignore"):
            sums = (np.bincount(bins, weights=each, minlength=NUM_BINS) for each in (confidence, predicted == truth))
            mean, right = (each / count for each in sums)
        return cls(mean, right, count)

    @property
    def ece(self) -> float:
        """The expected calibration error, 0 to 1; NaN without an image."""
        if not self.count.sum():
            return float("nan")
        used = self.count > 0
        gaps = np.abs(self.right - self.confidence)[used]
        return float((gaps * self.count[used]).sum() / self.count.sum())


def cross_fitted(labels: LabelSpace, by_head: Arrays, truth: Arrays, persons: Sequence[str]) -> Arrays | None:
    """The probabilities by head after temperature scaling, where each person's temperatures are fitted on others: on
    those that they are fitted on they would look better than they are. None for fewer persons than two a fold.

    by_head: (N, C); truth: by attribute, (N,), -1 = unknown; persons: (N,)"""
    person_of = number_persons(persons)
    num_persons = int(person_of.max(initial=-1)) + 1
    if num_persons < 2 * NUM_FOLDS:
        return None
    fold_of = numpy_stream(0, "temperature folds").permutation(num_persons)[person_of] % NUM_FOLDS
    calibrated = {name: np.array(table, dtype=np.float64) for name, table in by_head.items()}
    for fold in range(NUM_FOLDS):
        own, others = fold_of == fold, fold_of != fold
        fitted = Calibration.fit(
            labels,
            {name: table[others] for name, table in by_head.items()},
            {name: classes[others] for name, classes in truth.items()},
            "temperature",
        )
        for name, table in fitted.apply(labels, {name: table[own] for name, table in by_head.items()}).items():
            calibrated[name][own] = table
    return calibrated
