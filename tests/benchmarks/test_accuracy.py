"""What the recipes are compared on, and that the first team's is what it published."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import accuracy
from benchmarks.accuracy import DEFAULT, PAGE, PAGE_RESULTS, PICTURES, RECIPES, tables, write_part
from experiment.schema import SECTIONS
from parse_config import ConfigParser
from tests.utils.config.test_published_form import PUBLISHED


@pytest.fixture
def drawn_masks(tmp_path: Path) -> Path:
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "person", "mask", "gender", "age", "split"])
        for person in range(60):
            for picture in range(8):
                side = "test" if person % 5 == 0 else "train"
                table.writerow([f"{person}/{picture}.jpg", str(person), "wear", "male", 40, side])
    return tmp_path


def parts(path: Path) -> dict[str, dict[str, list[str]]]:
    """By side and person the paths."""
    found: dict[str, dict[str, list[str]]] = {"train": {}, "test": {}}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            found[row["split"]].setdefault(row["person"], []).append(row["path"])
    return found


def test_ideas_are_chosen_on_people_that_no_table_reports_on(drawn_masks: Path, tmp_path: Path) -> None:
    write_part(drawn_masks, tmp_path / "tuning.csv", tuning=True)
    write_part(drawn_masks, tmp_path / "evaluation.csv", tuning=False)
    tuning, evaluation = parts(tmp_path / "tuning.csv"), parts(tmp_path / "evaluation.csv")
    tested = {str(person) for person in range(0, 60, 5)}
    assert evaluation["test"].keys() == tested
    assert not tested & (tuning["train"].keys() | tuning["test"].keys())
    assert tuning["test"].keys() | tuning["train"].keys() == evaluation["train"].keys()
    assert not tuning["test"].keys() & tuning["train"].keys()
    for part in (tuning, evaluation):
        assert {len(paths) for paths in part["test"].values()} == {8}
        assert {len(paths) for paths in part["train"].values()} == {PICTURES}


def test_the_first_teams_recipe_is_the_published_one(tmp_path: Path) -> None:
    """In the table as in configs/, whatever config.json is; but for data, sizes and backbone, which others decide."""
    ages = [2.8723, 3.9589, 4.5075, 14.0625, 14.0625, 28.4211]
    told = {
        **PUBLISHED,
        "loss_name": [["focal", [1.4, 7.0, 7.0], 0.375], ["focal", [1.6285, 2.5912], 0.25], ["focal", ages, 0.375]],
        "optimizer": {"type": "Adam", "args": {"lr": 0.0001, "weight_decay": 0, "amsgrad": True}},
    }
    (tmp_path / "published.json").write_text(json.dumps(told))
    (tmp_path / "recipe.json").write_text(json.dumps({"extends": str(DEFAULT), **RECIPES["first_team"].config}))
    paths = (tmp_path / "published.json", tmp_path / "recipe.json", DEFAULT.parent / "configs" / "first_team.json")
    published, recipe, config = (ConfigParser.from_file(path, SECTIONS).resolved for path in paths)
    for key in ("labels", "loss", "optimizer", "lr_scheduler", "transforms", "mixing", "weight_averaging"):
        assert recipe[key] == config[key] == published[key], key
    sizes = {each["data_loader"]["args"]["batch_size"] for each in (published, recipe, config)}
    assert sizes == {16}
    for key in ("epochs", "monitor", "early_stop"):
        assert config["trainer"][key] == published["trainer"][key]


def test_the_page_has_the_tables_of_its_file() -> None:
    assert tables(json.loads(PAGE_RESULTS.read_text(encoding="utf-8"))) in PAGE.read_text(encoding="utf-8")


@pytest.mark.long
def test_a_recipe_is_trained_kept_and_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(accuracy, "PEOPLE", 6)
    monkeypatch.setattr(accuracy, "NEW_PEOPLE", 3)
    monkeypatch.setattr(accuracy, "DRAWN_EPOCHS", 1)
    call = ["drawn", "--seeds", "1", "--recipes", "default", "--output", str(tmp_path)]
    accuracy.main(call)
    first = capsys.readouterr()
    kept = tmp_path / "drawn_evaluation.json"
    before = kept.stat().st_mtime_ns
    predicted = json.loads(kept.read_text(encoding="utf-8"))["predicted"]["default"]["1"]
    assert len(predicted) == 21
    assert np.isin(list(predicted), list("abcdefghijklmnopqr")).all()
    accuracy.main(call)
    assert kept.stat().st_mtime_ns == before
    assert capsys.readouterr().out.partition("| recipe")[2] == first.out.partition("| recipe")[2] != ""
