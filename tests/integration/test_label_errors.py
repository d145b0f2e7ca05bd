"""Labels that are probably wrong: planted ones are found, as what they are, and the table corrects a run's data."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from inference.label_errors import suspicious_labels
from inference.out_of_fold import OUT_OF_FOLD_FILE
from inference.run_predictions import RunPredictions
from scripts import find_label_errors
from tests.integration.workplace import Workplace
from utils.errors import run_command

SHARPNESS = 3.0


def _predicted(truth: np.ndarray, number: int, stream: np.random.Generator) -> np.ndarray:
    """(N, C) of a good model: noise, and the true class higher by SHARPNESS."""
    scores = stream.normal(0, 1, (len(truth), number))
    scores[np.arange(len(truth)), truth] += SHARPNESS
    exponentials = np.exp(scores)
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def test_planted_errors_are_found() -> None:
    """Masks are labelled wrongly by the image, genders by the person; ages are unknown."""
    stream = np.random.default_rng(0)
    persons = [f"p{number}" for number in range(150) for _ in range(7)]
    mask = stream.choice(3, len(persons), p=[0.7, 0.15, 0.15])
    gender = np.repeat(stream.integers(0, 2, 150), 7)
    wrong_masks = stream.choice(len(persons), 40, replace=False)
    wrong_persons = stream.choice(150, 8, replace=False)
    labelled = {"mask": mask.copy(), "gender": gender.copy(), "age": np.full(len(persons), -1)}
    labelled["mask"][wrong_masks] = (mask[wrong_masks] + 1) % 3
    labelled["gender"].reshape(150, 7)[wrong_persons] ^= 1
    labelled["gender"][3] = -1  # of a photograph nothing is known
    predicted = {
        name: _predicted(true, number, stream) for name, true, number in (("mask", mask, 3), ("gender", gender, 2))
    }
    found = suspicious_labels(labelled, {**predicted, "age": np.full((len(persons), 3), 1 / 3)}, persons)
    masks = [label for label in found if label.attribute == "mask"]
    assert all(len(label.rows) == 1 and not label.of_person for label in masks)
    hits = {label.rows[0] for label in masks} & set(wrong_masks.tolist())
    assert len(hits) >= 0.6 * 40
    assert len(hits) >= 0.6 * len(masks)
    assert [label.p_given for label in masks] == sorted(label.p_given for label in masks)
    genders = [label for label in found if label.attribute == "gender"]
    assert {persons[label.rows[0]] for label in genders} == {f"p{number}" for number in wrong_persons}
    assert all(label.of_person and label.suggested == 1 - label.given for label in genders)
    assert {len(label.rows) for label in genders} <= {6, 7}
    for label in found:
        expected = predicted[label.attribute][label.rows].mean(axis=0)
        assert label.p_suggested == pytest.approx(np.delete(expected, label.given).max(), abs=1e-6)
        assert (labelled[label.attribute][label.rows] == label.given).all()


def test_the_command_writes_fixes_that_training_takes(trained: Workplace) -> None:
    run = RunPredictions.read(trained.run)
    names = run.table.labels.attributes["mask"].class_names
    by_head = {}
    for name, classes in run.table.truth.items():
        others = len(run.table.labels.attributes[name].class_names) - 1
        predicted = np.full((len(run.table), 1 + others), 0.1 / others, np.float32)
        predicted[np.arange(len(run.table)), classes.numpy()] = 0.9
        by_head[name] = predicted
    row = int((run.table.truth["mask"] == 0).nonzero()[0])
    by_head["mask"][row] = [0.02, 0.02, 0.96]
    tensors = {name: run.table.by_head[name].new_tensor(by_head[name]) for name in run.table.by_head}
    replace(run.table, by_head=tensors).write(trained.run / OUT_OF_FOLD_FILE)
    (label,) = find_label_errors.main([str(trained.run), "--output", "found"])
    assert (label.attribute, label.rows, label.suggested) == ("mask", [row], 2)
    (fix,) = csv.DictReader(Path("found/label_fixes.csv").read_text(encoding="utf-8").splitlines())
    assert (fix["path"], fix["person"], fix["value"], fix["given"]) == (run.table.ids[row], "", names[2], names[0])
    assert Path("found/label_errors.jpg").stat().st_size > 1000
    outcome = trained.train("-c", trained.write_config(), "--set", "label_fixes=found/label_fixes.csv", "--dry-run")
    outcome.check_success()
    assert "1 label fixes made, which changed 1 labels" in outcome.out
    assert run_command(lambda: find_label_errors.main(["nowhere", "--output", "found"])) == 4
    assert run_command(lambda: find_label_errors.main([str(trained.run), "--output", "tiny.json"])) == 2
