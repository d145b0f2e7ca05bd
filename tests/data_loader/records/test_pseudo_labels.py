"""Pseudo-labels: what models are sure of trains, with its weight, and nothing of it ever validates."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from base.attribute import ScoredClass
from base.label_space import LabelSpace
from data_loader.records import LabelTable, read_records
from data_loader.records.sources import AttributeTable, BaseSource, PseudoLabels
from data_loader.splits import BaseSplit, GivenSplit, KFoldSplit, PersonSplit, Split
from utils.errors import DataError

HEADER = "ImageID,mask wear,mask incorrect,mask not_wear,gender male,gender female,age <30,age 30-59,age >=60"
ROWS = [
    "a.jpg,0.96,0.03,0.01,0.500000,0.500000,0.05,0.05,0.9",
    "b.jpg,0.5,0.3,0.2,0.93,0.07,0.899,0.1,0.001",
    "c.jpg,0.4,0.3,0.3,0.6,0.4,0.4,0.3,0.3",
]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for name in "abc":
        (tmp_path / "images" / f"{name}.jpg").touch()
    (tmp_path / "both_probabilities.csv").write_text("\n".join([HEADER, *ROWS]))
    return tmp_path / "both_probabilities.csv"


def source(table: Path, **arguments: Any) -> PseudoLabels:
    return PseudoLabels(str(table), str(table.parent / "images"), **arguments)


def known(table: Path, labels: LabelSpace, thresholds: Any) -> dict[str, dict[str, str]]:
    problems: list[str] = []
    records = source(table, thresholds=thresholds).collect(problems, labels.attributes)
    assert not problems
    return {record.name: {name: str(value) for name, value in record.attributes.items()} for record in records}


def test_what_is_below_its_threshold_is_unknown(table: Path, labels: LabelSpace) -> None:
    sure = {"a.jpg": {"mask": "wear", "age": ">=60"}, "b.jpg": {"gender": "male"}}
    assert known(table, labels, 0.9) == sure
    assert known(table, labels, {"gender": 0.55, "age": 0.95}) == {
        "b.jpg": {"gender": "male"},
        "c.jpg": {"gender": "male"},
    }


def test_a_scored_class_is_the_training_class_that_alone_is_scored_as_it() -> None:
    def age(*training_bins: int) -> LabelSpace:
        return LabelSpace({"age": {"bins": [30, 60], "training_bins": [*training_bins]}})

    def classes(labels: LabelSpace) -> list[tuple[int, int]]:
        age = labels.attributes["age"]
        raw = [ScoredClass(name) for name in age.class_names]
        return [(age.training_class(each), age.scoring_class(each)) for each in raw]

    assert classes(age(30, 60)) == classes(age(28, 58)) == [(0, 0), (1, 1), (2, 2)]
    assert classes(age(20, 30, 60)) == [(-1, 0), (2, 1), (3, 2)]
    attribute = age(30, 60).attributes["age"]
    assert np.isnan(attribute.number(ScoredClass("<30")))
    with pytest.raises(DataError, match="<31"):
        attribute.training_class(ScoredClass("<31"))


def test_bad_tables_are_refused(table: Path, labels: LabelSpace) -> None:
    def refusal(text: str, **arguments: Any) -> list[str]:
        table.write_text(text)
        with pytest.raises(DataError) as caught:
            read_records([source(table, **arguments)], labels)
        return str(caught.value).splitlines()

    good = [HEADER, *ROWS]
    assert len(refusal("ImageID,ans\na.jpg,3")) == 1
    assert f"{table}: has no probabilities of age" in refusal("ImageID,mask wear\na.jpg,1", thresholds={"age": 0.9})[0]
    assert "thresholds names no attribute" in refusal("\n".join(good), thresholds={})[0]
    assert f"{table}: no probability reaches" in refusal("\n".join(good), thresholds=0.99)[0]
    for row, wrong in {
        "a.jpg,1,0,0,1,0,1,0,0": "row 5: ImageID",
        "d.jpg,1,0,0,1,0,1,0,0": "row 5: image",
        "../a.jpg,1,0,0,1,0,1,0,0": "row 5: the path",
    }.items():
        assert refusal("\n".join([*good, row]))[0].startswith(f"{table} {wrong}")
    (table.parent / "images" / "d.jpg").touch()
    for mask, gender in (("1,0.5,0", "1,0"), ("1,0,0", "nan,nan"), ("1,0,0", ","), ("1,0,0", "-1,2")):
        [line] = refusal("\n".join([*good, f"d.jpg,{mask},{gender},1,0,0"]))
        assert line.startswith(f"{table} row 5: the probabilities of ")
    other = "\n".join([HEADER.replace("age <30", "age <31"), *ROWS])
    assert "not one of <30" in refusal(other, thresholds=0.4)[0]


def labelled(folder: Path, persons: int = 40) -> AttributeTable:
    """Two images of each person, and one more that is to train only."""
    rows = ["path,person,mask,gender,age"]
    for number in range(2 * persons):
        (folder / f"{number:03}.jpg").touch()
        rows.append(f"{number:03}.jpg,p{number // 2},wear,{('male', 'female')[number // 2 % 2]},{20 + number // 2}")
    (folder / "labels.csv").write_text("\n".join(rows))
    return AttributeTable(str(folder / "labels.csv"))


def divided(sources: list[BaseSource], labels: LabelSpace, rule: BaseSplit) -> tuple[LabelTable, Split]:
    table = read_records(sources, labels)
    return table, rule.divide(table, 0)


@pytest.mark.parametrize("rule", [PersonSplit(0.3, ["gender"]), KFoldSplit(4, 1)], ids=["person", "fold"])
def test_they_train_and_the_same_people_validate(
    table: Path, labels: LabelSpace, tmp_path: Path, rule: BaseSplit
) -> None:
    own = labelled(tmp_path)
    _, before = divided([own], labels, rule)
    weighted = source(table, weight=0.5)
    _, after = divided([own, weighted], labels, rule)
    assert after.validation_digest() == before.validation_digest()
    assert {record.name for record in after.train.records} - {record.name for record in before.train.records} == {
        "a.jpg", "b.jpg",
    }  # fmt: skip
    weights = after.train.sample_weights
    assert before.train.sample_weights is None
    assert weights is not None
    assert {record.name for record, weight in zip(after.train.records, weights, strict=True) if weight == 0.5} == {
        "a.jpg", "b.jpg",
    }  # fmt: skip
    digests = {divided([own, source(table, weight=weight)], labels, rule)[1].digest() for weight in (0.5, 0.6, 1.0)}
    assert len(digests | {before.digest()}) == 4


def test_training_images_of_a_person_who_validates_are_left_out(labels: LabelSpace, tmp_path: Path) -> None:
    own = labelled(tmp_path)
    more = ["path,person,mask", *(f"x{number}.jpg,p{number},wear" for number in range(50))]
    (tmp_path / "more.csv").write_text("\n".join(more))
    for number in range(50):
        (tmp_path / f"x{number}.jpg").touch()
    _, split = divided([own, AttributeTable(str(tmp_path / "more.csv"), train_only=True)], labels, PersonSplit(0.25))
    validating = {record.person for record in split.validation.records}
    assert len(validating) == 10
    assert not any(record.name.startswith("x") for record in split.validation.records)
    extra = {record.person for record in split.train.records if record.name.startswith("x")}
    assert extra == {f"p{number}" for number in range(50)} - validating


def test_a_side_that_the_table_gives_must_be_training(table: Path, labels: LabelSpace, tmp_path: Path) -> None:
    labelled(tmp_path)
    lines = (tmp_path / "labels.csv").read_text().splitlines()
    sides = ["split", *("validation" if number < 10 else "train" for number in range(len(lines) - 1))]
    (tmp_path / "labels.csv").write_text("\n".join(map(",".join, zip(lines, sides, strict=True))))
    given = AttributeTable(str(tmp_path / "labels.csv"))
    _, split = divided([given, source(table)], labels, GivenSplit())
    assert (len(split.train), len(split.validation)) == (72, 10)
    with pytest.raises(DataError, match=r"labels.csv row 2: .*train_only"):
        read_records([AttributeTable(str(tmp_path / "labels.csv"), train_only=True)], labels)


def test_provenance_names_the_models(table: Path) -> None:
    assert source(table).provenance()["models"] == []
    models = [{"run": "0101_1", "validation_digest": "12"}]
    (table.parent / "both.csv.json").write_text(json.dumps({"labels": {}, "models": models}))
    digest = hashlib.sha256(table.read_bytes()).hexdigest()
    assert source(table).provenance() == {"path": str(table), "sha256": digest, "models": models}
    (table.parent / "both.csv.json").write_text("[]")
    with pytest.raises(DataError, match=r"both_probabilities.csv"):
        source(table).provenance()
