"""What the configs that earlier versions saved leave unsaid.

A saved config holds every default, so that a run means the same when a default changes, and the number of its format.
The first format, without a number, held only what the user had written: the rest meant the defaults of its day. Whoever
changes a default, or adds an argument whose default changes what was computed, raises CONFIG_FORMAT by one and adds a
row to FORMER_DEFAULTS.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

CONFIG_FORMAT = 2
"""Of the configs that this version saves, as their key "config_format"."""

FORMER_DEFAULTS: tuple[tuple[int, str, str, Any], ...] = (
    (1, "AttributeTable", "person_column", "person"),
    (1, "AttributeTable", "split_column", None),
    (1, "CompetitionFolder", "same_stem", "all"),
    *((1, name, "seed", None) for name in ("PersonSplit", "KFoldSplit", "ImageSplit")),
)
"""The last format in which it was so, the type, its argument, and what that meant where it was absent."""


def upgraded(saved: dict[str, Any]) -> dict[str, Any]:
    """A config that a run has saved, with the arguments whose defaults have changed since; each "type" has "args"."""
    written = saved.get("config_format", 1)
    config = copy.deepcopy(saved)
    if not isinstance(written, int) or written >= CONFIG_FORMAT:
        return config
    for section in _typed_sections(config):
        for until, type_, argument, value in FORMER_DEFAULTS:
            if written <= until and section["type"] == type_:
                section["args"].setdefault(argument, value)
    return {**config, "config_format": CONFIG_FORMAT}


def _typed_sections(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        if isinstance(value.get("type"), str):
            value.setdefault("args", {})
            if isinstance(value["args"], dict):
                yield value
        value = list(value.values())
    for inner in value if isinstance(value, list) else ():
        yield from _typed_sections(inner)
