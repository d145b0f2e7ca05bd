"""Scores beside what they must be compared to, against scikit-learn and brute force."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support

from base.label_space import LabelSpace
from inference.scoring.evaluation import (
    Classification,
    SetScores,
    class_distribution,
    classifications,
    evaluate,
    per_class_table,
)
from utils.random_streams import numpy_stream

LABELS = LabelSpace(
    {
        "mask": {"classes": ["wear", "incorrect", "not_wear"]},
        "gender": {"classes": ["male", "female"]},
        "age": {"bins": [30, 60]},
    }
)
NUM_IMAGES = 700
PERSONS = [str(number // 7) for number in range(NUM_IMAGES)]
CLASSIFICATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "answer": lambda a: a, "mask": lambda a: a // 6, "gender": lambda a: a // 3 % 2, "age": lambda a: a % 3,
}  # fmt: skip
TRUTH = numpy_stream(1, "truth").choice(18, NUM_IMAGES, p=np.arange(1, 19) / 171)
_STREAM = numpy_stream(2, "predicted")
PREDICTED = np.where(_STREAM.random(NUM_IMAGES) < 0.6, TRUTH, _STREAM.integers(0, 18, NUM_IMAGES))


def classified(predicted: np.ndarray, truth: dict[str, torch.Tensor] | np.ndarray) -> list[Classification]:
    joint = torch.from_numpy(predicted)
    known = truth if isinstance(truth, dict) else LABELS.attribute_classes(torch.from_numpy(truth))
    return classifications(LABELS, joint, LABELS.attribute_classes(joint), known)


def scores(predicted: np.ndarray, truth: np.ndarray, persons: list[str] = PERSONS) -> dict[str, SetScores]:
    return {row.name: row for row in evaluate(LABELS, classified(predicted, truth), persons)}


def macro_f1(truth: np.ndarray, predicted: np.ndarray) -> float:
    return float(f1_score(truth, predicted, average="macro", zero_division=0))


def test_scores_equal_scikit_learn() -> None:
    """The majority is the best constant class: of the joint class, too."""
    rows = scores(PREDICTED, TRUTH)
    assert list(rows) == list(CLASSIFICATIONS)
    for name, classes_of in CLASSIFICATIONS.items():
        truth, predicted = classes_of(TRUTH), classes_of(PREDICTED)
        every_constant = [np.full(NUM_IMAGES, each) for each in range(18)]
        assert rows[name].num_images == NUM_IMAGES
        assert rows[name].accuracy == pytest.approx(accuracy_score(truth, predicted))
        assert rows[name].macro_f1 == pytest.approx(macro_f1(truth, predicted))
        assert rows[name].majority_accuracy == pytest.approx(max(accuracy_score(truth, c) for c in every_constant))
        assert rows[name].majority_f1 == pytest.approx(max(macro_f1(truth, c) for c in every_constant))


def test_the_majority_need_not_be_made_of_each_attributes_majority() -> None:
    """Most wear a mask, most are men; but no man wears one."""
    labels = LabelSpace({"mask": {"classes": ["on", "off"]}, "gender": {"classes": ["male", "female"]}})
    truth = {"mask": torch.tensor([0, 0, 0, 1, 1, 1, 0]), "gender": torch.tensor([1, 1, 1, 0, 0, 0, 1])}
    joint = labels.joint_classes(truth)
    row = evaluate(labels, classifications(labels, joint, truth, truth), list("abcdefg"))[0]
    assert row.majority_accuracy == pytest.approx(4 / 7)
    assert row.majority_f1 == pytest.approx(macro_f1(joint.numpy(), np.ones(7)))


def test_chance_is_what_guessing_evenly_gives() -> None:
    many = np.tile(TRUTH, 300)
    guesses = numpy_stream(5, "guesses").integers(0, 18, len(many))
    assert scores(PREDICTED, TRUTH)["answer"].chance_f1 == pytest.approx(macro_f1(many, guesses), abs=0.002)


def test_what_is_unknown_is_left_out() -> None:
    known = LABELS.attribute_classes(torch.from_numpy(TRUTH))
    known["gender"][::2] = -1
    del known["age"]
    known["mask"][:] = -1
    (row,) = evaluate(LABELS, classified(PREDICTED, known), PERSONS)
    assert (row.name, row.num_images) == ("gender", NUM_IMAGES // 2)
    assert row.macro_f1 == pytest.approx(macro_f1(TRUTH[1::2] // 3 % 2, PREDICTED[1::2] // 3 % 2))
    known["gender"][:] = -1
    assert evaluate(LABELS, classified(PREDICTED, known), PERSONS) == []


def test_the_intervals_are_about_those_of_resampled_persons() -> None:
    """Against a plain bootstrap that draws persons and asks scikit-learn."""
    persons = np.array(PERSONS).astype(int)
    stream = numpy_stream(9, "reference")
    resampled = []
    for _ in range(300):
        rows = np.concatenate([np.flatnonzero(persons == p) for p in stream.integers(0, 100, 100)])
        resampled.append((macro_f1(TRUTH[rows], PREDICTED[rows]), accuracy_score(TRUTH[rows], PREDICTED[rows])))
    expected = np.percentile(resampled, [2.5, 97.5], axis=0)
    answer = scores(PREDICTED, TRUTH)["answer"]
    assert answer.interval == pytest.approx(expected[:, 0], abs=0.015)
    assert answer.accuracy_interval == pytest.approx(expected[:, 1], abs=0.015)


MANY = LabelSpace({f"a{number}": {"classes": ["no", "yes"]} for number in range(40)})


def test_without_a_joint_class_the_attributes_mean_is_scored() -> None:
    """40 binary attributes: 2^40 combinations."""
    stream = numpy_stream(7, "many")
    truth = {name: torch.from_numpy(stream.integers(-1, 2, 60)) for name in MANY.attributes}
    predicted = {name: torch.from_numpy(stream.integers(0, 2, 60)) for name in MANY.attributes}
    found = classifications(MANY, None, predicted, truth)
    first, *rows = evaluate(MANY, found, [str(number // 3) for number in range(60)])
    assert [row.name for row in rows] == list(MANY.attributes)
    by_hand = []
    for row in rows:
        known = truth[row.name] != -1
        by_hand.append(macro_f1(truth[row.name][known].numpy(), predicted[row.name][known].numpy()))
        assert row.macro_f1 == pytest.approx(by_hand[-1])
    assert first.macro_f1 == pytest.approx(np.mean(by_hand))
    assert first.accuracy == pytest.approx(np.mean([row.accuracy for row in rows]))
    assert first.accuracy_interval[0] < first.accuracy < first.accuracy_interval[1]
    assert first.interval[0] < first.macro_f1 < first.interval[1]
    assert first.interval[1] - first.interval[0] < rows[0].interval[1] - rows[0].interval[0]
    assert len(class_distribution(MANY, None, predicted)) == len(per_class_table(found, ["a"] * 60)) == 80


def test_a_class_that_is_never_predicted_has_no_precision_and_one_that_is_never_true_no_recall() -> None:
    truth = {"mask": torch.tensor([0, 0, 1])}
    found = classifications(LABELS, None, {"mask": torch.tensor([0, 2, 2])}, truth)
    rows = [row.split("precision ")[1].split()[:5] for row in per_class_table(found, list("abc"))]
    assert rows == [
        ["1.000", "recall", "0.500", "F1", "0.667"],
        ["-", "recall", "0.000", "F1", "0.000"],
        ["0.000", "recall", "-", "F1", "0.000"],
    ]


def test_the_table_of_classes_and_their_distribution() -> None:
    table = per_class_table(classified(PREDICTED, TRUTH), PERSONS)
    joint = torch.from_numpy(PREDICTED)
    counts = class_distribution(LABELS, joint, LABELS.attribute_classes(joint))
    columns = zip(*precision_recall_fscore_support(TRUTH, PREDICTED), strict=True)
    for number, (row, count, (precision, recall, f1, support)) in enumerate(zip(table, counts, columns, strict=True)):
        assert row.split()[0] == count.split()[0] == str(number)
        assert LABELS.joint_class_names[number] in row
        numbers = [word for word in row.split()[-9:-2] if not word.isalpha() and word != "F1"]
        assert numbers == [str(support), f"{precision:.3f}", f"{recall:.3f}", f"{f1:.3f}"]
        low, high = (float(word.strip("[,]")) for word in row.split()[-2:])
        assert low < f1 < high
        assert int(count.split()[-2]) == np.bincount(PREDICTED)[number]
