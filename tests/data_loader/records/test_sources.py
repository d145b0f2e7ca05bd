"""Sources: the competition's layout, tables, the evaluation folder, and what is refused."""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_loader.records import Record
from data_loader.records.sources import AttributeTable, BaseSource, CompetitionFolder, read_evaluation_folder
from data_loader.records.tables import raise_problems
from utils.errors import DataError

Make = Callable[[list[tuple[str, str, str]]], Path]
PEOPLE = [("000001", "female", "45"), ("000002-1", "male", "18"), ("000003", "male", "60")]


def _read(source: BaseSource, *attributes: str) -> list[Record]:
    problems: list[str] = []
    records = source.collect(problems, attributes)
    raise_problems(problems)
    return records


def _refusal(call: Callable[[], object]) -> str:
    with pytest.raises(DataError) as caught:
        call()
    assert caught.value.exit_code == 3
    return str(caught.value)


def _table(folder: Path, text: str, *images: str, **arguments: Any) -> AttributeTable:
    for image in images:
        (folder / image).parent.mkdir(parents=True, exist_ok=True)
        (folder / image).touch()
    (folder / "table.csv").write_text(text, encoding="utf-8")
    return AttributeTable(str(folder / "table.csv"), **arguments)


# The competition's folders


def test_competition_folder_gives_each_photograph_with_its_attributes(competition: Make) -> None:
    root = competition(PEOPLE)
    first = root / "images" / "000001_female_Asian_45"
    (first / "mask1.jpg").rename(first / "MASK1.JPG")
    (first / "normal.jpg").rename(first / "Normal.JpEg")
    for junk in ("._mask1.jpg", ".DS_Store", "Thumbs.db"):
        (first / junk).touch()
    (root / "images" / "._000001_female_Asian_45").touch()
    records = _read(CompetitionFolder(str(root)))
    assert len(records) == 21
    assert all(record.path.is_file() for record in records)
    assert Counter(record.attributes["mask"] for record in records) == {"wear": 15, "incorrect": 3, "not_wear": 3}
    assert {record.person for record in records} == {"000001", "000002", "000003"}
    (bare,) = (record for record in records if record.name == "000001_female_Asian_45/Normal.JpEg")
    assert bare.attributes == {"mask": "not_wear", "gender": "female", "age": "45", "race": "Asian"}
    assert bare.origin == f"{root / 'train.csv'} row 2"


def test_folder_names_are_enough_where_there_is_no_table(competition: Make) -> None:
    root = competition(PEOPLE)
    with_table = _read(CompetitionFolder(str(root)))
    (root / "train.csv").unlink()
    without = _read(CompetitionFolder(str(root)))
    assert [(record.name, record.person, record.attributes) for record in without] == [
        (record.name, record.person, record.attributes) for record in with_table
    ]
    (root / "images" / "holiday").mkdir()
    assert "holiday" in _refusal(lambda: _read(CompetitionFolder(str(root))))


def test_missing_photographs_are_refused_or_skipped(competition: Make, caplog: pytest.LogCaptureFixture) -> None:
    root = competition([(f"{number:06}", "male", "30") for number in range(14)])
    for number in range(12):
        shutil.rmtree(root / "images" / f"{number:06}_male_Asian_30")
    (root / "images" / "000012_male_Asian_30" / "mask3.jpg").unlink()
    refusal = _refusal(lambda: _read(CompetitionFolder(str(root))))
    assert refusal.count("\n") == 10
    assert "13 problems" in refusal
    assert "on_missing" in refusal
    assert len(_read(CompetitionFolder(str(root), on_missing="skip"))) == 13
    assert "13 folders" in caplog.text


def test_a_photograph_under_several_extensions_counts_once(competition: Make, caplog: pytest.LogCaptureFixture) -> None:
    root = competition(PEOPLE)
    for extension in ("jpeg", "png"):
        (root / "images" / "000003_male_Asian_60" / f"normal.{extension}").touch()
    once = _read(CompetitionFolder(str(root)))
    assert len({record.name.rpartition(".")[0] for record in once}) == len(once) == 21
    assert "2 photographs" in caplog.text
    assert "same_stem" in caplog.text
    assert len(_read(CompetitionFolder(str(root), same_stem="all"))) == 23


def test_a_folder_may_be_a_link_out_of_the_root_where_that_is_allowed(tmp_path: Path, competition: Make) -> None:
    root = competition(PEOPLE)
    folder = root / "images" / "000001_female_Asian_45"
    folder.rename(tmp_path / "moved")
    folder.symlink_to(tmp_path / "moved")
    assert "allow_links" in _refusal(lambda: _read(CompetitionFolder(str(root))))
    assert len(_read(CompetitionFolder(str(root), allow_links=True))) == 21


# Tables


def test_a_table_with_other_columns_and_unknown_values(tmp_path: Path) -> None:
    text = "file,who,sex,age,side\na.jpg,p,male,,train\nb.jpg,q,,31,VAL\nc.jpg,,female,,\n"
    source = _table(
        tmp_path, text, "img/a.jpg", "img/b.jpg", "img/c.jpg",
        root=str(tmp_path / "img"), path_column="file", person_column="who", split_column="side",
        columns={"gender": "sex", "age": None},
    )  # fmt: skip
    records = _read(source, "gender", "age")
    assert [record.part for record in records] == ["train", "validation", None]
    assert [record.person for record in records] == ["p", "q", ""]
    assert [record.attributes["gender"] for record in records] == ["male", None, "female"]
    assert all("age" not in record.attributes for record in records)
    source.split_values = {"train": "test"}
    refusal = _refusal(lambda: _read(source))
    assert all(word in refusal for word in ("row 3", 'side = "VAL"', "train"))


def test_columns_are_taken_by_what_they_look_like(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = "Image Path,Subject_ID,Sex,AGE,Partition\na.jpg,p,male,30,train\nb.jpg,p,female,31,Dev\nc.jpg,q,,,test\n"
    source = _table(tmp_path, text, "a.jpg", "b.jpg", "c.jpg")
    with caplog.at_level(logging.INFO):
        records = _read(source, "gender", "age")
    assert [record.name for record in records] == ["a.jpg", "b.jpg", "c.jpg"]
    assert [record.person for record in records] == ["p", "p", "q"]
    assert [record.part for record in records] == ["train", "validation", "test"]
    assert [record.attributes for record in records] == [
        {"gender": "male", "age": "30"},
        {"gender": "female", "age": "31"},
        {"gender": None, "age": None},
    ]
    for column in ("Image Path", "Subject_ID", "Sex", "AGE", "Partition"):
        assert f'"{column}"' in caplog.text
    source.split_column = None
    assert {record.part for record in _read(source, "gender")} == {None}


def test_a_column_that_is_an_attribute_is_no_split_and_no_person(tmp_path: Path) -> None:
    records = _read(_table(tmp_path, "path,set,subject\na.jpg,test,cat\n", "a.jpg"), "set", "subject")
    assert records[0].attributes == {"set": "test", "subject": "cat"}
    assert (records[0].part, records[0].person) == (None, "")


def test_a_column_whose_cells_are_no_sides_is_no_split(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    records = _read(_table(tmp_path, "path,person,set\na.jpg,p,train\nb.jpg,q,7\n", "a.jpg", "b.jpg"))
    assert [record.part for record in records] == [None, None]
    assert all(word in caplog.text for word in ('"set"', '"7"', "split_column"))


def test_images_without_persons_are_said_to_stand_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = _table(tmp_path, "path,age\na.jpg,3\n", "a.jpg")
    assert _read(source)[0].person == ""
    assert [line.levelname for line in caplog.records if "no person column" in line.getMessage()] == ["WARNING"]
    caplog.clear()
    source.person_column = None  # as was asked for
    _read(source)
    assert not caplog.records


def test_a_table_without_paths_says_what_names_them(tmp_path: Path) -> None:
    refusal = _refusal(lambda: _read(_table(tmp_path, "id,age\n1,3\n")))
    assert all(word in refusal for word in ("path_column", "id, age"))
    assert '"who"' in _refusal(lambda: _read(_table(tmp_path, "path,age\n1,3\n", person_column="who")))


def test_ids_without_extension(tmp_path: Path) -> None:
    records = _read(_table(tmp_path, "path\n1\n2\n", "1.jpg", "2.png"))
    assert [(record.name, record.path.name) for record in records] == [("1", "1.jpg"), ("2", "2.png")]


# The evaluation folder


def _evaluation_folder(folder: Path, text: str, names: list[str]) -> Path:
    (folder / "images").mkdir()
    for name in names:
        (folder / "images" / name).touch()
    (folder / "info.csv").write_text(text)
    return folder


def test_the_evaluation_folder_keeps_the_order_of_its_rows(tmp_path: Path) -> None:
    folder = _evaluation_folder(tmp_path, "ImageID,ans\nb.jpg,0\na.png,0\n", ["a.png", "b.jpg"])
    records = read_evaluation_folder(folder)
    assert [record.name for record in records] == ["b.jpg", "a.png"]
    assert all(record.part == "test" and not record.attributes and record.path.is_file() for record in records)
