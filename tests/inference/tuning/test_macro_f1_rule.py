"""The rule for macro F1 against brute force and what is known of two classes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from sklearn.metrics import f1_score

from inference.tuning.macro_f1_rule import Rule, macro_f1
from utils.random_streams import numpy_stream


def expected_macro_f1(posteriors: np.ndarray, share: np.ndarray, answers: np.ndarray) -> float:
    """Of a population in which point x has `share[x]` of the images, and class k there with `posteriors[x, k]`."""
    mass = posteriors * share[:, None]
    answered = np.eye(posteriors.shape[1])[answers]
    right, total = (mass * answered).sum(axis=0), mass.sum(axis=0) + (answered * share[:, None]).sum(axis=0)
    return float((2 * right / total).mean())


def test_near_the_best_of_all_classifiers() -> None:
    """Populations of seven points and three classes, whose 3^7 classifiers are all tried; none is far better, and the
    arg max is."""
    stream = numpy_stream(2, "small populations")
    lost, lost_by_arg_max = [], []
    for _ in range(40):
        posteriors = stream.dirichlet([1.5, 0.6, 0.25], size=7)
        counts = stream.integers(1, 9, 7)
        share = counts / counts.sum()
        best = max(
            expected_macro_f1(posteriors, share, np.array(answers)) for answers in itertools.product(range(3), repeat=7)
        )
        table = np.repeat(posteriors, counts, axis=0)
        own = expected_macro_f1(posteriors, share, Rule.for_macro_f1(table).decide(posteriors))
        lost.append(best - own)
        lost_by_arg_max.append(best - expected_macro_f1(posteriors, share, posteriors.argmax(axis=1)))
    assert np.mean(lost) < 0.01
    assert np.mean(lost) < np.mean(lost_by_arg_max) / 5
    assert all(own <= plain + 1e-9 for own, plain in zip(lost, lost_by_arg_max, strict=True))


def test_a_rare_class_is_answered_from_half_its_f1_on() -> None:
    """Ten thousand images whose rare class has 0 to 40 %: the best threshold of one number, found by trying all."""
    rare = np.sort(numpy_stream(3, "rare").random(10_000)) * 0.4
    table = np.stack([1 - rare, rare], axis=1)
    answers = Rule.for_macro_f1(table).decide(table)
    mean = rare.mean()

    def score(threshold: float) -> float:
        own = rare[rare >= threshold]
        f1 = 2 * own.sum() / (mean * 10_000 + len(own))
        others = (1 - rare[rare < threshold]).sum()
        return float(f1 + 2 * others / (10_000 * (1 - mean) + 10_000 - len(own)))

    best = max(np.linspace(0.01, 0.39, 200), key=score)
    assert rare[answers == 1].min() == pytest.approx(best, abs=0.01)


def test_macro_f1_is_scikit_learns() -> None:
    stream = numpy_stream(5, "classes")
    truth, predicted = stream.integers(-1, 5, 80), stream.integers(0, 7, 80)
    known = truth >= 0
    expected = f1_score(truth[known], predicted[known], average="macro", zero_division=0)
    assert macro_f1(truth, predicted) == pytest.approx(expected)
