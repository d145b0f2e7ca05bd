"""Sources and records: the competition's layout, tables, the evaluation folder, and what is refused."""

from __future__ import annotations

import csv
import logging
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from base.label_space import LabelSpace
from data_loader.records.records import read_records
from data_loader.records.sources import AttributeTable, CompetitionFolder, read_evaluation_folder
from utils.errors import DataError

Make = Callable[[list[tuple[str, str, str]]], Path]
PEOPLE = [("000001", "female", "45"), ("000002-1", "male", "18"), ("000003", "male", "60")]
SHARED = Path(__file__).parents[4] / "shared" / "data"


def _message(call: Callable[[], object]) -> str:
    with pytest.raises(DataError) as caught:
        call()
    assert caught.value.exit_code == 3
    return str(caught.value)


def _table(folder: Path, text: str, *images: str, encoding: str = "utf-8") -> AttributeTable:
    for image in images:
        (folder / image).parent.mkdir(parents=True, exist_ok=True)
        (folder / image).touch()
    (folder / "table.csv").write_bytes(text.encode(encoding))
    return AttributeTable(str(folder / "table.csv"))


def test_competition_folder_gives_each_photograph_with_its_attributes(competition: Make, labels: LabelSpace) -> None:
    root = competition(PEOPLE)
    first = root / "images" / "000001_female_Asian_45"
    (first / "mask1.jpg").rename(first / "MASK1.JPG")
    (first / "normal.jpg").rename(first / "Normal.JpEg")
    for junk in ("._mask1.jpg", ".DS_Store", "Thumbs.db"):
        (first / junk).touch()
    (root / "images" / "._000001_female_Asian_45").touch()
    records = read_records([CompetitionFolder(str(root))], labels)
    assert len(records) == 21
    assert all(record.path.is_file() for record in records)
    assert Counter(record.attributes["mask"] for record in records) == {"wear": 15, "incorrect": 3, "not_wear": 3}
    assert {record.person for record in records} == {"000001", "000002", "000003"}
    by_name = {record.name: record for record in records}
    bare = by_name["000001_female_Asian_45/Normal.JpEg"]
    assert bare.attributes == {"mask": "not_wear", "gender": "female", "age": "45", "race": "Asian"}
    assert bare.origin == f"{root / 'train.csv'} row 2"
    assert labels.scoring_targets(bare.attributes) == {"mask": 2, "gender": 1, "age": 1}


def test_folder_names_are_enough_where_there_is_no_table(competition: Make) -> None:
    root = competition(PEOPLE)
    with_table = CompetitionFolder(str(root)).read()
    (root / "train.csv").unlink()
    without = CompetitionFolder(str(root)).read()
    assert [(record.name, record.person, record.attributes) for record in without] == [
        (record.name, record.person, record.attributes) for record in with_table
    ]
    (root / "images" / "holiday").mkdir()
    assert "<id>_<gender>_<race>_<age>" in _message(CompetitionFolder(str(root)).read)


def test_one_id_on_two_folders_is_one_person(competition: Make) -> None:
    records = CompetitionFolder(str(competition([("003397", "female", "20"), ("003397", "female", "19")]))).read()
    assert len(records) == 14
    assert {record.person for record in records} == {"003397"}


def test_missing_photographs_are_refused_or_skipped(competition: Make, caplog: pytest.LogCaptureFixture) -> None:
    root = competition([(f"{number:06}", "male", "30") for number in range(14)])
    for number in range(12):
        shutil.rmtree(root / "images" / f"{number:06}_male_Asian_30")
    (root / "images" / "000012_male_Asian_30" / "mask3.jpg").unlink()
    message = _message(CompetitionFolder(str(root)).read)
    assert message.count("\n") == 10
    assert "... and 3 more (13 problems in all)" in message
    assert 'on_missing to "skip"' in message
    with caplog.at_level(logging.WARNING):
        assert len(CompetitionFolder(str(root), on_missing="skip").read()) == 13
    assert "13 folders" in caplog.text


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("id,gender", "id,sex", 'train.csv: has no column "gender" (its columns are id, sex, race, age, path)'),
        (",Asian,18,", ",Asian,abc,", "train.csv row 3: age = 'abc' is not a number"),
        (",Asian,18,", ",Asian,-1,", "train.csv row 3: age = '-1' is not within 0 to 120"),
        (",Asian,18,", ",Asian,300,", "train.csv row 3: age = '300' is not within 0 to 120"),
        ("000003,male", "000003,mael", "train.csv row 4: gender = 'mael' is not one of male, female"),
        ("000003_male_Asian_60", "000001_female_Asian_45", '_Asian_45" stands already in row 2'),
        ("000003_male_Asian_60", "../images/x", 'row 4: the path "../images/x" leaves its folder'),
        ("000003_male_Asian_60", "/etc", 'row 4: the path "/etc" leaves its folder'),
        ("000003_male_Asian_60", "=cmd()", "which a spreadsheet would run as a formula"),
        ("000003,male", "000\x0003,male", "train.csv row 4: holds a NUL byte"),
        (",Asian,60", ",Asian,60,7", "train.csv row 4: has 6 cells, the header has 5"),
        (",", ";", "the columns are parted by ';'"),
        ('000003,male', '"000003,male', "is not CSV"),
    ],
)  # fmt: skip
def test_bad_tables_are_told_in_one_line(
    competition: Make, labels: LabelSpace, old: str, new: str, expected: str
) -> None:
    root = competition(PEOPLE)
    table = root / "train.csv"
    text = table.read_text()
    assert old in text
    table.write_text(text.replace(old, new))
    message = _message(lambda: read_records([CompetitionFolder(str(root))], labels))
    assert expected in message
    assert "\n" not in message


def test_all_kinds_of_problems_come_together(tmp_path: Path, labels: LabelSpace) -> None:
    text = "path,mask,gender,age\na.jpg,wear,male,abc\nb.jpg,worn,male,3\nc.jpg,wear,male,3\n/d.jpg,wear,male,3\n"
    message = _message(lambda: read_records([_table(tmp_path, text, "a.jpg", "b.jpg")], labels))
    assert message.count("\n") == 3
    for expected in ("row 2: age", "row 3: mask", 'row 4: image "c.jpg" is missing', 'row 5: the path "/d.jpg"'):
        assert expected in message


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [("utf-16", "looks like UTF-16"), ("utf-16-le", "UTF-16"), ("cp949", "row 2: the text looks like cp949")],
)
def test_other_encodings_are_named(tmp_path: Path, encoding: str, expected: str) -> None:
    table = _table(tmp_path, "path,mask\n마스크 얼굴.jpg,wear\n", encoding=encoding)
    assert expected in _message(table.read)
    assert "save it as UTF-8" in _message(table.read)


def test_utf8_with_a_byte_order_mark_and_names_of_any_letters(tmp_path: Path) -> None:
    records = _table(tmp_path, "path,mask\n얼굴 하나 😷.jpg,wear\n", "얼굴 하나 😷.jpg", encoding="utf-8-sig").read()
    assert [record.attributes for record in records] == [{"mask": "wear"}]


@pytest.mark.parametrize("text", ["path,mask\n", "path,mask\n\n,\n", ""])
def test_a_table_without_rows_is_refused(tmp_path: Path, text: str) -> None:
    assert "has no rows" in _message(_table(tmp_path, text).read)


def test_rows_are_numbered_as_a_spreadsheet_does(tmp_path: Path, labels: LabelSpace) -> None:
    text = 'path,mask,note\n\na.jpg,wear,"two\nlines"\nb.jpg,worn,\n'
    message = _message(lambda: read_records([_table(tmp_path, text, "a.jpg", "b.jpg")], labels))
    assert message.startswith(f"{tmp_path / 'table.csv'} row 4: mask = 'worn'")


def test_links_may_not_lead_out_of_the_root(tmp_path: Path, competition: Make) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "x.jpg").touch()
    (tmp_path / "data").mkdir()
    table = _table(tmp_path / "data", "path,mask\na.jpg,wear\nb/x.jpg,wear\nc.jpg,wear\n", "real.jpg")
    (tmp_path / "data" / "a.jpg").symlink_to(secret / "x.jpg")
    (tmp_path / "data" / "b").symlink_to(secret)
    (tmp_path / "data" / "c.jpg").symlink_to("real.jpg")
    message = _message(table.read)
    assert message.count("link that leads out") == 2
    assert "c.jpg" not in message
    root = competition(PEOPLE)
    folder = root / "images" / "000001_female_Asian_45"
    folder.rename(secret / "moved")
    folder.symlink_to(secret / "moved")
    assert "link that leads out" in _message(CompetitionFolder(str(root)).read)


def test_a_wrong_folder_is_told_with_what_is_there(competition: Make, tmp_path: Path) -> None:
    root = competition(PEOPLE)
    parent = _message(CompetitionFolder(str(root.parent)).read)
    assert f"there is a train.csv in {root}: set that folder" in parent
    assert f"there is a train.csv in {root}" in _message(CompetitionFolder(str(root / "images")).read)
    assert "there is no such folder" in _message(CompetitionFolder(str(tmp_path / "nowhere")).read)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "expected train.csv and images/ in it; it is empty" in _message(CompetitionFolder(str(empty)).read)
    (empty / "images").mkdir()
    assert "images: is empty" in _message(CompetitionFolder(str(empty)).read)


def test_a_photograph_named_after_no_mask_state_is_refused(competition: Make) -> None:
    root = competition(PEOPLE)
    (root / "images" / "000001_female_Asian_45" / "selfie.png").touch()
    assert "named after no mask state" in _message(CompetitionFolder(str(root)).read)


def test_a_table_with_other_columns_and_unknown_values(tmp_path: Path, labels: LabelSpace) -> None:
    text = "file,who,sex,age,side\na.jpg,p,male,,train\nb.jpg,q,,31,VAL\nc.jpg,,female,,\n"
    _table(tmp_path, text, "img/a.jpg", "img/b.jpg", "img/c.jpg")
    source = AttributeTable(
        str(tmp_path / "table.csv"), str(tmp_path / "img"), "file", "who", {"gender": "sex", "mask": None}, "side"
    )
    records = source.read()
    assert [record.part for record in records] == ["train", "validation", None]
    assert [record.person for record in records] == ["p", "q", ""]
    gender = LabelSpace({"gender": {"classes": ["male", "female"]}})
    assert [record.person for record in read_records([source], gender)] == ["p", "q", "0:c.jpg"]
    assert [labels.targets(record.attributes) for record in records] == [
        {"mask": -1, "gender": 0, "age": -1},
        {"mask": -1, "gender": -1, "age": 1},
        {"mask": -1, "gender": 1, "age": -1},
    ]
    unknown_mask = _message(lambda: read_records([source], labels))
    assert '"mask" is to be predicted, but no record knows it' in unknown_mask
    custom = AttributeTable(
        str(tmp_path / "table.csv"), str(tmp_path / "img"), "file", None, None, "side", {"train": "test"}
    )
    assert 'side = "VAL" is not one of train' in _message(custom.read)


def test_sources_join_and_an_image_may_stand_once(competition: Make, tmp_path: Path, labels: LabelSpace) -> None:
    root = competition(PEOPLE)
    table = _table(tmp_path, "path,mask\nx/y.jpg,wear\n", "x/y.jpg")
    records = read_records([CompetitionFolder(str(root)), table], labels)
    assert len(records) == 22
    assert records[-1].attributes == {"mask": "wear"}
    again = _message(lambda: read_records([table, AttributeTable(os.path.relpath(table.path))], labels))
    assert "is the image of" in again


def test_a_person_on_both_sides_of_a_given_split_is_refused(tmp_path: Path, labels: LabelSpace) -> None:
    text = "path,person,mask,split\na.jpg,p,wear,train\nb.jpg,p,wear,test\nc.jpg,q,wear,test\n"
    _table(tmp_path, text, "a.jpg", "b.jpg", "c.jpg")
    source = AttributeTable(str(tmp_path / "table.csv"), split_column="split")
    message = _message(lambda: read_records([source], labels))
    assert 'row 3: person "p" is in test' in message
    assert '"q"' not in message


def _evaluation_folder(folder: Path, text: str, names: list[str]) -> Path:
    (folder / "images").mkdir()
    for name in names:
        (folder / "images" / name).touch()
    (folder / "info.csv").write_text(text)
    return folder


def test_the_evaluation_folder_keeps_the_order_of_its_rows(tmp_path: Path) -> None:
    records = read_evaluation_folder(
        _evaluation_folder(tmp_path, "ImageID,ans\nb.jpg,0\na.png,0\n", ["a.png", "b.jpg"])
    )
    assert [record.name for record in records] == ["b.jpg", "a.png"]
    assert all(record.part == "test" and not record.attributes and record.path.is_file() for record in records)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ImageID,ans\na.jpg,0\na.jpg,0\n", 'row 3: ImageID "a.jpg" stands already in row 2'),
        ("ImageID,answer\na.jpg,0\n", 'has no column "ans" (its columns are ImageID, answer); did you mean "answer"?'),
        ("ImageID,ans,x\na.jpg,0,0\n", "has the columns ImageID, ans, x; expected ImageID,ans and no others"),
        ("ImageID,ans\n=1+1.jpg,0\n", 'row 2: the name "=1+1.jpg" begins with "="'),
        ("ImageID,ans\n../info.csv,0\n", "leaves its folder"),
        ("ImageID,ans\nz.jpg,0\n", 'row 2: image "z.jpg" is missing in'),
        ("ImageID,ans\nimages,0\n", 'row 2: image "images" is missing in'),
    ],
)
def test_a_bad_evaluation_table_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    folder = _evaluation_folder(tmp_path, text, ["a.jpg"])
    assert expected in _message(lambda: read_evaluation_folder(folder))


@pytest.mark.long
@pytest.mark.skipif(not (SHARED / "competition").exists(), reason="needs the competition's tables")
def test_the_competition_at_full_size(tmp_path: Path, labels: LabelSpace) -> None:
    with (SHARED / "competition" / "train_files.csv").open() as file:
        answers = {row["path"]: int(row["label"]) for row in csv.DictReader(file)}
    for folder in {name.split("/")[0] for name in answers}:
        (tmp_path / "images" / folder).mkdir(parents=True)
    for name in answers:
        (tmp_path / "images" / name).touch()
    shutil.copy(SHARED / "competition" / "train.csv", tmp_path)
    started = time.perf_counter()
    records = read_records([CompetitionFolder(str(tmp_path))], labels)
    assert time.perf_counter() - started < 2
    parts = {record.name: labels.scoring_targets(record.attributes) for record in records}
    assert {name: part["mask"] * 6 + part["gender"] * 3 + part["age"] for name, part in parts.items()} == answers
    with (SHARED / "competition" / "train.csv").open() as file:
        assert {record.person for record in records} == {row["id"].split("-")[0] for row in csv.DictReader(file)}
