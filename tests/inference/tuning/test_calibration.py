"""Temperatures and shifts, against a plain search for the same optimum."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.optimize import minimize  # type: ignore[import-untyped]

from base.label_space import LabelSpace
from inference.tuning.calibration import Calibration
from tests.inference.tuning.drawn_predictions import LABELS, drawn_runs
from utils.random_streams import numpy_stream


def arrays(confidence: float, age_bias: float = 0.0) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    (run,) = drawn_runs(400, 1, confidence=confidence, age_bias=age_bias)
    by_head = {name: table.double().numpy() for name, table in run.table.by_head.items()}
    return by_head, {name: classes.numpy() for name, classes in run.table.truth.items()}


def test_the_temperature_of_exact_posteriors_is_found() -> None:
    for confidence in (0.6, 1.0, 1.7):
        found = Calibration.fit(LABELS, *arrays(confidence), "temperature")
        assert found.temperatures == pytest.approx(dict.fromkeys(LABELS.heads, confidence), rel=0.12)
        assert not np.any(list(itertools.chain(*found.shifts.values())))


def test_shifts_move_the_cuts_back() -> None:
    """Log odds that are too high by 0.8 for each older class, and a temperature of 1.5."""
    found = Calibration.fit(LABELS, *arrays(1.5, 0.8), "shift")
    assert found.temperatures["age"] == pytest.approx(1.5, rel=0.12)
    assert found.shifts["age"] == pytest.approx([0, -0.8, -1.6], abs=0.25)
    assert found.shifts["gender"] == pytest.approx([0, 0], abs=0.15)


def test_the_optimum_is_that_of_a_search_without_gradients() -> None:
    """A head of gender and age, trained on finer ages; half the genders are unknown."""
    labels = LabelSpace(
        {
            "gender": {"classes": ["male", "female"]},
            "age": {"bins": [30, 60], "training_bins": [20, 30, 45, 60]},
        },
        {"both": ["gender", "age"]},
    )
    stream = numpy_stream(4, "calibration")
    table = stream.dirichlet(np.full(10, 0.7), size=60)
    truth = {"gender": stream.integers(0, 2, 60), "age": stream.integers(0, 3, 60)}
    truth["gender"][::2] = -1
    found = Calibration.fit(labels, {"both": table}, truth, "shift")

    gender, training_age = np.divmod(np.arange(10), 5)
    age = np.array([0, 0, 1, 1, 2])[training_age]

    def loss(parameters: np.ndarray) -> float:
        log_temperature, female, middle, old = parameters
        total = float((parameters**2).sum() / 2)
        for row in range(1, 60, 2):
            z = [
                np.log(max(table[row, c], 1e-7)) / np.exp(log_temperature)
                + (female if gender[c] else 0) + (0, middle, old)[age[c]]
                for c in range(10)
            ]  # fmt: skip
            raised = np.exp(z)
            right = (gender == truth["gender"][row]) & (age == truth["age"][row])
            total -= np.log(raised[right].sum() / raised.sum())
        return total

    best = minimize(loss, np.zeros(4), method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-9, "maxiter": 4000})
    fitted = np.array([np.log(found.temperatures["both"]), found.shifts["gender"][1], *found.shifts["age"][1:]])
    assert loss(fitted) == pytest.approx(best.fun, abs=1e-5)
    assert fitted == pytest.approx(best.x, abs=0.01)
    calibrated = found.apply(labels, {"both": table})["both"]
    assert calibrated.sum(axis=1) == pytest.approx(np.ones(60))
    z = np.log(np.clip(table[1], 1e-7, None)) / found.temperatures["both"]
    z += np.array(found.shifts["gender"])[gender] + np.array(found.shifts["age"])[age]
    assert calibrated[1] == pytest.approx(np.exp(z) / np.exp(z).sum())


def test_nothing_known_leaves_a_head_as_it_is() -> None:
    by_head, truth = arrays(1.5)
    truth["age"] = np.full_like(truth["age"], -1)
    found = Calibration.fit(LABELS, by_head, truth, "shift")
    assert found.temperatures["age"] == 1
    assert found.apply(LABELS, by_head)["age"] is by_head["age"]
