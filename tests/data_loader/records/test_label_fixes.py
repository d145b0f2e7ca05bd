"""Label fixes: exactly the labels that the table names change, and nothing wrong in it passes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from base.label_space import LabelSpace
from data_loader.records import Record, read_records
from data_loader.records.sources import AttributeTable, CompetitionFolder
from utils.errors import DataError

PEOPLE = [
    ("001498-1", "male", "23"),
    ("001498", "male", "24"),
    ("004432", "female", "43"),
    ("006359", "male", "18"),
    ("006360", "male", "18"),
    ("006361", "male", "18"),
]
FIXES = """person,path,attribute,value,note
001498-1,,gender,female,the other ending is another person
004432,,gender,male,
006359,,gender,female,
006360,,gender,female,
,006361_male_Asian_18/normal.jpg,mask,incorrect,swapped with the next
,006361_male_Asian_18/incorrect_mask.jpg,mask,not_wear,
006361,,age,,nobody knows
"""
Make = Callable[[list[tuple[str, str, str]]], Path]
Read = Callable[[str], list[Record]]


@pytest.fixture
def read(competition: Make, labels: LabelSpace, tmp_path: Path) -> Read:
    """A function of the text of fixes.csv that reads the competition's folder with it."""
    root = competition(PEOPLE)

    def read(text: str) -> list[Record]:
        (tmp_path / "fixes.csv").write_text(text)
        return read_records([CompetitionFolder(str(root))], labels, tmp_path / "fixes.csv").records

    return read


def test_the_named_labels_change_and_no_others(read: Read, labels: LabelSpace, tmp_path: Path) -> None:
    before = read_records([CompetitionFolder(str(tmp_path / "my_train_data"))], labels).records
    expected = {}
    for record in before:
        fixed = dict(record.attributes)
        folder, stem = record.name.removesuffix(".jpg").split("/")
        if folder.split("_")[0] in ("001498-1", "006359", "006360"):
            fixed["gender"] = "female"
        if folder.startswith("004432"):
            fixed["gender"] = "male"
        if folder.startswith("006361"):
            fixed["mask"] = {"normal": "incorrect", "incorrect_mask": "not_wear"}.get(stem, "wear")
            fixed["age"] = None
        expected[record.name] = fixed
    after = read(FIXES)
    assert {record.name: record.attributes for record in after} == expected
    assert [(record.path, record.person, record.origin) for record in after] == [
        (record.path, record.person, record.origin) for record in before
    ]
    assert {record.person for record in after} == {"001498", "004432", "006359", "006360", "006361"}


def test_fixes_are_listed_in_the_log(read: Read, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = tmp_path / "fixes.csv"
    with caplog.at_level(logging.DEBUG):
        read(FIXES)
    listed = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    listed = [line for line in listed if line.startswith(str(table))]
    for number, words in {0: ("row 2", "001498-1", "male -> female", "7"), 4: ("row 6", "normal.jpg", "1"),
                          6: ("row 8", "18 -> unknown", "7"), 7: ("7 label fixes", "37 labels")}.items():  # fmt: skip
        assert all(word in listed[number] for word in words)


def test_a_fix_may_mend_what_would_be_refused(competition: Make, labels: LabelSpace, tmp_path: Path) -> None:
    root = competition([("000001", "mael", "abc")])
    (tmp_path / "fixes.csv").write_text("person,attribute,value\n000001,gender,male\n000001,age,61\n")
    table = read_records([CompetitionFolder(str(root))], labels, tmp_path / "fixes.csv")
    assert set(table.targets["age"].tolist()) == {2}
    with pytest.raises(DataError, match="mael"):
        read_records([CompetitionFolder(str(root))], labels)


def test_attributes_that_the_run_does_not_predict_may_be_fixed(competition: Make, tmp_path: Path) -> None:
    mask_only = LabelSpace({"mask": {"classes": ["wear", "incorrect", "not_wear"]}})
    (tmp_path / "fixes.csv").write_text("person,attribute,value\n004432,gender,male\n")
    source = CompetitionFolder(str(competition(PEOPLE)))
    records = read_records([source], mask_only, tmp_path / "fixes.csv").records
    assert {record.attributes["gender"] for record in records if record.person == "004432"} == {"male"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("person,attribute,value\n00443,gender,male", ["row 2", '"00443"']),
        ("path,attribute,value\n006361_male_Asian_18/normal.png,mask,wear",
         ["row 2", '"006361_male_Asian_18/normal.png"']),
        ("person,attribute,value\n004432,gendr,male", ["row 2", '"gendr"', "mask, gender, age, race"]),
        ("person,attribute,value\n004432,gender,mal", ["row 2", "'mal'", "male, female"]),
        ("person,attribute,value\n004432,age,130", ["row 2", "age = '130'", "0 to 120"]),
        ("person,path,attribute,value\n004432,x.jpg,age,13", ["row 2", "person", "path"]),
        ("person,path,attribute,value\n,,age,13", ["row 2", "person", "path"]),
        ("id,attribute,value\n004432,age,13", ["row 2", "person", "path"]),
        ("person,value\n004432,13", ['"attribute"']),
        ("person,attribute,value\n004432,age,13\n004432,age,14", ["row 3", "age = '14'", "row 2"]),
    ],
)  # fmt: skip
def test_bad_fixes_are_reported_with_their_row(read: Read, text: str, words: list[str]) -> None:
    with pytest.raises(DataError) as refusal:
        read(text)
    assert all(word in str(refusal.value) for word in ["fixes.csv", *words])
    assert "\n" not in str(refusal.value)


def test_a_file_name_of_two_sources_is_ambiguous(labels: LabelSpace, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.jpg").touch()
        (tmp_path / folder / "table.csv").write_text("path,mask,gender,age\na.jpg,wear,male,20\n")
    (tmp_path / "fixes.csv").write_text("path,attribute,value\na.jpg,mask,incorrect\n")
    sources = [AttributeTable(str(tmp_path / folder / "table.csv")) for folder in ("one", "two")]
    with pytest.raises(DataError, match=r'"a\.jpg".*one/table\.csv row 2.*two/table\.csv row 2'):
        read_records(sources, labels, tmp_path / "fixes.csv")
