"""Label fixes: exactly the labels that the table names change, and nothing wrong in it passes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from base.label_space import LabelSpace
from data_loader.records import LabelTable, Record, read_records
from data_loader.records.sources import AttributeTable, CompetitionFolder
from data_loader.splits import PersonSplit
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
        read(FIXES + "004432,,gender,male,again\n")
    listed = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    listed = [line for line in listed if line.startswith(str(table))]
    assert listed[0] == f'{table} row 2: person "001498-1": gender = male -> female (7 images)'
    assert f'{table} row 6: path "006361_male_Asian_18/normal.jpg": mask = not_wear -> incorrect (1 image)' in listed
    assert f'{table} row 8: person "006361": age = 18 -> unknown (7 images)' in listed
    assert f'{table} row 9: person "004432": gender is male already (7 images)' in listed
    assert listed[-1] == f"{table}: 8 label fixes made, which changed 37 labels"
    caplog.clear()
    with caplog.at_level(logging.DEBUG):
        read("path,attribute,value\n" + "".join(f"{_photograph(n)},mask,wear\n" for n in range(21)))
    (line,) = (line for line in caplog.messages if line.startswith(f"{table}:"))
    assert line == f"{table}: 21 label fixes made, which changed 6 labels"
    assert sum(record.levelno == logging.DEBUG for record in caplog.records) == 21


def _photograph(number: int) -> str:
    person, gender, age = PEOPLE[number // 7]
    stem = ("mask1", "mask2", "mask3", "mask4", "mask5", "incorrect_mask", "normal")[number % 7]
    return f"{person}_{gender}_Asian_{age}/{stem}.jpg"


def test_a_fix_may_mend_what_would_be_refused(competition: Make, labels: LabelSpace, tmp_path: Path) -> None:
    root = competition([("000001", "mael", "abc")])
    (tmp_path / "fixes.csv").write_text("person,attribute,value\n000001,gender,male\n000001,age,61\n")
    table = read_records([CompetitionFolder(str(root))], labels, tmp_path / "fixes.csv")
    assert set(table.targets["age"].tolist()) == {2}
    with pytest.raises(DataError, match="mael"):
        read_records([CompetitionFolder(str(root))], labels)


def test_fixes_change_what_a_split_is_stratified_by(read: Read, labels: LabelSpace) -> None:
    records = read("person,attribute,value\n" + "".join(f"{person},gender,female\n" for person, _, _ in PEOPLE))
    split = PersonSplit(0.5, ["gender"]).divide(LabelTable.of(records, labels), 0)
    assert {record.attributes["gender"] for record in split.train.records} == {"female"}


def test_attributes_that_the_run_does_not_predict_may_be_fixed(competition: Make, tmp_path: Path) -> None:
    mask_only = LabelSpace({"mask": {"classes": ["wear", "incorrect", "not_wear"]}})
    (tmp_path / "fixes.csv").write_text("person,attribute,value\n004432,gender,male\n")
    source = CompetitionFolder(str(competition(PEOPLE)))
    records = read_records([source], mask_only, tmp_path / "fixes.csv").records
    assert {record.attributes["gender"] for record in records if record.person == "004432"} == {"male"}


def test_any_table_may_be_fixed(labels: LabelSpace, tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        (tmp_path / name).touch()
    (tmp_path / "table.csv").write_text("path,person,mask\na.jpg,p1,wear\nb.jpg,p1,wear\nc.jpg,,wear\n")
    (tmp_path / "fixes.csv").write_text("person,path,attribute,value\np1,,mask,incorrect\n,c.jpg,gender,female\n")
    labels = LabelSpace({"mask": {"classes": ["wear", "incorrect"]}, "gender": {"classes": ["male", "female"]}})
    records = read_records([AttributeTable(str(tmp_path / "table.csv"))], labels, tmp_path / "fixes.csv").records
    assert [record.attributes.get("mask") for record in records] == ["incorrect", "incorrect", "wear"]
    assert [record.attributes.get("gender") for record in records] == [None, None, "female"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("person,attribute,value\n00443,gender,male", 'row 2: person "00443" is in no source; did you mean "004432"?'),
        ("person,attribute,value\n001498-2,gender,male", 'row 2: person "001498-2" is in no source; did you mean "0'),
        ("path,attribute,value\n006361_male_Asian_18/normal.png,mask,wear",
         '"006361_male_Asian_18/normal.png" is in no source; did you mean "006361_male_Asian_18/normal.jpg"'),
        ("person,attribute,value\n004432,gendr,male", 'attribute "gendr" is not one of mask, gender, age, race; did'),
        ("person,attribute,value\n004432,,male", 'row 2: person "004432": attribute "" is not one of'),
        ("person,attribute,value\n004432,gender,mal", "gender = 'mal' is not one of male, female; did you mean"),
        ("person,attribute,value\n004432,age,<30", "row 2: person \"004432\": age = '<30' is not a number"),
        ("person,attribute,value\n004432,age,130", "age = '130' is not within 0 to 120"),
        ("person,path,attribute,value\n004432,x.jpg,age,13", "row 2: names a person and a path; keep one"),
        ("person,path,attribute,value\n,,age,13", "row 2: names neither a person nor a path"),
        ("id,attribute,value\n004432,age,13", 'has neither a column "person" nor a column "path"'),
        ("person,value\n004432,13", 'has no column "attribute"'),
        ("person,attribute,value\n004432,age,13\n004432,age,14", "row 3: person \"004432\": age = '14' contradicts"),
        ("person,attribute,value\n", "has no rows under its header"),
    ],
)  # fmt: skip
def test_bad_fixes_are_told_with_their_row(read: Read, text: str, expected: str) -> None:
    with pytest.raises(DataError) as refusal:
        read(text)
    assert refusal.value.exit_code == 3
    assert expected in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert "fixes.csv" in str(refusal.value)


def test_all_bad_fixes_are_told_together(read: Read, tmp_path: Path) -> None:
    with pytest.raises(DataError) as refusal:
        read("person,attribute,value\n" + "9,age,20\n" * 12 + "004432,age,x\n")
    assert "... and 3 more (13 problems in all)" in str(refusal.value)
    with pytest.raises(DataError, match=r"missing\.csv: there is no such file"):
        read_records(
            [CompetitionFolder(str(tmp_path / "my_train_data"))],
            LabelSpace({"age": {"bins": [30]}}),
            tmp_path / "missing.csv",
        )


def test_a_file_name_of_two_sources_is_ambiguous(labels: LabelSpace, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.jpg").touch()
        (tmp_path / folder / "table.csv").write_text("path,mask,gender,age\na.jpg,wear,male,20\n")
    (tmp_path / "fixes.csv").write_text("path,attribute,value\na.jpg,mask,incorrect\n")
    sources = [AttributeTable(str(tmp_path / folder / "table.csv")) for folder in ("one", "two")]
    with pytest.raises(
        DataError, match=r'path "a\.jpg" is in several sources \(.*one/table\.csv row 2, .*two/table\.csv row 2\)'
    ):
        read_records(sources, labels, tmp_path / "fixes.csv")
