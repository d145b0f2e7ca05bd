"""Tables and folders that are wrong: the file, the row and the value are named, with exit code 3, before an image is
opened or a run begins."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.workplace import PEOPLE, Lines, TextChange, Workplace, person_folder, replaced

TRAIN, TABLE = "data/train/train.csv", "data/train/labels.csv"
FOLDER = person_folder(*PEOPLE[0])


TRAIN_TEXTS: dict[str, tuple[TextChange, Lines]] = {
    "26-two-columns": (
        replaced("id,gender,race,age,path", "id,gender,race,years,folder"),
        [(f"{TRAIN}: ", '"age"'), (f"{TRAIN}: ", '"path"')],
    ),
    "no-id": (replaced("\n000001,", "\n,", 1), [(f"{TRAIN} row 2: ", "id is empty")]),
    "32-several": (
        lambda text: text.replace("000001,male", "000001,M").replace(",29,", ",-29,").replace(",60,", ",6o,", 1),
        [(f"{TRAIN} row 2: ", "'M'"), (f"{TRAIN} row 6: ", "'6o'"), (f"{TRAIN} row 8: ", "'-29'")],
    ),
}


@pytest.mark.usefixtures("no_image_is_opened")
@pytest.mark.parametrize("case", TRAIN_TEXTS)
def test_a_wrong_train_table(workplace: Workplace, case: str) -> None:
    change, lines = TRAIN_TEXTS[case]
    workplace.rewrite(workplace.train_root / "train.csv", change)
    outcome = workplace.train_and_change_nothing("--config", workplace.write_config())
    outcome.check_refusal(3, *lines)


def write_table(workplace: Workplace, change: Callable[[list[dict[str, str]]], Any]) -> Path:
    """labels.csv over the images of the folder, as `change` leaves its rows, and a config that names it."""
    rows = [
        {
            "path": f"images/{person_folder(*person)}/{stem}.jpg",
            "person": person[0],
            "mask": {"mask1": "wear", "incorrect_mask": "incorrect", "normal": "not_wear"}[stem],
            "gender": person[1],
            "age": str(person[2]),
            "side": "val" if number < 2 else "train",
        }
        for number, person in enumerate(PEOPLE)
        for stem in ("mask1", "incorrect_mask", "normal")
    ]
    change(rows)
    with (workplace.folder / TABLE).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    source = {"type": "AttributeTable", "args": {"path": TABLE, "split_column": "side"}}
    return workplace.write_config({"data": [source], "split": {"type": "GivenSplit"}})


def set_cells(column: str, value: str, *numbers: int) -> Callable[[list[dict[str, str]]], None]:
    def change(rows: list[dict[str, str]]) -> None:
        for number in numbers:
            rows[number][column] = value

    return change


TABLES: dict[str, tuple[Callable[[list[dict[str, str]]], Any], Lines]] = {
    "26-a-split-column": (
        lambda rows: [row.update(part=row.pop("side")) for row in rows],
        [(f"{TABLE}: ", '"side"', "path, person, mask, gender, age, part")],
    ),
    "26-an-attribute": (
        lambda rows: [row.update(which=row.pop("gender")) for row in rows],
        [('"gender" is to be predicted', "which", "labels")],
    ),
    "28-absolute": (set_cells("path", "/x.jpg", 1), [(f"{TABLE} row 3: ", '"/x.jpg"')]),
    "30-one-image-under-two-names": (
        lambda rows: rows.append(rows[0] | {"path": f"images/./{FOLDER}/mask1.jpg"}),
        [(f"{TABLE} row 26: ", f"{TABLE} row 2")],
    ),
    "36-in-the-test-side": (
        set_cells("side", "test", 3),
        [(f"{TABLE} row 6: ", '"000002" is in validation', f"{TABLE} row 5", "test")],
    ),
    "36-an-unknown-side": (set_cells("side", "vla", 0), [(f"{TABLE} row 2: ", 'side = "vla"', 'did you mean "val"?')]),
    "36-no-side": (set_cells("side", "", 0), [(f"{TABLE} row 2: ", f'"images/{FOLDER}/mask1.jpg"', "PersonSplit")]),
}


@pytest.mark.usefixtures("no_image_is_opened")
@pytest.mark.parametrize("case", TABLES)
def test_a_wrong_table_of_attributes(workplace: Workplace, case: str) -> None:
    change, lines = TABLES[case]
    config = write_table(workplace, change)
    workplace.train_and_change_nothing("--config", config).check_refusal(3, *lines)


def test_32_a_photograph_named_after_no_mask_state(workplace: Workplace) -> None:
    (workplace.photographs / "mask1.jpg").rename(workplace.photographs / "maks1.jpg")
    outcome = workplace.train_and_change_nothing("--config", workplace.write_config())
    outcome.check_refusal(3, (f"{TRAIN} row 2: ", "maks1.jpg"), (f"{TRAIN} row 2: ", "lacks mask1 "))


def test_a_cache_that_does_not_fit(workplace: Workplace) -> None:
    changes = {"data_loader.args.cache": "disk", "data_loader.args.cache_budget_gib": 1e-6}
    workplace.train("--config", workplace.write_config(changes)).check_refusal(
        2, ("tiny.json: data_loader.args.cache_budget_gib", "raise it", '"none"')
    )
    assert workplace.runs == []


def source(root: str) -> dict[str, Any]:
    return {"data": [{"type": "CompetitionFolder", "args": {"root": root}}]}


@pytest.mark.usefixtures("no_image_is_opened")
@pytest.mark.parametrize(
    ("root", "words"),
    [
        pytest.param("data/gone", ("no such folder", "train.csv"), id="39-none"),
        pytest.param("empty", ("it is empty", "train.csv and images/"), id="39-empty"),
        pytest.param("hollow", ("train.csv", "images/"), id="39-no-photographs"),
        pytest.param("data", ("it holds eval, train", "train.csv and images/"), id="39-above"),
        pytest.param("data/train/images", (FOLDER, "train.csv and images/"), id="39-below"),
        pytest.param(TRAIN, ("not a folder", "train.csv and images/"), id="39-the-table"),
        pytest.param("data/eval", ("train.csv",), id="39-eval"),
    ],
)
def test_a_wrong_training_folder(workplace: Workplace, root: str, words: tuple[str, ...]) -> None:
    for folder in ("empty", "hollow/images"):
        (workplace.folder / folder).mkdir(parents=True)
    outcome = workplace.train_and_change_nothing("--config", workplace.write_config(source(root)))
    outcome.check_refusal(3, (f"{root}: ", *words))
    assert outcome.err.rstrip().endswith("; set data.0.args.root") == (root == "data/gone")


def test_the_problems_of_several_sources_come_together(workplace: Workplace) -> None:
    workplace.rewrite(workplace.train_root / "train.csv", replaced(",20,", ",abc,"))
    sources = [*source("data/train")["data"], {"type": "AttributeTable", "args": {"path": "gone.csv"}}]
    outcome = workplace.train_and_change_nothing("--config", workplace.write_config({"data": sources}))
    assert outcome.exit_code == 3
    assert {line.partition(":")[0] for line in outcome.lines} == {f"{TRAIN} row 2", "gone.csv"}
    assert outcome.lines[0] == "gone.csv: there is no such file; set data.1.args.path"


def test_a_tables_folder_of_images_that_is_not_there_is_one_line(workplace: Workplace) -> None:
    workplace.write("table.csv", "path,mask,gender,age\na.jpg,wear,male,20\nb.jpg,wear,male,20\n")
    table = {"type": "AttributeTable", "args": {"path": "table.csv", "root": "gone"}}
    outcome = workplace.train_and_change_nothing("--config", workplace.write_config({"data": [table]}))
    outcome.check_refusal(3, "gone: there is no such folder; set data.0.args.root")
