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
def test_each_overrides_the_files_and_the_command_line_wins(name: str, place: str) -> None:
    config, value = read(), f"/opt/{name.lower()}"
    assert at(config, place) == value
    assert config.origin(place) == f"environment variable {name}"
    assert f"environment variable {name} sets {place} = {value}" in config.notes
    assert len(config.notes) == len(PLACES)
    config = read(f"{place}=mine")
    assert (at(config, place), config.origin(place)) == ("mine", f"--set {place}=mine")
    assert not any(name in note for note in config.notes)


def test_nothing_else_changes() -> None:
    unchanged = read(environment=False)
    assert unchanged.notes == []
    assert read(*(f"{place}={at(unchanged, place)}" for place in PLACES.values())).resolved == unchanged.resolved


@pytest.mark.parametrize(("text", "value"), [("", None), (" \n", None), ("12", "12"), ("[x", "[x")])
def test_an_empty_variable_is_an_unset_one_and_others_are_text(
    text: str, value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SM_CHANNEL_EVAL", text)
    assert environment_default("SM_CHANNEL_EVAL") == value
    assert read()["info_dir"] == (value or read(environment=False)["info_dir"])


def test_a_table_is_unchanged_and_the_log_mentions_it() -> None:
    assert "environment variable SM_CHANNEL_TRAIN = /opt/sm_channel_train is not used" in read(TABLE).notes[-1]
    assert read(TABLE)["data"][0]["args"]["path"] == "x.csv"
    assert not any("SM_" in note for note in read(TABLE, environment=False).notes)


def test_a_resumed_run_stays_in_its_folder_and_may_be_changed_so() -> None:
    trained = read(environment=False).resolved
    config = ConfigParser.from_dict(trained, SECTIONS, "checkpoint x.pth", environment=True)
    assert config["trainer"] == trained["trainer"]
    changed = {place for place in PLACES.values() if at(config, place) != at(read(environment=False), place)}
    assert changed == {"data.0.args.root", "info_dir", "submit_dir"}
    assert forbidden_changes(trained, config.resolved) == []
