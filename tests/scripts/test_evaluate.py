"""A submission's scores, against scikit-learn; its faults, told."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score

from base.label_space import LabelSpace
from scripts import evaluate
from utils.checkpoint.checkpoint_file import write_checkpoint
from utils.errors import ConfigError, DataError, UserError
from utils.random_streams import numpy_stream

ROOT = Path(__file__).parents[2]
PARTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "answer": lambda a: a, "mask": lambda a: a // 6, "gender": lambda a: a // 3 % 2, "age": lambda a: a % 3,
}  # fmt: skip
TRUTH = numpy_stream(1, "truth").integers(0, 18, 200)
SAID = np.where(numpy_stream(2, "said").random(200) < 0.5, TRUTH, numpy_stream(3, "other").integers(0, 18, 200))


def write_table(path: Path, answers: np.ndarray, persons: bool = False, order: np.ndarray | None = None) -> str:
    rows = [f"{row}.jpg,{answers[row]}" + (f",{row // 4}" if persons else "") for row in range(len(answers))]
    rows = rows if order is None else [rows[place] for place in order]
    path.write_text("\n".join(["ImageID,ans" + (",person" if persons else ""), *rows]) + "\n")
    return str(path)


@pytest.fixture
def tables(tmp_path: Path) -> list[str]:
    """The submission, and the answers in another order."""
    order = numpy_stream(4, "order").permutation(200)
    return [
        write_table(tmp_path / "submission.csv", SAID),
        write_table(tmp_path / "answers.csv", TRUTH, persons=True, order=order),
    ]


def scores(*argv: str) -> dict[str, evaluate.SetScores]:
    return {row.name: row for row in evaluate.evaluate(evaluate.parse(argv))}


def test_the_scores_are_scikit_learns(
    tables: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)  # config.json is the default
    rows = scores(*tables, "--output", str(tmp_path / "scores.json"))
    assert list(rows) == list(PARTS)
    for name, part in PARTS.items():
        assert rows[name].accuracy == pytest.approx(accuracy_score(part(TRUTH), part(SAID)))
        assert rows[name].macro_f1 == pytest.approx(f1_score(part(TRUTH), part(SAID), average="macro"))
        assert rows[name].interval[0] < rows[name].macro_f1 < rows[name].interval[1]
    printed = capsys.readouterr().out
    for line in ("  0  wear male <30", "not_wear female >=60", "answer        200 images", "age           200 images"):
        assert line in printed
    written = json.loads((tmp_path / "scores.json").read_text())
    assert [row["name"] for row in written] == list(PARTS)
    assert written[1]["macro_f1"] == rows["mask"].macro_f1


def test_the_labels_of_another_config_or_of_a_checkpoint(tmp_path: Path) -> None:
    """A specialist's own answers: gender x age."""
    labels = {"attributes": {"gender": {"classes": ["male", "female"]}, "age": {"bins": [30, 60]}}}
    (tmp_path / "pair.json").write_text(
        json.dumps(
            {
                "extends": str(ROOT / "config.json"),
                "labels": {**labels, "answer": ["age"]},
                "loss": {"heads": {"mask": None}},
            }
        )
    )
    write_checkpoint(tmp_path / "last.pth", {"labels": LabelSpace(**labels).to_config(), "model": torch.zeros(1)})  # type: ignore[arg-type]
    tables = [write_table(tmp_path / "a.csv", SAID % 6), write_table(tmp_path / "b.csv", TRUTH % 6)]
    rows = scores(*tables, "--labels", str(tmp_path / "last.pth"))
    assert list(rows) == ["answer", "gender", "age"]
    assert rows["answer"].macro_f1 == pytest.approx(f1_score(TRUTH % 6, SAID % 6, average="macro"))
    tables = [write_table(tmp_path / "a.csv", SAID % 3), write_table(tmp_path / "b.csv", TRUTH % 3)]
    rows = scores(*tables, "-c", str(tmp_path / "pair.json"))
    assert rows["answer"].accuracy == rows["age"].accuracy == pytest.approx(accuracy_score(TRUTH % 3, SAID % 3))


def test_the_labels_of_a_run_of_folds(tables: list[str], tmp_path: Path) -> None:
    """As test.py takes it; a fold without a checkpoint yet is passed over."""
    attributes = {"mask": {"classes": ["a", "b", "c"]}, "rest": {"classes": list("uvwxyz")}}
    content = {"labels": LabelSpace(attributes).to_config(), "model": torch.zeros(1)}  # type: ignore[arg-type]
    (tmp_path / "run/fold_0").mkdir(parents=True)
    write_checkpoint(tmp_path / "run/fold_1/model_best.pth", content)
    assert list(scores(*tables, "--labels", str(tmp_path / "run"))) == ["answer", "mask", "rest"]


def test_a_person_who_is_not_known_is_not_one_person(
    tables: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all persons unknown the interval is that of images that stand alone, as without the column."""
    monkeypatch.chdir(ROOT)
    by_persons = scores(*tables)["answer"].interval
    lines = Path(tables[1]).read_text().splitlines()
    for name, last in (("unknown", "{},"), ("none", "{}")):
        rows = [last.format(line.rpartition(",")[0]) for line in lines[1:]]
        header = lines[0] if name == "unknown" else "ImageID,ans"
        (tmp_path / f"{name}.csv").write_text("\n".join([header, *rows]) + "\n")
    unknown, none = (scores(tables[0], str(tmp_path / f"{name}.csv"))["answer"] for name in ("unknown", "none"))
    assert unknown.macro_f1 == none.macro_f1
    assert unknown.interval[0] < unknown.macro_f1 < unknown.interval[1]
    assert unknown.interval == pytest.approx(none.interval, abs=0.03)
    assert by_persons != unknown.interval


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda text: text.replace("0.jpg", "x.jpg", 1), r"answers\.csv: lacks 1 of the 200 images"),
        (lambda text: text + "more.jpg,0\n", r"answers\.csv: lacks 1 of the 201 images, such as more\.jpg"),
        (lambda text: text[: text.rindex("\n", 0, -1) + 1], r"answers\.csv: lacks 0 of the 199 images, and has 1"),
        (lambda text: text + "0.jpg,1\n", r"submission\.csv row 202: 0\.jpg stands in row 2 already"),
        (lambda text: text.replace("\n1.jpg,", "\n1.jpg,9"), r"submission\.csv row 3: ans = '9.*' is not a class"),
    ],
)
def test_images_on_one_side_only_and_wrong_rows_are_errors(
    tables: list[str], monkeypatch: pytest.MonkeyPatch, change: Callable[[str], str], told: str
) -> None:
    monkeypatch.chdir(ROOT)
    path = Path(tables[0])
    path.write_text(change(path.read_text()))
    with pytest.raises(DataError, match=told):
        scores(*tables)


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["a.csv"], "the following arguments are required: answers"),
        (["a.csv", "b.csv", "-c", "x.json", "--labels", "y"], "--config and --labels both say"),
        (["a.csv", "b.csv", "-c", "none.json"], r"none\.json"),
        (["a.csv", "b.csv", "--labels", "none"], "none: there is no such run folder or checkpoint"),
    ],
)
def test_a_wrong_command_line_is_told(argv: list[str], told: str, tmp_path: Path) -> None:
    argv = [str(tmp_path / word) if word.startswith("none") else word for word in argv]
    with pytest.raises(UserError, match=told):
        scores(*argv)


@pytest.mark.parametrize(
    ("output", "told"),
    [
        ("submission.csv/scores.json", "cannot be written: "),
        ("answers.csv", "cannot be written: is what this command reads"),
        ("submission.csv", "cannot be written: is what this command reads"),
        ("a folder", "cannot be written: is a folder"),
        ("a pipe", "cannot be written: is no regular file"),
        ("", "cannot be written: names no file"),
    ],
)
def test_scores_that_cannot_be_written_are_told_first(
    tables: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    output: str,
    told: str,
) -> None:
    (tmp_path / "a folder").mkdir()
    os.mkfifo(tmp_path / "a pipe")
    before = [Path(table).read_bytes() for table in tables]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=f"--output {output}: {told}"):
        scores(*tables, "--output", output, "-c", str(ROOT / "config.json"))
    assert [Path(table).read_bytes() for table in tables] == before
    assert capsys.readouterr().out == ""
