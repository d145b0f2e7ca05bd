"""Weights of several runs, against a general optimiser and a plain loop."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize  # type: ignore[import-untyped]
from sklearn.metrics import f1_score

from base.label_space import LabelSpace
from inference.tuning.decision import Pool
from inference.tuning.weights import convex_weights, greedy_weights
from utils.random_streams import numpy_stream

POOL = Pool([LabelSpace({"colour": {"classes": ["a", "b", "c", "d"]}})] * 3)


def drawn(num_images: int = 300) -> tuple[list[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    """Three runs of 4 classes: a good one, a mediocre one, and one that knows nothing."""
    stream = numpy_stream(1, "weights")
    truth = stream.integers(0, 4, num_images)
    runs = []
    for strength in (2.0, 1.2, 0.0):
        logits = strength * np.eye(4)[truth] + stream.normal(size=(num_images, 4))
        runs.append({"colour": np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)})
    truth[::9] = -1
    return runs, {"colour": truth}


def test_convex_weights_are_the_likeliest() -> None:
    runs, truth = drawn()
    known = np.flatnonzero(truth["colour"] >= 0)
    likelihoods = np.stack([run["colour"][known, truth["colour"][known]] for run in runs])
    bounds, sums_to_1 = [(0, 1)] * 3, {"type": "eq", "fun": lambda weights: weights.sum() - 1}
    best = minimize(
        lambda w: -np.log(w @ likelihoods).mean(), np.full(3, 1 / 3), bounds=bounds, constraints=[sums_to_1]
    )
    found = convex_weights(POOL, runs, truth)
    assert found.sum() == pytest.approx(1)
    assert np.log(found @ likelihoods).mean() == pytest.approx(-best.fun, abs=1e-4)
    assert found[0] > found[1] > found[2]


def test_greedy_weights_are_those_of_a_plain_loop() -> None:
    runs, truth = drawn(90)
    known = truth["colour"] >= 0

    def score(members: list[int]) -> float:
        mean = sum(runs[member]["colour"] for member in members)
        predicted = np.asarray(mean).argmax(axis=1)
        return float(f1_score(truth["colour"][known], predicted[known], average="macro"))

    members: list[int] = []
    best: list[int] = []
    for _ in range(25):
        members = [*members, max(range(3), key=lambda run: score([*members, run]))]
        if not best or score(members) > score(best) + 1e-9:
            best = members
    assert greedy_weights(POOL, runs, truth) == pytest.approx(np.bincount(best, minlength=3) / len(best))
