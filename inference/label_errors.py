"""Suspicious labels: those that confident learning finds in predictions by models that did not train on them."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from base.batch import UNKNOWN
from utils.errors import ConfigError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SuspiciousLabel:
    """A label that is probably wrong.

    attribute: whose label it is
    rows: of the images that have it: one, or all of a person's
    of_person: whether it is a person's
    given, suggested: scored classes
    p_given, p_suggested: their probabilities; of a person the mean over the images
    """

    attribute: str
    rows: list[int]
    of_person: bool
    given: int
    suggested: int
    p_given: float
    p_suggested: float


def suspicious_labels(
    truth: Mapping[str, np.ndarray], probabilities: Mapping[str, np.ndarray], persons: Sequence[str]
) -> list[SuspiciousLabel]:
    """By attribute, the likeliest errors first (the least probability of the given class).

    truth: by attribute the scored class, (N,) int64, -1 = unknown
    probabilities: by attribute, (N, S), by models that did not train on the images
    persons: (N,); an attribute that never differs within a person is examined person by person

    Confident learning (Northcutt, Jiang & Chuang 2021) estimates how often each class is labelled as each other one,
    with a threshold of confidence for each class, and takes so many of the least confident; see `find_label_issues` of
    cleanlab, which is asked head by head. Raises ConfigError where cleanlab is missing."""
    try:
        from cleanlab.filter import find_label_issues
    except ImportError:
        raise ConfigError('finding label errors needs the package "cleanlab": pip install cleanlab') from None
    found = []
    for name, classes in truth.items():
        groups = _groups(classes, persons)
        labels = np.array([classes[rows[0]] for rows in groups], dtype=np.int64)
        predicted = np.array([probabilities[name][rows].mean(axis=0) for rows in groups], dtype=np.float64)
        if len(np.unique(labels)) < 2:
            logger.warning("%s: fewer than two classes are known; it is left out", name)
            continue
        predicted /= predicted.sum(axis=1, keepdims=True)
        issues = find_label_issues(labels, predicted, return_indices_ranked_by="self_confidence", n_jobs=1)
        for group in issues.tolist():
            others = np.where(np.arange(predicted.shape[1]) == labels[group], -1, predicted[group])
            found.append(
                SuspiciousLabel(
                    name, groups[group], _is_of_persons(classes, persons), int(labels[group]), int(others.argmax()),
                    float(predicted[group, labels[group]]), float(others.max()),
                )
            )  # fmt: skip
    return found


def _groups(classes: np.ndarray, persons: Sequence[str]) -> list[list[int]]:
    """The rows that share a label: those of a person, or each for itself; without unknown ones."""
    known = np.flatnonzero(classes != UNKNOWN).tolist()
    if not _is_of_persons(classes, persons):
        return [[row] for row in known]
    by_person = defaultdict(list)
    for row in known:
        by_person[persons[row]].append(row)
    return list(by_person.values())


def _is_of_persons(classes: np.ndarray, persons: Sequence[str]) -> bool:
    """Whether some persons have several images, and each of them one class."""
    known = [(person, value) for person, value in zip(persons, classes.tolist(), strict=True) if value != UNKNOWN]
    number = len({person for person, _ in known})
    return len(set(known)) == number < len(known)
