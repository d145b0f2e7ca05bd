"""Trainings that are kept and compared: scores, differences and intervals, re-derived, and the file they stand in."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from base.label_space import LabelSpace
from benchmarks.trainings import COLUMNS, Figure, TestImages, Trainings, as_letters, from_letters
from inference.scoring.intervals import Score, counts_by_person, student
from utils.errors import ConfigError

LABELS = LabelSpace(
    {
        "mask": {"classes": ["wear", "incorrect", "not_wear"]},
        "gender": {"classes": ["male", "female"]},
        "age": {"bins": [30, 60]},
    }
)
PERSONS = 40


def drawn(right: float, seed: int, truth: np.ndarray) -> np.ndarray:
    """Answers of which so many are right."""
    stream = np.random.default_rng(seed)
    return np.where(stream.random(len(truth)) < right, truth, stream.integers(0, 18, len(truth)))


@pytest.fixture(scope="module")
def trainings() -> Trainings:
    truth = np.random.default_rng(0).integers(0, 18, 7 * PERSONS)
    images = TestImages.of(LABELS, [str(number // 7) for number in range(len(truth))], torch.from_numpy(truth))
    predicted = {
        "good": {seed: drawn(0.7, seed, truth) for seed in (1, 2, 3)},
        "bad": {seed: drawn(0.4, 10 + seed, truth) for seed in (2, 3, 4)},
    }
    return Trainings(images, {"good": {}, "bad": {}}, predicted)


def test_a_score_is_scikit_learns_and_its_interval_is_for_other_persons_and_seeds(trainings: Trainings) -> None:
    for column in COLUMNS[:3]:
        figure = trainings.figure("good", column)
        truth = trainings.images.joint if column.attribute == "answer" else trainings.images.joint // 6
        models = [each if column.attribute == "answer" else each // 6 for each in trainings.predicted["good"].values()]
        if column.kind == "macro_f1":
            assert figure.seeds == pytest.approx([f1_score(truth, each, average="macro") for each in models])
        else:
            assert figure.seeds == pytest.approx([float((truth == each).mean()) for each in models])
        persons = Score.mean([column.score(each) for each in counts_by_person(truth, models, trainings.images.persons)])
        mean, low = statistics.fmean(figure.seeds), persons.interval()[0]
        of_seeds = student(2) * statistics.stdev(figure.seeds) / math.sqrt(3)
        assert figure.interval[0] == pytest.approx(mean - math.hypot(mean - low, of_seeds))


def test_a_difference_is_of_the_seeds_that_both_have(trainings: Trainings) -> None:
    truth = trainings.images.joint
    found = trainings.difference("good", "bad", COLUMNS[1])
    assert found is not None
    right = [
        (trainings.predicted["good"][seed] == truth).astype(float) - (trainings.predicted["bad"][seed] == truth)
        for seed in (2, 3)
    ]
    assert found.seeds == pytest.approx([float(each.mean()) for each in right])
    assert found.is_decided
    of_persons = np.mean(right, axis=0).reshape(PERSONS, 7).mean(axis=1)  # each person has as many images
    half = student(PERSONS - 1) * of_persons.std(ddof=1) / math.sqrt(PERSONS)
    of_seeds = student(1) * statistics.stdev(found.seeds) / math.sqrt(2)
    assert found.interval[1] - statistics.fmean(found.seeds) == pytest.approx(math.hypot(half, of_seeds), rel=0.01)
    assert trainings.difference("good", "good", COLUMNS[0]) == Figure([0.0] * 3, (0.0, 0.0), False)


def test_what_is_kept_is_read_again_and_other_images_are_refused(trainings: Trainings, tmp_path: Path) -> None:
    file = tmp_path / "kept.json"
    kept = Trainings.open(file, trainings.images)
    assert not kept.has("good", 1, {"seed": 1})
    kept.keep(file, "good", 1, {"seed": 1}, trainings.predicted["good"][1])
    again = Trainings.open(file, trainings.images)
    assert again.has("good", 1, {"seed": 1})
    assert not again.has("good", 2, {"seed": 1})
    assert np.array_equal(again.predicted["good"][1], trainings.predicted["good"][1])
    with pytest.raises(ConfigError):
        again.has("good", 1, {"seed": 2})
    others = TestImages(LABELS, trainings.images.persons, trainings.images.joint[::-1])
    with pytest.raises(ConfigError):
        Trainings.open(file, others)
    unknown = np.array([0, 17, -1])
    assert np.array_equal(from_letters(as_letters(unknown)), unknown)
    stored = json.loads(file.read_text(encoding="utf-8"))
    assert stored["predicted"]["good"]["1"] == as_letters(again.predicted["good"][1])


def test_the_table_compares_the_baseline_with_each(trainings: Trainings) -> None:
    scores, differences = trainings.tables({"good": "Good", "bad": "Bad", "missing": "Missing"}, "good").split("\n\n")
    firsts = [line.split(" | ")[0] for line in scores.splitlines()[2:]]
    assert firsts == ["| the most frequent class", "| Good", "| Bad"]
    [row] = differences.splitlines()[2:]
    found = trainings.difference("good", "bad", COLUMNS[0])
    assert found is not None
    assert row.startswith(f"| Bad | 2 | {found.text('+')} |")
