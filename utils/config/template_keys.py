"""Keys of pytorch-template that have another form here, each with ours: no spelling is near enough to find it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from utils.errors import KeyPath, Problem
from utils.wording import format_value

GUIDE = "docs/from-pytorch-template.md"
OURS: dict[KeyPath, str] = {
    ("loss",): 'a loss for each head is expected: {"heads": {"age": {"type": "CrossEntropyLoss"}}}',
    ("data_loader", "args", "data_dir"): 'the images are data = [{"type": "CompetitionFolder", "args": {"root": ...}}]',
    ("data_loader", "args", "validation_split"): (
        'who validates is split = {"type": "PersonSplit", "args": {"validation_share": 0.1}}'
    ),
    ("data_loader", "args", "training"): "remove it: train.py trains and test.py predicts",
}


def template_problems(values: Mapping[str, Any]) -> list[Problem]:
    """The template's keys in a config, each with what is written instead."""
    problems = []
    for key_path, ours in OURS.items():
        value: Any = values
        for step in key_path:
            value = value.get(step) if isinstance(value, dict) else None
        if value is not None and not isinstance(value, dict):
            problems.append(Problem(key_path, f"= {format_value(value)} is pytorch-template's: {ours} ({GUIDE})"))
    return problems
