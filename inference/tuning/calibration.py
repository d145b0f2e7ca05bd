"""Calibration of a run's probabilities: a temperature for each head, and a shift between the classes of each attribute.

With z the logarithms of a head's probabilities over its training classes,

    p'(c) = softmax_c(z_c / T + sum over the head's attributes a of b_a[class of c in a]),   b_a[first class] = 0

Temperature scaling: Guo et al. 2017; with shifts: Alexandari et al. 2020 ("bias-corrected temperature scaling"). Of an
attribute with bins, b_a[i] - b_a[i - 1] moves the cut between two neighbouring bins: a head that calls people too young
is corrected without an age being known. Both are fitted by the likelihood of the scored classes, with a standard normal
prior on log T and on each b, so that few persons move them little.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from base.batch import UNKNOWN
from base.label_space import Head, LabelSpace

Level = Literal["none", "temperature", "shift"]
"""What is fitted: nothing, the temperatures, or the temperatures and the shifts."""

LEVELS: tuple[Level, ...] = ("none", "temperature", "shift")
SMALLEST_PROBABILITY = 1e-7

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Calibration:
    """temperatures: by head; shifts: by attribute, of each scored class"""

    temperatures: dict[str, float]
    shifts: dict[str, list[float]]

    @classmethod
    def none(cls, labels: LabelSpace) -> Calibration:
        shifts = {name: [0.0] * len(each.class_names) for name, each in labels.predicted_attributes.items()}
        return cls(dict.fromkeys(labels.heads, 1.0), shifts)

    @classmethod
    def fit(cls, labels: LabelSpace, by_head: Arrays, truth: Arrays, level: Level) -> Calibration:
        """by_head: probabilities (N, C) over each head's training classes
        truth: by attribute the scored class, (N,), -1 = unknown"""
        found = cls.none(labels)
        if level == "none":
            return found
        for name, head in labels.heads.items():
            known = np.all([truth[attribute.name] != UNKNOWN for attribute in head.attributes], axis=0)
            if known.any():
                own = {attribute.name: truth[attribute.name][known] for attribute in head.attributes}
                temperature, shifts = _fit_head(head, by_head[name][known], own, level == "shift")
                found.temperatures[name] = temperature
                found.shifts.update(shifts)
        return found

    def apply(self, labels: LabelSpace, by_head: Arrays) -> dict[str, np.ndarray]:
        """The calibrated probabilities of each head; those of a head that is left as it is, unchanged."""
        calibrated = {}
        for name, head in labels.heads.items():
            shift = sum(
                np.asarray(self.shifts[attribute.name])[classes]
                for attribute, classes in zip(head.attributes, _scored_classes(head), strict=True)
            )
            if self.temperatures[name] == 1 and not np.any(shift):
                calibrated[name] = by_head[name]
            else:
                z = _logits(by_head[name]) / self.temperatures[name] + shift
                calibrated[name] = np.ascontiguousarray(_softmax(z.T).T)
        return calibrated


def _fit_head(
    head: Head, probabilities: np.ndarray, truth: Arrays, with_shifts: bool
) -> tuple[float, dict[str, list[float]]]:
    from scipy.optimize import minimize  # type: ignore[import-untyped] # half a second

    logits = np.ascontiguousarray(_logits(probabilities).T)  # (C, N): sums over few classes are then fast
    scored = _scored_classes(head)
    is_of_truth = np.ones(logits.shape, dtype=bool)
    for attribute, classes in zip(head.attributes, scored, strict=True):
        is_of_truth &= classes[:, None] == truth[attribute.name]
    sizes = [len(attribute.class_names) for attribute in head.attributes]
    # (number of shifts, C): which training classes each shift moves
    moved = np.concatenate([np.arange(1, n)[:, None] == of for n, of in zip(sizes, scored, strict=True)])
    moved = moved.astype(np.float64) if with_shifts else np.zeros((0, len(logits)))

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        """The negative log posterior, and its gradient."""
        inverse = np.exp(-parameters[0])
        p = _softmax(logits * inverse + (parameters[1:] @ moved)[:, None])
        of_truth = p * is_of_truth
        likelihoods = np.maximum(of_truth.sum(axis=0), 1e-300)
        rest = p - of_truth / likelihoods  # d loss / d z
        gradient = np.concatenate([[-(rest * logits).sum() * inverse], moved @ rest.sum(axis=1)])
        return float(-np.log(likelihoods).sum() + (parameters**2).sum() / 2), gradient + parameters

    bounds = [(-3, 3)] + [(-8, 8)] * len(moved)
    found = minimize(loss, np.zeros(1 + len(moved)), jac=True, method="L-BFGS-B", bounds=bounds).x
    shifts, first = {}, 1
    for attribute, size in zip(head.attributes, sizes, strict=True):
        own = found[first : first + size - 1] if with_shifts else np.zeros(size - 1)
        shifts[attribute.name] = [0.0, *map(float, own)]
        first += size - 1
    return float(np.exp(found[0])), shifts


def _scored_classes(head: Head) -> list[np.ndarray]:
    """Of each of the head's attributes, the scored class of each of the head's training classes, (C,)."""
    sizes = [len(attribute.training_class_names) for attribute in head.attributes]
    training = np.unravel_index(np.arange(head.num_classes), sizes)
    return [np.array(each.training_to_scoring)[own] for each, own in zip(head.attributes, training, strict=True)]


def _logits(probabilities: np.ndarray) -> np.ndarray:
    return np.log(np.clip(probabilities.astype(np.float64), SMALLEST_PROBABILITY, None))


def _softmax(z: np.ndarray) -> np.ndarray:
    """(C, N), over the classes."""
    raised = np.exp(z - z.max(axis=0))
    return raised / raised.sum(axis=0)
