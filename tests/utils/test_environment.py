"""SageMaker's variables: below the command line, above the files, told in the log and in errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from experiment.cli import parse_override
from experiment.resume import forbidden_changes
from experiment.schema import SECTIONS
from parse_config import ConfigParser
from utils.environment import VARIABLES, environment_default

ROOT = Path(__file__).parents[2]
PLACES = {
    "SM_CHANNEL_TRAIN": "data.0.args.root",
    "SM_CHANNEL_EVAL": "info_dir",
    "SM_MODEL_DIR": "trainer.save_dir",
    "SM_OUTPUT_DATA_DIR": "submit_dir",
}
TABLE = 'data=[{"type": "AttributeTable", "args": {"path": "x.csv"}}]'


def read(*sets: str, environment: bool = True) -> ConfigParser:
    overrides = [parse_override(text) for text in sets]
    return ConfigParser.from_file(ROOT / "config.json", SECTIONS, overrides, environment=environment)


def at(config: ConfigParser, place: str) -> Any:
    value: Any = config.resolved
    for step in place.split("."):
        value = value[int(step)] if step.isdigit() else value[step]
    return value


@pytest.fixture(autouse=True)
def all_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, f"/opt/{name.lower()}")


@pytest.mark.parametrize(("name", "place"), PLACES.items())
def test_each_takes_the_files_place_and_the_command_line_wins(name: str, place: str) -> None:
    config, value = read(), f"/opt/{name.lower()}"
    assert at(config, place) == value
    assert config.origin(place) == f"environment variable {name}"
    assert f"environment variable {name} sets {place} = {value}" in config.notes
    assert len(config.notes) == len(PLACES)
    config = read(f"{place}=mine")
    assert (at(config, place), config.origin(place)) == ("mine", f"--set {place}=mine")
    assert not any(name in note for note in config.notes)


def test_nothing_else_changes_and_nothing_happens_unasked() -> None:
    asked, unasked = read(), read(environment=False)
    assert unasked.notes == []
    for place in PLACES.values():
        assert at(asked, place) != at(unasked, place)
    same = read(*(f"{place}={at(unasked, place)}" for place in PLACES.values()))
    assert same.resolved == unasked.resolved


@pytest.mark.parametrize("empty_text", ["", " \n"])
@pytest.mark.parametrize("name", PLACES)
def test_an_empty_variable_is_an_unset_one(name: str, empty_text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, empty_text)
    assert environment_default(name) is None
    empty = read()
    monkeypatch.delenv(name)
    assert environment_default(name) is None
    assert empty.resolved == read().resolved
    assert at(empty, PLACES[name]) == at(read(environment=False), PLACES[name])


@pytest.mark.parametrize("text", ["12", "[x"])
def test_a_value_is_text_whatever_json_would_make_of_it(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SM_CHANNEL_EVAL", text)
    assert read()["info_dir"] == text


def test_a_table_is_left_as_it_is_and_the_log_says_so(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(f'{{"extends": "{ROOT / "config.json"}", {_json(TABLE)}}}', encoding="utf-8")
    config = ConfigParser.from_file(tmp_path / "x.json", SECTIONS, environment=True)
    assert config.short["data"] == [{"type": "AttributeTable", "args": {"path": "x.csv"}}]
    assert config.notes[-1] == (
        "environment variable SM_CHANNEL_TRAIN = /opt/sm_channel_train is not used: "
        "data.0 is no CompetitionFolder, but AttributeTable"
    )
    assert read(TABLE).notes[-1] == config.notes[-1]
    assert not any("SM_" in note for note in read(TABLE, environment=False).notes)


def _json(setting: str) -> str:
    key, _, value = setting.partition("=")
    return f'"{key}": {value}'


def test_a_run_that_goes_on_stays_in_its_folder_and_may_be_changed_so() -> None:
    trained = read(environment=False).resolved
    config = ConfigParser.from_dict(trained, SECTIONS, "checkpoint x.pth", environment=True)
    assert config["trainer"] == trained["trainer"]
    assert {place for place in PLACES.values() if at(config, place) != at(read(environment=False), place)} == {
        "data.0.args.root",
        "info_dir",
        "submit_dir",
    }
    assert forbidden_changes(trained, config.resolved) == []
    assert forbidden_changes(trained, read().resolved) == []
    assert len(config.notes) == 3
    plain = ConfigParser.from_dict(trained, SECTIONS, "checkpoint x.pth")
    assert (plain.resolved, plain.notes) == (trained, [])
