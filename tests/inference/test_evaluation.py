"""Scores beside what they must be compared to, against scikit-learn and brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.dummy import DummyClassifier
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support

from base.label_space import LabelSpace
from inference.evaluation import SetScores, class_distribution, evaluate_classes, macro_f1_interval, per_class_table
from utils.random_streams import numpy_stream

LABELS = LabelSpace(
    {
        "mask": {"classes": ["wear", "incorrect", "not_wear"]},
        "gender": {"classes": ["male", "female"]},
        "age": {"bins": [30, 60]},
    }
)
NUM_IMAGES = 700


@pytest.fixture
def truth() -> np.ndarray:
    return numpy_stream(1, "truth").choice(18, NUM_IMAGES, p=np.arange(1, 19) / 171)


@pytest.fixture
def said(truth: np.ndarray) -> np.ndarray:
    stream = numpy_stream(2, "said")
    return np.where(stream.random(NUM_IMAGES) < 0.6, truth, stream.integers(0, 18, NUM_IMAGES))


PERSONS = [str(number // 7) for number in range(NUM_IMAGES)]


def evaluate_answers(said: torch.Tensor, truth: torch.Tensor) -> list[SetScores]:
    return evaluate_classes(LABELS, said, LABELS.attribute_classes(said), LABELS.attribute_classes(truth), PERSONS)


def test_the_table_of_classes_equals_scikit_learn(truth: np.ndarray, said: np.ndarray) -> None:
    lines = per_class_table(LABELS, torch.from_numpy(said), torch.from_numpy(truth))
    columns = precision_recall_fscore_support(truth, said)
    assert len(lines) == 18
    for number, line in enumerate(lines):
        precision, recall, f1, support = (column[number] for column in columns)
        assert line.startswith(f"{number:>3}  {LABELS.joint_class_names[number]} ")
        assert line.split()[-7:] == [
            str(support), "precision", f"{precision:.3f}", "recall", f"{recall:.3f}", "F1", f"{f1:.3f}"
        ]  # fmt: skip


def test_scores_equal_scikit_learn(truth: np.ndarray, said: np.ndarray) -> None:
    rows = evaluate_answers(torch.from_numpy(said), torch.from_numpy(truth))
    parts = {"answer": lambda a: a, "mask": lambda a: a // 6, "gender": lambda a: a // 3 % 2, "age": lambda a: a % 3}
    assert [row.name for row in rows] == list(parts)
    for row in rows:
        true, predicted = parts[row.name](truth), parts[row.name](said)
        assert row.accuracy == pytest.approx(accuracy_score(true, predicted))
        assert row.macro_f1 == pytest.approx(f1_score(true, predicted, average="macro"))
        assert row.num_images == NUM_IMAGES
        if row.name != "answer":
            constant = DummyClassifier(strategy="most_frequent").fit(np.zeros((NUM_IMAGES, 1)), true)
            constant_said = constant.predict(np.zeros((NUM_IMAGES, 1)))
            assert row.majority_f1 == pytest.approx(f1_score(true, constant_said, average="macro", zero_division=0))
            assert row.majority_accuracy == pytest.approx(accuracy_score(true, constant_said))


def test_the_majority_of_the_answer_is_that_of_each_attribute(truth: np.ndarray, said: np.ndarray) -> None:
    """Which need not be the most frequent answer."""
    modes = [np.bincount(part).argmax() for part in (truth // 6, truth // 3 % 2, truth % 3)]
    constant = np.full(NUM_IMAGES, modes[0] * 6 + modes[1] * 3 + modes[2])
    row = evaluate_answers(torch.from_numpy(said), torch.from_numpy(truth))[0]
    assert row.majority_accuracy == pytest.approx(accuracy_score(truth, constant))
    assert row.majority_f1 == pytest.approx(f1_score(truth, constant, average="macro", zero_division=0))


def test_chance_is_what_guessing_evenly_gives(truth: np.ndarray, said: np.ndarray) -> None:
    many = np.tile(truth, 300)
    guesses = numpy_stream(5, "guesses").integers(0, 18, len(many))
    row = evaluate_answers(torch.from_numpy(said), torch.from_numpy(truth))[0]
    assert row.chance_f1 == pytest.approx(f1_score(many, guesses, average="macro"), abs=0.002)


def test_unknown_attributes_are_left_out(truth: np.ndarray, said: np.ndarray) -> None:
    answers = torch.from_numpy(said)
    known = LABELS.attribute_classes(torch.from_numpy(truth))
    known["age"] = torch.full_like(known["age"], -1)
    known["gender"][::2] = -1
    rows = {
        row.name: row for row in evaluate_classes(LABELS, answers, LABELS.attribute_classes(answers), known, PERSONS)
    }
    assert rows.keys() == {"mask", "gender"}
    assert rows["gender"].num_images == NUM_IMAGES // 2
    assert rows["gender"].macro_f1 == pytest.approx(
        f1_score(truth[1::2] // 3 % 2, said[1::2] // 3 % 2, average="macro")
    )


def test_the_interval_is_that_of_resampled_persons(truth: np.ndarray, said: np.ndarray) -> None:
    """Against a plain bootstrap that draws persons and asks scikit-learn."""
    low, high = macro_f1_interval(torch.from_numpy(truth), torch.from_numpy(said), 18, PERSONS)
    persons = np.array(PERSONS).astype(int)
    stream = numpy_stream(9, "reference")
    scores = []
    for _ in range(300):
        rows = np.concatenate([np.flatnonzero(persons == p) for p in stream.integers(0, 100, 100)])
        scores.append(
            f1_score(
                truth[rows], said[rows], average="macro", labels=np.unique(truth[rows].tolist() + said[rows].tolist())
            )
        )
    expected = np.percentile(scores, [2.5, 97.5])
    assert (low, high) == pytest.approx(expected, abs=0.015)


def test_persons_make_a_wider_interval_than_images_alone() -> None:
    """Seven photographs that are all right or all wrong are one piece of evidence."""
    right = numpy_stream(3, "right").random(60) < 0.5
    truth = torch.from_numpy(np.repeat(np.arange(60) % 2, 7))
    said = torch.where(torch.from_numpy(np.repeat(right, 7)), truth, 1 - truth)
    by_person = macro_f1_interval(truth, said, 2, [str(number // 7) for number in range(420)])
    by_image = macro_f1_interval(truth, said, 2, [str(number) for number in range(420)])
    assert by_person[1] - by_person[0] > 2 * (by_image[1] - by_image[0])


def test_the_distribution_counts_every_class(said: np.ndarray) -> None:
    lines = class_distribution(LABELS, torch.from_numpy(said))
    assert len(lines) == 18
    for number, line in enumerate(lines):
        assert line.split()[0] == str(number)
        assert int(line.split()[-2]) == (said == number).sum()
