"""Scores and intervals on real photographs: against a bootstrap, and the page against its file."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import f1_score

from benchmarks import real_faces
from benchmarks.real_faces import COLUMNS, PAGE, PAGE_RESULTS, VARIANTS, Column, Results
from scripts.make_demo_data import make_demo_data


@pytest.fixture(scope="module")
def results() -> Results:
    return Results(json.loads(PAGE_RESULTS.read_text(encoding="utf-8")))


def resampled_scores(
    results: Results, variant: str, seeds: Iterable[int], column: Column, times: int = 1000
) -> np.ndarray:
    """Mean over the seeds: of all test rows, then of persons drawn with replacement; the same persons for all seeds
    and variants, (1 + times,)."""
    known = results.truth[column.attribute] >= 0
    truth, persons = results.truth[column.attribute][known], results.persons[known]
    stream = np.random.default_rng(0)
    drawn = [np.unique(persons), *stream.choice(np.unique(persons), (times, len(np.unique(persons))))]
    weights = np.array([np.bincount(each, minlength=persons.max() + 1)[persons] for each in drawn])
    of_seeds = []
    for seed in seeds:
        predicted = results.predicted[variant][seed][column.attribute][known]
        right = weights * (predicted == truth)
        if column.kind == "accuracy":
            of_seeds.append(right.sum(axis=1) / weights.sum(axis=1))
            continue
        counts = [(right @ (truth == k), weights @ (truth == k) + weights @ (predicted == k)) for k in np.unique(truth)]
        of_seeds.append(np.mean([2 * own / both for own, both in counts], axis=0))
        assert of_seeds[-1][0] == pytest.approx(f1_score(truth, predicted, average="macro"))
    return np.mean(of_seeds, axis=0)


@pytest.mark.parametrize("key", ["mask_f1", "gender_accuracy"])
def test_scores_and_intervals_are_those_of_a_bootstrap(results: Results, key: str) -> None:
    column, variant = COLUMNS[key], "mobilenetv2_100_scratch"
    baseline = VARIANTS[variant].compared_with
    assert baseline is not None
    seeds = results.predicted[variant].keys()
    both = seeds & results.predicted[baseline].keys()
    own, other = (resampled_scores(results, name, both, column) for name in (variant, baseline))
    for figure, expected in (
        (results.figure(variant, column), resampled_scores(results, variant, seeds, column)),
        (results.difference(variant, baseline, column), own - other),
    ):
        assert np.mean(figure.seeds) == pytest.approx(expected[0])
        low, high = np.percentile(expected[1:], [2.5, 97.5])
        assert figure.interval == pytest.approx((low, high), abs=0.25 * (high - low))


def test_differences_are_of_the_seeds_that_both_have() -> None:
    truth = np.arange(90) % 3
    wrong = np.where(np.arange(90) < 30, (truth + 1) % 3, truth)
    own, right = ({"age": "".join(map(str, each.tolist()))} for each in (wrong, truth))
    stored = {
        "recipes": {},
        "persons": " ".join(map(str, range(90))),
        "truth": right,
        "predicted": {"mobilenetv2_100": {"1": own, "2": right}, "face_crop": {"1": right, "2": right, "3": own}},
    }
    found = Results(stored).difference("face_crop", "mobilenetv2_100", COLUMNS["age_accuracy"])
    assert found.seeds == [pytest.approx(1 / 3), 0]
    assert found.is_decided
    assert Results(stored).majority(COLUMNS["age_accuracy"]) == pytest.approx(1 / 3)


def test_the_page_has_the_tables_of_its_file(results: Results) -> None:
    assert results.tables() in PAGE.read_text(encoding="utf-8")
    stored = json.loads(PAGE_RESULTS.read_text(encoding="utf-8"))
    for variant, scores in stored["scores"].items():
        for key, figure in scores.items():
            assert results.figure(variant, COLUMNS[key]).seeds == pytest.approx(figure["seeds"])


@pytest.mark.long
def test_a_model_is_trained_scored_as_test_py_does_and_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_demo_data(tmp_path / "drawn", 30, 1, seed=1, workers=1)
    data = tmp_path / "data"
    data.mkdir()
    with (data / "labels.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "person", "mask", "gender", "age", "split"])
        for number, path in enumerate(sorted((tmp_path / "drawn" / "train" / "images").rglob("*.*"))):
            person, gender, _, age = path.parent.name.rsplit("_", 3)
            shutil.copy(path, data / f"{person}_{path.name}")
            mask = {"incorrect_mask": "incorrect", "normal": "not_wear"}.get(path.stem, "wear")
            known = (mask, "", "") if number % 2 else ("", gender, age)
            table.writerow([f"{person}_{path.name}", person, *known, "eval" if int(person) % 4 == 0 else "train"])
    recipe = {"trainer.epochs": 1, "data_loader.args.input_size": 32, "split.args.stratify": []}
    monkeypatch.setattr(real_faces, "RECIPES", {"from scratch": recipe})
    call = ["--data", str(data), "--weights", str(tmp_path), "--output", str(tmp_path / "out"), "--seeds", "1"]
    real_faces.main([*call, "--variants", "mobilenetv2_100_scratch"])
    printed = capsys.readouterr().out
    kept = tmp_path / "out" / "results.json"
    stored = json.loads(kept.read_text(encoding="utf-8"))
    for key, score in stored["scores"]["mobilenetv2_100_scratch"].items():
        [line] = [row for row in printed.splitlines() if row.startswith(f"{key.split('_')[0]} ") and "macro F1" in row]
        word = "accuracy" if key.endswith("accuracy") else "macro F1"
        assert f"{word} {score['seeds'][0]:.4f}" in line  # as test.py has scored it
    before = kept.stat().st_mtime_ns
    real_faces.main([*call, "--variants", "mobilenetv2_100_scratch"])
    assert kept.stat().st_mtime_ns == before
