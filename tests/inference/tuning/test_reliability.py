"""The reliability diagram and its error, against plain loops; temperatures that never see whom they are applied to."""

from __future__ import annotations

import math

import numpy as np
import pytest

from inference.scoring.intervals import number_persons
from inference.tuning.calibration import Calibration
from inference.tuning.reliability import NUM_BINS, NUM_FOLDS, Reliability, cross_fitted
from tests.inference.tuning.drawn_predictions import LABELS, drawn_runs


def test_the_error_is_that_of_a_loop_over_bins() -> None:
    stream = np.random.default_rng(5)
    probabilities = stream.dirichlet(np.full(3, 0.6), size=200)
    probabilities[0] = [0.0, 1.0, 0.0]  # belongs to the last bin
    truth = stream.integers(0, 3, 200)
    found = Reliability.of(probabilities, truth)
    expected = 0.0
    for number in range(NUM_BINS):
        low, high = number / NUM_BINS, (number + 1) / NUM_BINS
        inside = [
            (max(row), float(list(row).index(max(row)) == own))
            for row, own in zip(probabilities.tolist(), truth.tolist(), strict=True)
            if low <= max(row) < high or (max(row) == 1 and number == NUM_BINS - 1)
        ]
        assert found.count[number] == len(inside)
        if inside:
            gap = sum(right for _, right in inside) - sum(sure for sure, _ in inside)
            expected += abs(gap) / 200
            assert found.right[number] == pytest.approx(sum(right for _, right in inside) / len(inside))
        else:
            assert math.isnan(found.right[number])
    assert found.ece == pytest.approx(expected)


def test_a_temperature_of_others_calibrates_without_their_own_truth() -> None:
    (run,) = drawn_runs(150, 3, confidence=2.5)
    heads = {name: table.double().numpy() for name, table in run.table.by_head.items()}
    truth = {name: classes.numpy() for name, classes in run.table.truth.items()}
    calibrated = cross_fitted(LABELS, heads, truth, run.table.persons)
    assert calibrated is not None
    before, after = (Reliability.of(each["age"], truth["age"]).ece for each in (heads, calibrated))
    assert after < before / 2

    person_of = number_persons(run.table.persons)
    other_truth = {name: np.where(person_of == 7, (classes + 1) % 2, classes) for name, classes in truth.items()}
    again = cross_fitted(LABELS, heads, other_truth, run.table.persons)
    assert again is not None
    np.testing.assert_array_equal(again["mask"][person_of == 7], calibrated["mask"][person_of == 7])
    assert (again["mask"] != calibrated["mask"]).any()
    fitted_on_all = Calibration.fit(LABELS, heads, truth, "temperature").apply(LABELS, heads)
    assert all(np.abs(fitted_on_all[name] - calibrated[name]).max() < 0.05 for name in heads)


def test_too_few_persons_have_no_others() -> None:
    (run,) = drawn_runs(2 * NUM_FOLDS - 1, 1)
    heads = {name: table.double().numpy() for name, table in run.table.by_head.items()}
    truth = {name: classes.numpy() for name, classes in run.table.truth.items()}
    assert cross_fitted(LABELS, heads, truth, run.table.persons) is None
