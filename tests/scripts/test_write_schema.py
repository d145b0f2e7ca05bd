"""The schema for editors, the checker and the configs that are there say the same."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from experiment.schema import SECTIONS
from parse_config import ConfigParser
from scripts.config_reference import reference
from scripts.editor_schema import editor_schema
from scripts.write_schema import REFERENCE_FILE
from utils.config.json_text import read_json
from utils.errors import ConfigError

ROOT = Path(__file__).parents[2]
VALIDATOR = jsonschema.Draft202012Validator(editor_schema(SECTIONS))


def test_the_reference_is_what_the_signatures_make() -> None:
    text = REFERENCE_FILE.read_text(encoding="utf-8")
    assert text == reference(SECTIONS), "run: python -m scripts.write_schema"
    assert "| `batch_size` | whole number, at least 1 | `32` | per process |" in text


WRONG: dict[str, tuple[str, Any]] = {
    "unknown key": ("trainer.epoch", 3),
    "number as text": ("trainer.epochs", "50"),
    "true for a number": ("data_loader.args.batch_size", True),
    "too small": ("trainer.epochs", 0),
    "unknown loss": ("loss.heads.age.type", "FocaLoss"),
    "unknown argument of a loss": ("loss.heads.age.args.gama", 1.0),
    "unknown transform": ("transforms.train.0.type", "Resise"),
    "unknown argument of a transform": ("transforms.train.3.args.probability", 0.5),
    "unknown optimizer": ("optimizer.type", "os.system"),
    "a word that is not among the choices": ("trainer.precision", "float8"),
    "list for an object": ("labels", []),
    "negative weight": ("loss.heads.age.weight", -1),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_one_refuses_the_other_does(case: str) -> None:
    place, value = WRONG[case]
    config: Any = read_json(ROOT / "config.json")
    right = copy.deepcopy(config)
    *steps, last = place.split(".")
    part = config
    for step in steps:
        part = part[int(step)] if isinstance(part, list) else part[step]
    part[last] = value
    assert VALIDATOR.is_valid(right)
    assert not VALIDATOR.is_valid(config)
    with pytest.raises(ConfigError, match=r"test: "):
        ConfigParser.from_dict(config, SECTIONS, "test")
