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
        ("ImageID,answer\na,1\n", r'has no column "ans" \(its columns are ImageID, answer\)'),
        ("ImageID,ans\na,1\nb,18\n", r"row 3: ans = '18' is not a class of 0 to 17"),
        ("ImageID,ans\na,-1\n", r"row 2: ans = '-1'"),
        ("ImageID,ans\na,\n", r"row 2: ans = ''"),
        ("ImageID,ans\na\n", r"row 2: has 1 cells, the header has 2"),
        ("ImageID,ans,person\na,1,p\nb,2\n", r"row 3: has 2 cells, the header has 3"),
        ("ImageID,ans\na,1,2\n", r"row 2: has 3 cells, the header has 2"),
        ("ImageID,ans,ans\na,1,2\n", r'has the column "ans" 2 times'),
        pytest.param(f"ImageID,ans\na,{5000 * '7'}\n", r"row 2: ans = '7{40}'\.\.\. is not a class", id="5000"),
        pytest.param(f"ImageID,ans\na,{200_000 * '7'}\n", r"row 2: is not CSV \(field larger than", id="200000"),
        ("ImageID,ans\na,1.0\n", r"row 2: ans = '1\.0' is not"),
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
    with pytest.raises(DataError, match=r"row 2: the text looks like cp949.*; save it as UTF-8"):
        read_answers(tmp_path / "answers.csv", 18)
    with pytest.raises(DataError, match="no such file"):
        read_answers(tmp_path / "none.csv", 18)


def test_cells_are_stripped_and_nobody_known_stands_alone(tmp_path: Path) -> None:
    path = tmp_path / "answers.csv"
    path.write_text(" ImageID , ans,person\na , 07 ,p\nb,0, \nc, " + 5000 * "0" + "3,\nd,2,p\n")
    answers = read_answers(path, 18)
    assert (answers.ids, answers.answers.tolist()) == (["a", "b", "c", "d"], [7, 0, 3, 2])
    assert answers.persons is not None
    a, b, c, d = answers.persons
    assert a == d == "p"
    assert len({a, b, c, *answers.ids}) == 7


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
