"""The comparison with and without drawn masks: the table of the one without, the test rows, and the scores."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from base.label_space import LabelSpace
from benchmarks.drawn_masks import COLUMNS, TestRows, markdown, sources, write_table_without

MASKS = ("wear", "incorrect", "not_wear")
DRAWN = [("surgical", "wear"), ("cloth below_nose", "incorrect"), ("none", "not_wear")]


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """drawn/ with three pictures each of two persons who train and two who are tested, and masks/ with crops."""
    drawn, masks = tmp_path / "drawn", tmp_path / "masks"
    rows = [["path", "person", "mask", "drawn_mask", "gender", "age", "split"]]
    for person, (gender, age, side) in enumerate(
        [("male", 20, "train"), ("female", 70, "train"), ("male", 40, "test"), ("female", 65, "test")]
    ):
        for number, (drawing, state) in enumerate(DRAWN):
            rows.append([f"{person}_{number}.png", f"p{person}", state, drawing, gender, str(age), side])
    crops = [["path", "person", "mask", "split"]]
    crops += [
        [f"{number}.png", f"p{number}", MASKS[number % 3], "test" if number < 3 else "train"] for number in range(6)
    ]
    for folder, table in ((drawn, rows), (masks, crops)):
        folder.mkdir()
        (folder / "labels.csv").write_text("\n".join(map(",".join, table)))
        for row in table[1:]:
            (folder / row[0]).write_bytes(b"")
    return drawn, masks


def test_without_drawn_masks_the_training_faces_are_bare_and_their_mask_is_unknown(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    write_table_without(folders[0], tmp_path / "without.csv")
    before, after = (
        list(csv.DictReader(path.read_text().splitlines()))
        for path in (folders[0] / "labels.csv", tmp_path / "without.csv")
    )
    training = [(row["path"], row["mask"], row["gender"]) for row in after if row["split"] == "train"]
    assert training == [("0_2.png", "", "male"), ("1_2.png", "", "female")]
    assert [row for row in after if row["split"] == "test"] == [row for row in before if row["split"] == "test"]


def test_scores_of_each_part(folders: tuple[Path, Path]) -> None:
    labels = LabelSpace(
        {
            "mask": {"classes": list(MASKS)},
            "gender": {"classes": ["male", "female"]},
            "age": {"bins": [30, 60], "limits": [0, 120]},
        }
    )
    rows = TestRows(sources(*folders), labels)
    assert {part: int(chosen.sum()) for part, chosen in rows.parts.items()} == {"crops": 3, "bare": 2, "drawn": 6}
    perfect = np.zeros(len(rows.names), np.int64)
    for number, name in enumerate(rows.names):
        if "_" in name:  # a face: persons 2 (male, 40) and 3 (female, 65)
            perfect[number] = 6 * int(name[2]) + (1 if name[0] == "2" else 3 + 2)
        else:
            perfect[number] = 6 * int(name[0])
    wrong = np.where(["_" in name for name in rows.names], 6 * 2, perfect)  # all faces are taken for bare young men
    scores = {
        column.title: [column.score(each).value for each in rows.counts(column, [perfect, wrong], labels)]
        for column in COLUMNS
    }
    assert all(first == 1 for first, _ in scores.values())
    assert scores["real masks: mask, accuracy"][1] == 1
    assert scores["bare faces: gender, accuracy"][1] == 0.5
    assert scores["bare faces: age group, accuracy"][1] == 0
    assert scores["drawn masks: mask, macro F1"][1] == pytest.approx((0 + 0 + 2 * 2 / (2 + 6)) / 3)
    assert scores["drawn masks: 18 classes, accuracy"][1] == 0
    assert rows.majority(COLUMNS[0]) == pytest.approx(0.5 / 3)
    table = markdown(rows, {"with": {"1": perfect.tolist()}, "without": {"1": wrong.tolist()}}, labels)
    assert len(table.splitlines()) == 2 + len(COLUMNS)
    assert "| drawn masks: 18 classes, accuracy | 2, 6 |" in table
