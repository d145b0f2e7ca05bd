"""Runs' out-of-fold predictions as they might be: drawn from a model whose best answers are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from base.label_space import LabelSpace
from inference.out_of_fold import PredictionTable
from inference.run_predictions import RunPredictions
from utils.random_streams import numpy_stream

LABELS = LabelSpace(
    {
        "mask": {"classes": ["wear", "incorrect", "not_wear"]},
        "gender": {"classes": ["male", "female"]},
        "age": {"bins": [30, 60]},
    }
)
SHARES = {"mask": [5 / 7, 1 / 7, 1 / 7], "gender": [0.4, 0.6], "age": [0.47, 0.46, 0.07]}
DISTANCES = {"mask": 3.5, "gender": 2.2, "age": 1.6}
MASKS = np.array([0, 0, 0, 0, 0, 1, 2])


def drawn_runs(
    num_persons: int, seed: int, num_runs: int = 1, confidence: float = 1.0, age_bias: float = 0.0
) -> list[RunPredictions]:
    """Seven photographs a person. Each class is a Gaussian; a run sees a point of its own, near those of other runs,
    and predicts the exact posterior, to the power of `confidence`, with log odds of `age_bias` for each older class."""
    stream = numpy_stream(seed, "drawn predictions", num_persons)
    person_of = np.repeat(np.arange(num_persons), len(MASKS))
    truth = {
        "mask": np.tile(MASKS, num_persons),
        "gender": stream.choice(2, num_persons, p=SHARES["gender"])[person_of],
        "age": stream.choice(3, num_persons, p=SHARES["age"])[person_of],
    }
    shared = {name: stream.normal(size=(num_persons, 3))[person_of] for name in truth}
    runs = []
    for number in range(num_runs):
        by_head = {}
        for name, classes in truth.items():
            means = np.eye(3)[: len(SHARES[name])] * DISTANCES[name]
            if name == "age":  # on a line: neighbours are alike
                means = np.outer(np.arange(3), [DISTANCES[name], 0, 0])
            points = means[classes] + np.sqrt(0.4) * shared[name] + np.sqrt(0.6) * stream.normal(size=(len(classes), 3))
            logits = np.log(SHARES[name]) - ((points[:, None] - means) ** 2).sum(axis=2) / 2
            logits = confidence * (logits + age_bias * np.arange(len(means)) * (name == "age"))
            by_head[name] = torch.from_numpy(logits).softmax(dim=1).float()
        table = PredictionTable(
            LABELS,
            [f"{row}.jpg" for row in range(len(person_of))],
            [f"person {person}" for person in person_of],
            torch.full((len(person_of),), -1),
            by_head,
            {name: torch.from_numpy(classes) for name, classes in truth.items()},
        )
        runs.append(
            RunPredictions(Path(f"saved/models/Drawn/{number}"), f"Drawn/{number}", {}, table, f"digest {number}")
        )
    return runs
