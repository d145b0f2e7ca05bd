from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_recall_fscore_support

from model import metric


def draw(seed: int, classes: list[int], count: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Truth and prediction, half of it right, over the classes listed."""
    generator = np.random.default_rng(seed)
    truth = generator.choice(classes, count)
    return truth, np.where(generator.random(count) < 0.5, truth, generator.choice(classes, count))


def matrix(truth: np.ndarray, predicted: np.ndarray, num_classes: int) -> torch.Tensor:
    return torch.from_numpy(confusion_matrix(truth, predicted, labels=range(num_classes)))


@pytest.mark.parametrize("classes", [list(range(18)), [0, 3, 17], [5]])
def test_equal_scikit_learn(classes: list[int]) -> None:
    truth, predicted = draw(0, classes)
    truth = np.where(truth == 3, 0, truth)  # a class that is only predicted
    confusion = matrix(truth, predicted, 18)
    assert metric.accuracy(confusion) == pytest.approx(accuracy_score(truth, predicted), abs=1e-12)
    assert metric.f1(confusion) == pytest.approx(f1_score(truth, predicted, average="macro"), abs=1e-12)


def test_nothing_known_is_nan() -> None:
    nothing = torch.zeros(3, 3, dtype=torch.int64)
    assert math.isnan(metric.accuracy(nothing))
    assert math.isnan(metric.f1(nothing))


def test_counts_beyond_what_float32_holds() -> None:
    many = 2**25 + 1
    confusion = torch.tensor([[many, 1], [0, many]])
    assert metric.accuracy(confusion) == pytest.approx(2 * many / (2 * many + 1), abs=1e-14)
    assert metric.accuracy(confusion) < 1


def test_per_class_equals_scikit_learn() -> None:
    truth, predicted = draw(3, [0, 1, 2])
    rows = metric.per_class(matrix(truth, predicted, 3), ["wear", "incorrect", "not_wear"])
    expected = precision_recall_fscore_support(truth, predicted, labels=range(3))
    assert [row.name for row in rows] == ["wear", "incorrect", "not_wear"]
    for index, row in enumerate(rows):
        assert (row.precision, row.recall, row.f1) == pytest.approx([expected[k][index] for k in range(3)], abs=1e-12)
        assert row.support == expected[3][index]


def test_per_class_has_nan_where_nothing_was_counted() -> None:
    row = metric.per_class(torch.tensor([[2, 0], [0, 0]]), ["male", "female"])[1]
    assert math.isnan(row.precision)
    assert math.isnan(row.recall)
    assert math.isnan(row.f1)
    assert row.support == 0
