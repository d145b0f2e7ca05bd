"""Weights of several runs' probabilities: convex ones by likelihood, and greedy ones by macro F1.

pool: of the runs
by_head: of each run, by head the probabilities (N, C)
truth: by attribute the scored class, (N,), -1 = unknown
All return weights (M,) that sum to 1; some may be 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from base.batch import UNKNOWN
from inference.tuning.calibration import Arrays
from inference.tuning.decision import Pool, attributes_of, truth_of_targets
from inference.tuning.macro_f1_rule import macro_f1

GREEDY_ROUNDS = 25
EM_STEPS = 200


def equal_weights(pool: Pool, by_head: Sequence[Arrays], truth: Arrays) -> np.ndarray:  # noqa: ARG001
    """The mean of all runs."""
    return np.full(len(by_head), 1 / len(by_head))


def convex_weights(pool: Pool, by_head: Sequence[Arrays], truth: Arrays) -> np.ndarray:
    """The mixture under which the true classes of the attributes are likeliest, by expectation maximisation: the
    likelihood is concave in the weights, and each step raises it."""
    runs = [attributes_of(*each) for each in zip(pool.models, by_head, strict=True)]
    columns = []
    for name, classes in truth.items():
        rows = np.flatnonzero(classes != UNKNOWN)
        columns.append(np.stack([run[name][rows, classes[rows]] for run in runs]))
    likelihoods = np.concatenate(columns, axis=1) + 1e-12  # (M, attributes of images)
    weights = equal_weights(pool, by_head, truth)
    for _ in range(EM_STEPS):
        joint = weights[:, None] * likelihoods
        updated = (joint / joint.sum(axis=0)).mean(axis=1)
        moved, weights = np.abs(updated - weights).max(), updated
        if moved < 1e-6:
            break
    weights[weights < 1e-3] = 0
    return np.asarray(weights / weights.sum())


def greedy_weights(pool: Pool, by_head: Sequence[Arrays], truth: Arrays) -> np.ndarray:
    """Ensemble selection (Caruana et al. 2004): the run that raises the macro F1 of the mean most is added again and
    again, with replacement; the best mean on the way is taken, of equals the earliest."""
    runs = [pool.targets_of(*each) for each in zip(pool.models, by_head, strict=True)]
    of_targets = truth_of_targets(pool.labels, truth, pool.by_attribute)
    counts, best, best_score = np.zeros(len(runs)), equal_weights(pool, by_head, truth), -1.0
    total = {name: np.zeros_like(table) for name, table in runs[0].items()}
    for size in range(1, GREEDY_ROUNDS + 1):
        scores = [
            np.mean(
                [macro_f1(classes, (total[name] + run[name]).argmax(axis=1)) for name, classes in of_targets.items()]
            )
            for run in runs
        ]
        added = int(np.argmax(scores))
        counts[added] += 1
        total = {name: table + runs[added][name] for name, table in total.items()}
        if scores[added] > best_score + 1e-9:
            best, best_score = counts / size, float(scores[added])
    return best


WEIGHTS = {"equal": equal_weights, "convex": convex_weights, "greedy": greedy_weights}
