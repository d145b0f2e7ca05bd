"""The schema for editors, the checker and the configs that are there say the same."""

from __future__ import annotations

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
    assert "MOST_JOINT_CLASSES" not in text
    assert "| `valid_batch_size` | whole number, at least 1 or null | `null` | images; None: as batch_size |" in text


@pytest.mark.parametrize(
    ("key_path", "value"),
    [("trainer.epoch", 3), ("loss.heads.age.args.gama", 1.0), ("transforms.train.0.type", "Resise"), ("labels", [])],
)
def test_editors_and_the_checker_refuse_the_same(key_path: str, value: Any) -> None:
    config: Any = read_json(ROOT / "config.json")
    VALIDATOR.validate(config)
    part, (*steps, last) = config, key_path.split(".")
    for step in steps:
        part = part[int(step)] if isinstance(part, list) else part[step]
    part[last] = value
    assert not VALIDATOR.is_valid(config)
    with pytest.raises(ConfigError, match=f"^test: {key_path} "):
        ConfigParser.from_dict(config, SECTIONS, "test")
