"""Probes: what frozen features are worth, by simple classifiers on them.

linear    logistic regression of the standardised features, classes weighted by their counts (Alain & Bengio 2016)
kNN       the most similar training images vote, by cosine

The regularisation, and the number of neighbours, are those of the highest macro F1 in folds of the training persons:
the validation persons have no part in them.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from base.batch import UNKNOWN
from data_loader.records import LabelTable
from inference.out_of_fold import PredictionTable
from inference.scoring.evaluation import SetScores
from inference.scoring.intervals import number_persons

Probe = Literal["linear", "kNN"]
PROBES: tuple[Probe, ...] = ("linear", "kNN")
SETTINGS: dict[Probe, Sequence[float]] = {"linear": (0.01, 0.1, 1.0, 10.0, 100.0), "kNN": (1, 5, 20, 50)}
"""What is tried: of the linear probe scikit-learn's C times the number of images, from strong regularisation to weak;
of kNN the number of neighbours."""

NUM_FOLDS = 3
MOST_ITERATIONS = 300


@dataclass(frozen=True)
class ProbeResult:
    """predictions: of the validation images
    scores: theirs, as test.py's
    chosen: by head, the setting that won; None where there was nothing to choose among
    unfinished: so many fits ended before they had converged
    """

    predictions: PredictionTable
    scores: list[SetScores]
    chosen: dict[str, float | None]
    unfinished: int


def run_probe(
    probe: Probe, train: LabelTable, train_features: np.ndarray, validation: LabelTable, features: np.ndarray
) -> ProbeResult:
    """Fits a classifier for each head on its known labels, and scores all of them on the validation images.

    train_features, features: (N, F) of the images of each side"""
    persons = number_persons([record.person for record in train.records])
    by_head, chosen, unfinished = {}, {}, 0
    for name, head in train.label_space.heads.items():
        targets = train.targets[name].numpy()
        known = targets != UNKNOWN
        fit = _Fit(probe, train_features[known], targets[known], persons[known])
        by_head[name] = torch.from_numpy(fit.predict(features, head.num_classes)).float()
        chosen[name] = fit.setting
        unfinished += fit.unfinished
    predictions = PredictionTable.of(validation, None, by_head)
    return ProbeResult(predictions, predictions.scores(), chosen, unfinished)


class _Fit:
    """A classifier of one head.

    features: (N, F); targets, persons: (N,)
    """

    def __init__(self, probe: Probe, features: np.ndarray, targets: np.ndarray, persons: np.ndarray) -> None:
        self.probe, self.features, self.targets = probe, features, targets
        self.setting: float | None = None
        self.unfinished = 0
        if len(np.unique(targets)) > 1:
            self.setting = self._choose(persons)

    def _choose(self, persons: np.ndarray) -> float:
        from sklearn.metrics import f1_score  # seconds
        from sklearn.model_selection import GroupKFold

        settings, num_folds = SETTINGS[self.probe], min(NUM_FOLDS, len(np.unique(persons)))
        if num_folds < 2:
            return settings[len(settings) // 2]
        predicted = {setting: np.full_like(self.targets, UNKNOWN) for setting in settings}
        for fitted, held_out in GroupKFold(num_folds).split(self.features, groups=persons):
            answers = self._answers(fitted, self.features[held_out], settings)
            for setting, (classes, probabilities) in answers.items():
                predicted[setting][held_out] = classes[probabilities.argmax(axis=1)]
        scores = {
            setting: f1_score(self.targets, own, average="macro", zero_division=0) for setting, own in predicted.items()
        }
        return max(settings, key=scores.__getitem__)  # of equal ones the first

    def predict(self, features: np.ndarray, num_classes: int) -> np.ndarray:
        """(N, F) -> (N, C); the one class there is, or each alike where none is known."""
        if self.setting is None:
            known = np.bincount(self.targets, minlength=num_classes).astype(np.float64)
            share = known / known.sum() if known.any() else np.full(num_classes, 1 / num_classes)
            return np.tile(share, (len(features), 1))
        every_image = np.arange(len(self.targets))
        classes, probabilities = self._answers(every_image, features, [self.setting])[self.setting]
        found = np.zeros((len(features), num_classes))
        found[:, classes] = probabilities
        return found

    def _answers(
        self, fitted: np.ndarray, features: np.ndarray, settings: Sequence[float]
    ) -> dict[float, tuple[np.ndarray, np.ndarray]]:
        """By setting, the classes and their probabilities (N, C) of a classifier that has learned from some images.

        fitted: the rows of those"""
        own, targets = self.features[fitted], self.targets[fitted]
        if len(present := np.unique(targets)) < 2:
            return {setting: (present, np.ones((len(features), 1))) for setting in settings}
        own, others = (_standardised if self.probe == "linear" else _unit_length)(own, features)
        found = {}
        for setting, classifier in self._classifiers(own, targets, settings):
            found[setting] = (classifier.classes_, classifier.predict_proba(others))
        return found

    def _classifiers(self, features: np.ndarray, targets: np.ndarray, settings: Sequence[float]) -> Any:
        """By setting, the fitted classifier; valid until the next one is asked for."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
        from sklearn.neighbors import KNeighborsClassifier

        if self.probe == "kNN":
            for setting in settings:
                number = min(int(setting), len(targets))
                yield setting, KNeighborsClassifier(number, weights="distance", metric="cosine").fit(features, targets)
            return
        common = {"class_weight": "balanced", "tol": 1e-3, "max_iter": MOST_ITERATIONS}
        classifier = LogisticRegression(**common, warm_start=True)  # each begins where the one before ended
        for setting in settings:
            classifier.set_params(C=setting / len(targets))
            with warnings.catch_warnings(record=True) as raised:
                warnings.simplefilter("always", ConvergenceWarning)
                classifier.fit(features, targets)
            self.unfinished += any(issubclass(each.category, ConvergenceWarning) for each in raised)
            yield setting, classifier


def _standardised(features: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both by the mean and standard deviation of the first; a feature that is constant there stays 0."""
    mean, std = features.mean(axis=0), features.std(axis=0)
    scale = np.divide(1, std, out=np.zeros_like(std), where=std > 1e-6 * np.abs(mean) + 1e-12)
    return (features - mean) * scale, (others - mean) * scale


def _unit_length(features: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    lengths = (np.linalg.norm(each, axis=1, keepdims=True) for each in (features, others))
    one, other = (np.maximum(length, 1e-12) for length in lengths)
    return features / one, others / other
