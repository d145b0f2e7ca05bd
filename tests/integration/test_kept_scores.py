"""What test.py measures is kept beside the run, and shown where runs are listed."""

from __future__ import annotations

import csv
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from sklearn.metrics import accuracy_score, f1_score

from experiment.runs import summarise_run
from inference.scoring.scores import read_scores
from scripts import runs as command
from tests.integration.workplace import EVALUATION_NAMES, Outcome, Workplace
from utils.checkpoint.checkpoint_file import read_checkpoint


def list_runs(workplace: Workplace, *argv: str | Path) -> Outcome:
    return workplace._run(command.main, argv)


def lines_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "scores.jsonl").read_text(encoding="utf-8").splitlines()]


def write_answers(workplace: Workplace, answers: list[int]) -> Path:
    rows = "".join(f"{name},{answer}\n" for name, answer in zip(EVALUATION_NAMES, answers, strict=True))
    return workplace.write("answers.csv", f"ImageID,ans\n{rows}")


def test_each_call_that_knows_the_truth_adds_a_line(trained: Workplace) -> None:
    truth = [0, 1, 7, 8, 17, 0]
    began = datetime.now().astimezone().replace(microsecond=0)
    trained.test("--resume", trained.run).check_success()
    assert not (trained.run / "scores.jsonl").exists()  # the truth was not known
    answers = write_answers(trained, truth)
    done = trained.test("--resume", trained.run, "--answers", answers, "--checkpoint", "last", "--tta", "flip")
    done.check_success()
    assert f"scores: {trained.run}/scores.jsonl" in done.out
    (line,) = lines_of(trained.run)
    (submission,) = trained.submissions
    predicted = [int(row["ans"]) for row in csv.DictReader(submission.open())]
    gender = [[answer % 6 // 3 for answer in table] for table in (truth, predicted)]
    assert line["metrics"]["test/accuracy"] == pytest.approx(accuracy_score(truth, predicted))
    assert line["metrics"]["test/gender_accuracy"] == pytest.approx(accuracy_score(*gender))
    assert line["metrics"]["test/gender_f1"] == pytest.approx(f1_score(*gender, average="macro"))
    assert line["metrics"].keys() == line["intervals"].keys()
    for name, (low, high) in line["intervals"].items():
        assert 0 <= low <= line["metrics"][name] <= high <= 1
        assert f" {line['metrics'][name]:.4f} [{low:.4f}, {high:.4f}]" in done.out
    content = read_checkpoint(trained.run / "last.pth")
    (model,) = line["models"]
    assert (model["checkpoint"], model["run"], model["epochs"]) == (f"{trained.run}/last.pth", trained.run.name, 1)
    assert model["split_digest"] == content["split_digest"]
    assert (line["images"], line["split"], line["answers"]) == ("data/eval", None, "answers.csv")
    assert (line["num_images"], line["submission"]) == (6, str(submission.relative_to(trained.folder)))
    assert len(line["tta"]) == 2
    assert line["alone"]
    assert datetime.fromisoformat(line["when"]) >= began
    trained.test("--resume", trained.run, "--split", "validation").check_success()
    both = lines_of(trained.run)
    assert both[0] == line  # nothing is overwritten
    assert (both[1]["images"], both[1]["split"]) == (None, "validation")
    assert {name.split("/")[0] for name in both[1]["metrics"]} == {"val"}
    assert [scores.num_images for scores in read_scores(trained.run)] == [6, 14]


def test_runs_shows_the_newest_and_flags_other_images(trained: Workplace) -> None:
    first = trained.run
    trained.train("-c", trained.write_config({"seed": 7}), "--run-id", "zz").check_success()
    second = first.with_name("zz")
    for answers in ([1] * 6, [0, 1, 7, 8, 17, 0]):
        trained.test("--resume", first, "--answers", write_answers(trained, answers)).check_success()
    trained.test("--resume", first, "--split", "validation").check_success()  # no test images
    newest = lines_of(first)[1]["metrics"]
    assert lines_of(first)[0]["images_digest"] != lines_of(first)[1]["images_digest"]
    trained.test("--resume", second, "--answers", write_answers(trained, [0, 1, 7, 8, 17, 0])).check_success()
    assert summarise_run(first).metrics.items() >= newest.items()
    listed = list_runs(trained, "--sort", "test/f1").out
    for line in (lines_of(first)[1], lines_of(second)[0]):
        low, high = line["intervals"]["test/f1"]
        assert f"f1 {line['metrics']['test/f1']:.4f} [{low:.4f}, {high:.4f}]  " in listed
    difference = list_runs(trained, "diff", first, second).out
    assert "test/f1: " in difference
    assert "tested on different images" not in difference
    trained.test("--resume", second, "--answers", write_answers(trained, [5] * 6)).check_success()
    assert "tested on different images" in list_runs(trained, "diff", first, second).out
    assert list_runs(trained).out.count(" *") == 1


def test_several_runs_together_are_kept_by_each_and_count_for_none(trained: Workplace) -> None:
    trained.train("-c", trained.write_config({"seed": 7}), "--run-id", "zz").check_success()
    runs = [run.relative_to(trained.folder) for run in trained.runs]
    answers = write_answers(trained, [0, 1, 7, 8, 17, 0])
    trained.test("--resume", *runs, "--answers", answers).check_success()
    for run in runs:
        (line,) = lines_of(run)
        assert [model["run"] for model in line["models"]] == [each.name for each in runs]
        assert summarise_run(run).test is None
    elsewhere = trained.write("elsewhere/mine.pth", (runs[0] / "last.pth").read_bytes())
    trained.test("--resume", elsewhere, "--answers", answers).check_success()
    assert [path.name for path in elsewhere.parent.iterdir()] == ["mine.pth"]


def test_a_run_of_folds_keeps_the_scores_of_all_its_folds(workplace: Workplace) -> None:
    split = {"type": "KFoldSplit", "args": {"folds": 2}}
    workplace.train("-c", workplace.write_config({"split": split})).check_success()
    workplace.test("--resume", workplace.run, "--answers", write_answers(workplace, [1] * 6)).check_success()
    (line,) = lines_of(workplace.run)
    assert len(line["models"]) == 2
    assert not [*workplace.run.glob("fold_*/scores.jsonl")]
    assert summarise_run(workplace.run).metrics.items() >= line["metrics"].items()


def test_damage_costs_a_warning(trained: Workplace) -> None:
    answers = write_answers(trained, [1] * 6)
    trained.test("--resume", trained.run, "--answers", answers).check_success()
    file = trained.run / "scores.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole + b"[]\n{}\n" + whole.replace(b'"test/f1": ', b'"test/f1": "x", "x": ', 1) + whole[:50])
    trained.test("--resume", trained.run, "--answers", answers).check_success()
    assert len(read_scores(trained.run)) == 2
    listed = list_runs(trained)
    listed.check_success()
    assert "f1 " in listed.out
    file.unlink()
    file.mkdir()
    done = trained.test("--resume", trained.run, "--answers", answers)
    done.check_success()
    assert f"{file}: the scores could not be kept" in done.out + done.err
