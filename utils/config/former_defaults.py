"""What the configs that earlier versions saved leave unsaid.

A saved config holds every default, so that a run means the same when a default changes, and the number of its format.
The first format, without a number, held only what the user had said: the rest meant the defaults of its day. Whoever
changes a default, or adds an argument whose default changes what was computed, counts CONFIG_FORMAT up and notes here
what was meant until then.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

CONFIG_FORMAT = 2
"""Of the configs that this version saves, as their key "config_format"."""


@dataclass(frozen=True)
class FormerDefault:
    """What an absent key meant.

    until: the last format in which it meant that;
    key_path: of the key; * stands for any name or number: "loss.heads.*.args.gamma";
    value: what it meant;
    type: of the section whose argument it is, None for all.
    """

    until: int
    key_path: str
    value: Any
    type: str | None = None


FORMER_DEFAULTS: tuple[FormerDefault, ...] = (
    FormerDefault(1, "data.*.args.person_column", "person", "AttributeTable"),
    FormerDefault(1, "data.*.args.split_column", None, "AttributeTable"),
    FormerDefault(1, "data.*.args.same_stem", "all", "CompetitionFolder"),
    *(FormerDefault(1, "split.args.seed", None, name) for name in ("PersonSplit", "KFoldSplit", "ImageSplit")),
)


def upgraded(saved: dict[str, Any]) -> dict[str, Any]:
    """A config that a run has saved, with what its version left unsaid and today's means otherwise. It is to be filled
    in with today's defaults then (ConfigParser does); each "type" has "args"."""
    config = copy.deepcopy(saved)
    written = config.get("config_format", 1)
    if not isinstance(written, int) or written >= CONFIG_FORMAT:
        return config
    _add_args(config)
    for former in FORMER_DEFAULTS:
        if written <= former.until:
            *steps, key = former.key_path.split(".")
            for section, arguments in _matches(config, steps):
                if key not in arguments and (former.type is None or section.get("type") == former.type):
                    arguments[key] = copy.deepcopy(former.value)
    return {**config, "config_format": CONFIG_FORMAT}


def _matches(value: Any, steps: list[str], holder: Any = None) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """The objects at a key path, each with the section whose arguments it is (or itself)."""
    if not steps:
        if isinstance(value, dict):
            yield (holder if isinstance(holder, dict) and "type" in holder else value), value
        return
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        if steps[0] in ("*", str(key)):
            yield from _matches(inner, steps[1:], value)


def _add_args(value: Any) -> None:
    if isinstance(value, dict):
        if isinstance(value.get("type"), str):
            value.setdefault("args", {})
        value = list(value.values())
    for inner in value if isinstance(value, list) else ():
        _add_args(inner)
