"""A submission's scores, against scikit-learn; what its answers mean; its faults."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score

from base.label_space import LabelSpace
from inference.submission import write_origin
from scripts import evaluate
from utils.checkpoint.checkpoint_file import write_checkpoint
from utils.errors import ConfigError, DataError, UserError, run_command
from utils.random_streams import numpy_stream

ROOT = Path(__file__).parents[2]
CLASSIFICATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "answer": lambda a: a, "mask": lambda a: a // 6, "gender": lambda a: a // 3 % 2, "age": lambda a: a % 3,
}  # fmt: skip
PAIR: Any = {"attributes": {"gender": {"classes": ["male", "female"]}, "age": {"bins": [30, 60]}}}
TRUTH = numpy_stream(1, "truth").integers(0, 18, 200)
_OTHER = numpy_stream(3, "other").integers(0, 18, 200)
PREDICTED = np.where(numpy_stream(2, "predicted").random(200) < 0.5, TRUTH, _OTHER)


def write_table(path: Path, answers: np.ndarray, persons: bool = False, order: np.ndarray | None = None) -> str:
    rows = [f"{row}.jpg,{answers[row]}" + (f",{row // 4}" if persons else "") for row in range(len(answers))]
    rows = rows if order is None else [rows[position] for position in order]
    path.write_text("\n".join(["ImageID,ans" + (",person" if persons else ""), *rows]) + "\n")
    return str(path)


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The submission, and the answers in another order; beside config.json."""
    monkeypatch.chdir(ROOT)
    order = numpy_stream(4, "order").permutation(200)
    return [
        write_table(tmp_path / "submission.csv", PREDICTED),
        write_table(tmp_path / "answers.csv", TRUTH, persons=True, order=order),
    ]


def scores(*argv: str) -> dict[str, evaluate.SetScores]:
    return {row.name: row for row in evaluate.evaluate(evaluate.parse(argv))}


def macro_f1(truth: np.ndarray, predicted: np.ndarray) -> Any:
    return pytest.approx(f1_score(truth, predicted, average="macro"))


def test_the_scores_are_scikit_learns(tables: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = scores(*tables, "--output", str(tmp_path / "scores.json"))
    assert list(rows) == list(CLASSIFICATIONS)
    for name, of in CLASSIFICATIONS.items():
        assert rows[name].accuracy == pytest.approx(accuracy_score(of(TRUTH), of(PREDICTED)))
        assert rows[name].macro_f1 == macro_f1(of(TRUTH), of(PREDICTED))
        assert rows[name].interval[0] < rows[name].macro_f1 < rows[name].interval[1]
    printed = capsys.readouterr().out
    assert all(words in printed for words in ("wear male <30", "not_wear female >=60"))
    written = json.loads((tmp_path / "scores.json").read_text())
    assert [row["name"] for row in written] == list(CLASSIFICATIONS)
    assert written[1]["macro_f1"] == rows["mask"].macro_f1


def test_the_meaning_of_a_specialists_answers(tmp_path: Path, tables: list[str]) -> None:
    """By a checkpoint, by a config, by what is told beside the submission; without any of them it is asked for."""
    labels, heads = LabelSpace(**PAIR), {"gender": ["gender"], "age": ["age"]}
    (tmp_path / "pair.json").write_text(
        json.dumps(
            {"extends": str(ROOT / "config.json"), "labels": {"heads": heads}, "loss": {"heads": {"mask": None}}}
        )
    )
    write_checkpoint(tmp_path / "run/fold_1/model_best.pth", {"labels": labels.to_config(), "model": torch.zeros(1)})
    (tmp_path / "run/fold_0").mkdir()  # a fold without a checkpoint yet
    tables = [write_table(Path(path), each % 6) for path, each in zip(tables, (PREDICTED, TRUTH), strict=True)]
    with pytest.raises(ConfigError, match=r"submission\.csv.*--labels"):
        scores(*tables)
    found = [scores(*tables, "--labels", str(tmp_path / "run")), scores(*tables, "-c", str(tmp_path / "pair.json"))]
    write_origin(Path(tables[0]), labels, [])
    for rows in [*found, scores(*tables)]:
        assert list(rows) == ["answer", "gender", "age"]
        assert rows["answer"].macro_f1 == macro_f1(TRUTH % 6, PREDICTED % 6)


@pytest.mark.parametrize(
    ("column", "cells"),
    [
        ("mask", ["wear", "incorrect", "not_wear"]),
        ("mask", ["0", "1", "2"]),
        ("age", ["<30", "30-59", ">=60"]),
        ("age", ["29", "30", "60"]),
    ],
)
def test_true_answers_of_one_attribute(tables: list[str], column: str, cells: list[str]) -> None:
    """Every third is not known; what is known is scored."""
    truth, predicted = CLASSIFICATIONS[column](TRUTH), CLASSIFICATIONS[column](PREDICTED)
    known = np.arange(200) % 3 != 0
    rows = [f"{row}.jpg,{cells[truth[row]] if known[row] else ''}" for row in range(200)]
    Path(tables[1]).write_text("\n".join([f"ImageID,{column}", *rows]))
    found = scores(*tables)
    assert list(found) == [column]
    assert found[column].num_images == known.sum()
    assert found[column].macro_f1 == macro_f1(truth[known], predicted[known])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace("0.jpg", "x.jpg", 1), ("lacks 0.jpg", "answers.csv", "x.jpg is not in")),
        (lambda text: text + "0.jpg,1\n", (" row 202: ", "0.jpg", "row 2")),
        (lambda text: text.replace("\n1.jpg,", "\n1.jpg,9"), (" row 3: ", "ans = '9", "0 to 17")),
    ],
)
def test_the_submission_is_to_blame_for_what_it_lacks(
    tables: list[str], change: Callable[[str], str], words: tuple[str, ...]
) -> None:
    path = Path(tables[0])
    path.write_text(change(path.read_text()))
    with pytest.raises(DataError) as caught:
        scores(*tables)
    assert all(line.startswith(f"{path}") for line in str(caught.value).splitlines())
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize(
    ("argv", "word"),
    [
        (["a.csv"], "answers"),
        (["a.csv", "b.csv", "-c", "x.json", "--labels", "y"], "--labels"),
        (["a.csv", "b.csv", "-c", "none.json"], r"none\.json"),
        (["a.csv", "b.csv", "--labels", "none"], "none: "),
    ],
)
def test_a_wrong_command_line(argv: list[str], word: str, tmp_path: Path) -> None:
    argv = [str(tmp_path / each) if each.startswith("none") else each for each in argv]
    with pytest.raises(UserError, match=word):
        scores(*argv)


@pytest.mark.parametrize("output", ["submission.csv/scores.json", "answers.csv", "a folder", ""])
def test_an_output_that_cannot_be_written_is_refused_before_anything_is_scored(
    tables: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], output: str
) -> None:
    (tmp_path / "a folder").mkdir()
    before = [Path(table).read_bytes() for table in tables]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=f"--output {output}"):
        scores(*tables, "--output", output, "-c", str(ROOT / "config.json"))
    assert [Path(table).read_bytes() for table in tables] == before
    assert capsys.readouterr().out == ""


def test_a_full_disk_is_no_wrong_command_line(
    tables: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert run_command(lambda: evaluate.main([*tables, "--output", str(tmp_path / "scores.json")])) == 74
