"""The label table against values that are converted one by one, and counts made by hand."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from base.label_space import LabelSpace
from data_loader.records import LabelTable, Record
from utils.errors import DataError

MASKS = ("wear", "incorrect", "not_wear")


@pytest.fixture(scope="module")
def joint() -> LabelSpace:
    """A head of two attributes, other bins for training, and an attribute that no head predicts."""
    attributes: dict[str, Any] = {
        "mask": {"classes": list(MASKS)},
        "gender": {"classes": ["male", "female"]},
        "age": {"bins": [30, 60], "training_bins": [20, 30, 40, 50, 60], "limits": [0, 120]},
    }
    return LabelSpace(attributes, {"gender_age": ["gender", "age"]})


def _record(number: int, **attributes: Any) -> Record:
    return Record(Path(f"{number}.jpg"), f"{number}.jpg", f"p{number // 2}", attributes, f"row {number}")


@pytest.fixture(scope="module")
def records() -> list[Record]:
    stream = np.random.default_rng(1)
    return [
        _record(
            number,
            mask=MASKS[stream.integers(3)],
            gender=(None, "male", "female", " female ")[stream.integers(4)],
            age=("", str(stream.integers(121)), f"{stream.uniform(0, 120):.2f}")[stream.integers(3)],
        )
        for number in range(400)
    ]


def test_columns_are_the_values_one_by_one(joint: LabelSpace, records: list[Record]) -> None:
    table = LabelTable.from_records(records, joint)
    for row, record in enumerate(records):
        raw = record.attributes
        mask = MASKS.index(raw["mask"])
        gender = -1 if raw["gender"] is None else int(raw["gender"].strip() == "female")
        decade = sum(float(raw["age"]) >= edge for edge in (20, 30, 40, 50, 60)) if raw["age"] else -1
        group = sum(float(raw["age"]) >= edge for edge in (30, 60)) if raw["age"] else -1
        assert [column[row] for column in table.training_classes.values()] == [mask, gender, decade]
        assert [column[row] for column in table.scoring_classes.values()] == [mask, gender, group]
        assert table.targets["gender_age"][row] == (-1 if -1 in (gender, decade) else gender * 6 + decade)
        number = table.numbers["age"][row].item()
        assert number == float(raw["age"]) if raw["age"] else math.isnan(number)
    assert table.scoring_targets.keys() == {"gender", "age"}


def test_rows_are_taken_by_index_and_by_mask(joint: LabelSpace, records: list[Record]) -> None:
    table = LabelTable.from_records(records, joint)
    women = table[table.scoring_classes["gender"] == 1]
    assert women.records == [record for record in records if (record.attributes["gender"] or "").strip() == "female"]
    rows = np.array([7, 3, 3])
    taken, expected = table[rows], LabelTable.from_records([records[row] for row in rows], joint)
    assert taken.records == expected.records
    assert taken.targets["gender_age"].tolist() == expected.targets["gender_age"].tolist()
    assert len(table[np.array([], dtype=np.int64)]) == 0
    without = table.without({records[0].path, records[5].path})
    assert without.records == [record for row, record in enumerate(records) if row not in (0, 5)]
    assert table.num_persons == 200


def test_classes_are_counted(joint: LabelSpace, records: list[Record]) -> None:
    counts = LabelTable.from_records(records, joint).class_counts()["gender_age"]
    known = [record.attributes for record in records if record.attributes["gender"] and record.attributes["age"]]
    expected = Counter(
        (raw["gender"].strip(), sum(float(raw["age"]) >= edge for edge in (20, 30, 40, 50, 60))) for raw in known
    )
    assert counts.tolist() == [expected[pair] for pair in itertools.product(("male", "female"), range(6))]


def test_absent_classes(joint: LabelSpace, caplog: pytest.LogCaptureFixture) -> None:
    table = LabelTable.from_records([_record(0, gender="male", age="25"), _record(1, gender="female", age="61")], joint)
    assert table.absent_classes() == {
        "gender_age": [
            f"{gender} {age}"
            for gender in ("male", "female")
            for age in ("<20", "20-29", "30-39", "40-49", "50-59", ">=60")
            if f"{gender} {age}" not in ("male 20-29", "female >=60")
        ]
    }
    men = table[np.array([0])]
    men.warn_of_absent_classes("the men", whole=table)
    assert [line.rpartition("= ")[2] for line in caplog.messages] == ["female >=60"]


def test_values_that_are_no_class_are_named_once_a_row(joint: LabelSpace) -> None:
    rows = [_record(2, gender="mael"), _record(3, gender="male", age="300")]
    records = [rows[0], rows[0], rows[1]]
    problems: list[str] = []
    table = LabelTable.from_records(records, joint, problems)
    assert len(problems) == 2
    assert all(word in problems[0] for word in ("row 2", "'mael'", "male, female"))
    assert all(word in problems[1] for word in ("row 3", "'300'", "0 to 120"))
    assert table.training_classes["gender"].tolist() == [-1, -1, 0]
    with pytest.raises(DataError):
        LabelTable.from_records(records, joint)


def test_letters_are_compared_as_they_look() -> None:
    """A Mac writes Korean letters in parts."""
    labels = LabelSpace({"gender": {"classes": ["남", "여"]}})
    parts = "\u1102\u1161\u11b7"  # the letters of 남 one by one
    table = LabelTable.from_records([_record(0, gender=parts), _record(1, gender="여")], labels)
    assert table.targets["gender"].tolist() == [0, 1]
