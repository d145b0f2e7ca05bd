"""SageMaker's variables: where the platform has put data and model, and where it expects the results.

They override config files, and the command line overrides them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from utils.errors import ConfigError

CHANNEL_TRAIN = "SM_CHANNEL_TRAIN"
"""The competition's folder: train.csv and images/."""
CHANNEL_EVAL = "SM_CHANNEL_EVAL"
"""The folder of the images to answer: info.csv and images/."""
CHANNEL_MODEL = "SM_CHANNEL_MODEL"
"""The run folder or checkpoint that test.py answers with."""
MODEL_DIR = "SM_MODEL_DIR"
"""Where runs are saved."""
OUTPUT_DATA_DIR = "SM_OUTPUT_DATA_DIR"
"""Where answers are written."""
GROUND_TRUTH_DIR = "SM_GROUND_TRUTH_DIR"
"""The folder of the true answers of the evaluation."""
_MOST_DIGITS = 9
VARIABLES = (CHANNEL_TRAIN, CHANNEL_EVAL, CHANNEL_MODEL, MODEL_DIR, OUTPUT_DATA_DIR, GROUND_TRUTH_DIR)


def environment_default(name: str) -> str | None:
    """The value of a variable, without white space around it; None where it is unset or empty."""
    return os.environ.get(name, "").strip() or None


def environment_number(name: str, default: int) -> int:
    """The whole number in a variable of torchrun; the default where it is not set. Raises ConfigError where it is none,
    or has more digits than any that torchrun sets."""
    text = os.environ.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS):
        wrong = f"environment variable {name} = {text[:40]!r} is not a whole number"
        raise ConfigError(f"{wrong}; correct it, or unset it and use torchrun")
    return int(text)


def config_places(values: Mapping[str, Any], resumes: bool = False) -> dict[str, str]:
    """By dotted key path of a config, the variable that is set and gives its value.

    Of the data it is the root of the first source, if that is a CompetitionFolder: a table needs more than a folder.

    resumes: the config is that of a resumed run, which stays in its folder"""
    places = {"info_dir": CHANNEL_EVAL, "submit_dir": OUTPUT_DATA_DIR}
    if _first_source_type(values) == "CompetitionFolder":
        places["data.0.args.root"] = CHANNEL_TRAIN
    if not resumes:
        places["trainer.save_dir"] = MODEL_DIR
    return {place: name for place, name in places.items() if environment_default(name) is not None}


def notes_of_unused(values: Mapping[str, Any]) -> list[str]:
    """A line for the log where the training data's variable is set, and the config's data is of another kind."""
    folder, kind = environment_default(CHANNEL_TRAIN), _first_source_type(values)
    if folder is None or kind == "CompetitionFolder":
        return []
    return [f"environment variable {CHANNEL_TRAIN} = {folder} is not used: data.0 is no CompetitionFolder, but {kind}"]


def _first_source_type(values: Mapping[str, Any]) -> str | None:
    sources = values.get("data")
    first = sources[0] if isinstance(sources, list) and sources else None
    return str(first.get("type")) if isinstance(first, dict) else None
