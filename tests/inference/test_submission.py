"""Submissions are written in row order, and answers read back with their faults named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from base.label_space import LabelSpace
from inference.submission import align, read_answers, read_origin, write_origin, write_submission
from utils.errors import DataError

LABELS = LabelSpace(
    {
        "mask": {"classes": ["wear", "incorrect", "not_wear"]},
        "gender": {"classes": ["male", "female"]},
        "age": {"bins": [30, 60], "limits": [0, 120]},
    }
)
MANY = LabelSpace({f"a{number}": {"classes": ["1", "0"]} for number in range(13)})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "answers.csv"


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "answers.csv"
    names, joint = ["b.jpg", "가 나.jpg", 'quote",.png'], torch.tensor([17, 0, 3])
    write_submission(path, names, LABELS, joint, LABELS.attribute_classes(joint))
    answers = read_answers(path, LABELS)
    assert (answers.ids, answers.persons) == (names, None)
    assert answers.joint is not None
    assert answers.joint.tolist() == [17, 0, 3]
    assert {name: own.tolist() for name, own in answers.classes.items()} == {
        "mask": [2, 0, 0], "gender": [1, 0, 1], "age": [2, 0, 0]
    }  # fmt: skip
    assert path.read_bytes().startswith(b"ImageID,ans\nb.jpg,17\n")
    write_origin(path, LABELS, [])
    origin = read_origin(path)
    assert origin is not None
    assert origin.joint_class_names == LABELS.joint_class_names


def test_the_truth_stands_beside_where_it_is_known(path: Path) -> None:
    joint = torch.tensor([17, 0, 3])
    truth = {"mask": torch.tensor([2, -1, 0]), "gender": torch.tensor([1, 1, -1]), "age": torch.tensor([1, 0, 2])}
    write_submission(path, ["a", "b", "c"], LABELS, joint, LABELS.attribute_classes(joint), truth)
    assert path.read_text().splitlines() == [
        "ImageID,ans,true ans,true mask,true gender,true age",
        "a,17,16,not_wear,female,30-59",
        "b,0,,,female,<30",
        "c,3,,wear,,>=60",
    ]
    answers = read_answers(path, LABELS, complete=True)
    assert answers.joint is not None
    assert answers.joint.tolist() == [17, 0, 3]
    classes = LABELS.attribute_classes(joint)
    write_submission(path, ["a", "b", "c"], LABELS, joint, classes, {"age": truth["age"]})
    assert path.read_text().splitlines()[0] == "ImageID,ans,true age"


def test_the_quote_before_a_formula_is_removed_on_reading(path: Path, tmp_path: Path) -> None:
    """A submission with '-18.png is scored against a table with -18.png."""
    labels = LabelSpace({"side": {"classes": ["-1", "+1"]}})
    names, classes = ["-18.png", "=1+1", "'plain"], {"side": torch.tensor([0, 1, 0])}
    write_submission(path, names, labels, None, classes)
    assert path.read_text().splitlines()[1] == "'-18.png,'-1"
    answers = read_answers(path, labels, complete=True)
    assert (answers.ids, answers.classes["side"].tolist()) == (names, [0, 1, 0])
    (tmp_path / "truth.csv").write_text("ImageID,side,person\n=1+1,-1,a\n'plain,-1,b\n-18.png,+1,'-c\n")
    truth = read_answers(tmp_path / "truth.csv", labels)
    assert align(answers, truth.ids, truth.path).classes["side"].tolist() == [1, 0, 0]
    assert truth.persons == ["a", "b", "-c"]


def test_without_a_joint_class_each_attribute_has_a_column(path: Path) -> None:
    """By name: the class "1" is the number 0."""
    classes = {name: torch.tensor([0, number % 2]) for number, name in enumerate(MANY.attributes)}
    write_submission(path, ["a", "b"], MANY, None, classes)
    assert path.read_text().splitlines()[:2] == [",".join(["ImageID", *MANY.attributes]), ",".join(["a", *"1" * 13])]
    answers = read_answers(path, MANY, complete=True)
    assert answers.joint is None
    assert {name: own.tolist() for name, own in answers.classes.items()} == {
        name: own.tolist() for name, own in classes.items()
    }
    path.write_text("ImageID,ans\na,1\n")
    with pytest.raises(DataError, match="'a0'"):
        read_answers(path, MANY)


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        ("ImageID,mask\na,wear\nb,not_wear\n", {"mask": [0, 2]}),
        ("ImageID,mask\na,0\nb,2\n", {"mask": [0, 2]}),
        ("ImageID,mask\na,\nb,2\n", {"mask": [-1, 2]}),
        ("ImageID,age\na,>=60\nb,<30\n", {"age": [2, 0]}),
        ("ImageID,age\na,2\nb,0\n", {"age": [2, 0]}),
        ("ImageID,age\na,60\nb,29.5\n", {"age": [2, 0]}),
        ("other,gender,ImageID,mask\nx,female,a,1\nx,,b,0\n", {"gender": [1, -1], "mask": [1, 0]}),
        ("ImageID,mask,ans\na,x,7\nb,x,17\n", {"mask": [1, 2], "gender": [0, 1], "age": [1, 2]}),
        ("ImageID,ans\na,\nb,07\n", {"mask": [-1, 1], "gender": [-1, 0], "age": [-1, 1]}),
    ],
)
def test_columns_of_attributes_by_name_by_number_or_as_numbers(
    path: Path, text: str, classes: dict[str, list[int]]
) -> None:
    path.write_text(text)
    answers = read_answers(path, LABELS)
    assert answers.ids == ["a", "b"]
    assert {name: own.tolist() for name, own in answers.classes.items()} == classes


def test_all_columns_make_the_joint_class(path: Path) -> None:
    path.write_text("ImageID,mask,gender,age\na,not_wear,female,60\nb,wear,,20\n")
    joint = read_answers(path, LABELS).joint
    assert joint is not None
    assert joint.tolist() == [17, -1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ImageID,answer\na,1\n", ("'ans'", "'mask'", "ImageID, answer")),
        ("ImageID,ans\na,1\nb,18\n", ("row 3", "ans = '18'", "0 to 17")),
        ("ImageID,ans\na,-1\n", ("row 2", "ans = '-1'")),
        ("ImageID,ans\na,²\n", ("row 2", "ans = '²'")),
        ("ImageID,ans\na,1\na,2\n", ("row 3", "row 2")),
        ("ImageID,mask\na,wear\nb,none\n", ("row 3", "mask = 'none'", "wear, incorrect, not_wear")),
        ("ImageID,mask\na,wear\nb,1\n", ("row 3", "mask = '1'", "0 to 2")),
        ("ImageID,age\na,<30\nb,40\n", ("row 2", "age", "'<30'")),
        ("ImageID,age\na,30\nb,400\n", ("row 3", "age", "'400'")),
        pytest.param(f"ImageID,ans\na,{5000 * '7'}\n", ("row 2", f"ans = '{40 * '7'}'"), id="5000"),
    ],
)
def test_faults_are_named(path: Path, text: str, words: tuple[str, ...]) -> None:
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        read_answers(path, LABELS)
    assert all(word in str(caught.value) for word in ("answers.csv", *words)), str(caught.value)


@pytest.mark.parametrize("text", ["ImageID,mask\na,wear\nb,\n", "ImageID,ans\na,1\nb, \n"])
def test_a_submission_has_no_unknown_answer(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(DataError, match=r"row 3: .*is empty"):
        read_answers(path, LABELS, complete=True)


def test_cells_are_stripped_and_unknown_persons_are_different_ones(path: Path) -> None:
    path.write_text(" ImageID , ans,person\na , 7 ,p\nb,0, \nc,3,\nd,2,p\n")
    answers = read_answers(path, LABELS)
    assert answers.joint is not None
    assert (answers.ids, answers.joint.tolist()) == (["a", "b", "c", "d"], [7, 0, 3, 2])
    assert answers.persons is not None
    a, b, c, d = answers.persons
    assert a == d == "p"
    assert len({a, b, c, *answers.ids}) == 7


def test_answers_are_put_in_the_order_of_the_images(path: Path) -> None:
    path.write_text("ImageID,ans,person\na,1,x\nb,2,y\nc,3,z\n")
    answers = align(read_answers(path, LABELS), ["c", "a", "b"], "the images")
    assert answers.joint is not None
    assert answers.joint.tolist() == [3, 1, 2]
    assert answers.classes["age"].tolist() == [0, 1, 2]
    assert (answers.ids, answers.persons) == (["c", "a", "b"], ["z", "x", "y"])


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        (["a", "b"], ["answers.csv: c "]),
        (["a", "b", "c", "d"], ["answers.csv: ", "lacks d, ", "eval/info.csv"]),
        (["a", "b", "d"], ["lacks d, ", "eval/info.csv", "answers.csv: c "]),
    ],
)
def test_images_on_one_side_only_are_named(path: Path, ids: list[str], words: list[str]) -> None:
    path.write_text("ImageID,ans\na,1\nb,2\nc,3\n")
    with pytest.raises(DataError) as caught:
        align(read_answers(path, LABELS), ids, "eval/info.csv")
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"labels": {"attributes": {}}}', '{"labels": 3}'])
def test_a_damaged_file_beside_a_submission_is_named(path: Path, text: str) -> None:
    path.with_name("answers.csv.json").write_text(text)
    with pytest.raises(DataError, match=r"answers\.csv\.json: .*--labels"):
        read_origin(path)
