"""Submissions are written in row order, and answers read back with their faults named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from inference.submission import Answers, align, read_answers, write_submission
from utils.errors import DataError


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "answers.csv"
    names = ["b.jpg", "가 나.jpg", 'quote",.png']
    write_submission(path, names, torch.tensor([17, 0, 3]))
    answers = read_answers(path, 18)
    assert answers.ids == names
    assert answers.answers.tolist() == [17, 0, 3]
    assert answers.persons is None
    assert path.read_bytes().startswith(b"ImageID,ans\nb.jpg,17\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no rows"),
        ("ImageID,ans\n", "has no rows"),
        ("ImageID,answer\na,1\n", "lacks the column ans; it has ImageID, answer"),
        ("ImageID,ans\na,1\nb,18\n", r"row 3: ans = '18' is not a class of 0 to 17"),
        ("ImageID,ans\na,-1\n", r"row 2: ans = '-1'"),
        ("ImageID,ans\na,\n", r"row 2: ans = ''"),
        ("ImageID,ans\na\n", r"row 2: ans = ''"),
        ("ImageID,ans\na,1\na,2\n", r"row 3: a stands in row 2 already"),
    ],
)
def test_faults_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "answers.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_answers(path, 18)


def test_other_encodings_and_missing_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "answers.csv").write_bytes("ImageID,ans\n가.jpg,1\n".encode("cp949"))
    with pytest.raises(DataError, match="is not UTF-8"):
        read_answers(tmp_path / "answers.csv", 18)
    with pytest.raises(DataError, match="no such file"):
        read_answers(tmp_path / "none.csv", 18)


def test_answers_are_put_in_the_order_that_is_asked_for() -> None:
    truth = Answers(["a", "b", "c"], torch.tensor([1, 2, 3]), ["x", "y", "z"])
    aligned = align(truth, ["c", "a", "b"], Path("answers.csv"))
    assert aligned.answers.tolist() == [3, 1, 2]
    assert aligned.persons == ["z", "x", "y"]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["a", "b"], "lacks 0 of the 2 images, and has 1 that"),
        (["a", "b", "d"], "lacks 1 of the 3 images, such as d, and has 1"),
    ],
)
def test_images_on_one_side_only_are_told(ids: list[str], message: str) -> None:
    truth = Answers(["a", "b", "c"], torch.tensor([1, 2, 3]))
    with pytest.raises(DataError, match=message):
        align(truth, ids, Path("answers.csv"))
