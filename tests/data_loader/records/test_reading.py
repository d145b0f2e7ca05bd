"""Sources joined to one label table."""

from __future__ import annotations

import csv
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from base.label_space import LabelSpace
from data_loader.records import read_records
from data_loader.records.sources import AttributeTable, CompetitionFolder
from utils.errors import DataError

Make = Callable[[list[tuple[str, str, str]]], Path]
SHARED = Path(__file__).parents[4] / "shared" / "data"


def _table(folder: Path, text: str, *images: str, **arguments: Any) -> AttributeTable:
    folder.mkdir(exist_ok=True)
    for image in images:
        (folder / image).touch()
    (folder / "table.csv").write_text(text, encoding="utf-8")
    return AttributeTable(str(folder / "table.csv"), **arguments)


def _refusal(call: Callable[[], object]) -> str:
    with pytest.raises(DataError) as caught:
        call()
    return str(caught.value)


def test_an_image_may_occur_once(competition: Make, tmp_path: Path, labels: LabelSpace) -> None:
    root = competition([("000001", "female", "45")])
    table = _table(tmp_path, "path,mask\ny.jpg,wear\n", "y.jpg")
    joined = read_records([CompetitionFolder(str(root)), table], labels)
    assert len(joined) == 8
    assert joined.records[-1].attributes == {"mask": "wear"}
    again = _refusal(lambda: read_records([table, AttributeTable(os.path.relpath(table.path))], labels))
    assert again.count("row 2") == 2


def test_images_without_persons_are_persons_of_their_own(tmp_path: Path) -> None:
    labels = LabelSpace({"mask": {"classes": ["wear", "not_wear"]}})
    text = "path,person,mask\na.jpg,p,wear\nb.jpg,,wear\n"
    sources = [_table(tmp_path / name, text, "a.jpg", "b.jpg") for name in ("one", "two")]
    persons = [record.person for record in read_records(sources, labels).records]
    assert persons[0] == persons[2] == "p"
    assert len(set(persons)) == 3
    sources[1].persons = "own"
    persons = [record.person for record in read_records(sources, labels).records]
    assert len(set(persons)) == 4


def test_each_source_is_one_line_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    labels = LabelSpace({"gender": {"classes": ["male", "female"]}, "age": {"bins": [30]}})
    sources = [
        _table(tmp_path / "a", "path,person,gender,age\na.jpg,p,male,20\nb.jpg,p,,40\n", "a.jpg", "b.jpg"),
        _table(tmp_path / "b", "path,person,Gender\nc.jpg,q,female\n", "c.jpg"),
        _table(tmp_path / "c", "path,person,colour\nd.jpg,r,red\n", "d.jpg"),
    ]
    with caplog.at_level(logging.INFO):
        read_records(sources, labels)
    expected = [
        ("INFO", ("2 images of 1 persons", "gender 1", "age 2")),
        ("INFO", ("1 images of 1 persons", "gender 1", "age none")),
        ("WARNING", ("1 images of 1 persons", "gender none", "age none")),
    ]
    for source, (level, words) in zip(sources, expected, strict=True):
        (line,) = (line for line in caplog.records if line.getMessage().startswith(f"{source.path}: ") and
                   "images of" in line.getMessage())  # fmt: skip
        assert line.levelname == level
        assert all(word in line.getMessage() for word in words)


def test_a_class_that_no_image_has_is_warned_of(
    competition: Make, labels: LabelSpace, caplog: pytest.LogCaptureFixture
) -> None:
    read_records([CompetitionFolder(str(competition([("000001", "female", "45"), ("000002", "male", "20")])))], labels)
    (line,) = caplog.messages
    assert ">=60" in line


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
    table = read_records([CompetitionFolder(str(tmp_path))], labels)
    joint = labels.joint_classes(table.scoring_targets).tolist()
    assert {record.name: answer for record, answer in zip(table.records, joint, strict=True)} == answers
    with (SHARED / "competition" / "train.csv").open() as file:
        assert {record.person for record in table.records} == {row["id"].split("-")[0] for row in csv.DictReader(file)}


def test_sources_without_images_are_told_as_such(labels: LabelSpace) -> None:
    class Empty(AttributeTable):
        def collect(self, problems: list[str], attributes: Any = ()) -> list[Any]:  # noqa: ARG002
            return []

    line = _refusal(lambda: read_records([Empty("empty.csv")], labels))
    assert line == "data: the sources give no images (empty.csv); name a folder or table that has some"
