"""A list of an extended file, edited: `{"remove": ["CoarseDropout"], "add": [{...}], "before": "Normalize"}`.

An entry goes by its `type`, a plain value by itself. What is removed goes first; what is added stands before or after
the first entry of that name, or at the end.
"""

from __future__ import annotations

from typing import Any

from utils.errors import InvalidConfig, KeyPath, Problem
from utils.wording import did_you_mean, format_value, kind, not_one_of

KEYS = ("add", "remove", "before", "after")


def is_list_edit(value: Any) -> bool:
    """Whether a value, taken by itself, says how to change a list."""
    return isinstance(value, dict) and value.keys() <= set(KEYS) and ("add" in value or "remove" in value)


def edited(entries: list[Any], edit: dict[str, Any], key_path: KeyPath) -> list[tuple[int | None, Any]]:
    """The entries after an edit, each with its number before (None: added).

    key_path: the list's key path. Raises InvalidConfig, its key paths absolute."""
    problems = _problems_of_form(edit, key_path)
    if not problems:
        names = [_name(entry) for entry in entries]
        removed = edit.get("remove", [])
        for number, name in enumerate(removed):
            if not _holds(names, name):
                problems.append(
                    Problem((*key_path, "remove", number), f"= {format_value(name)} {_not_in(name, names)}")
                )
        kept = [(number, entry) for number, entry in enumerate(entries) if not _holds(removed, names[number])]
        names = [_name(entry) for _, entry in kept]
        anchor = next((key for key in ("before", "after") if key in edit), None)
        if anchor is not None and not _holds(names, edit[anchor]):
            problems.append(
                Problem((*key_path, anchor), f"= {format_value(edit[anchor])} {_not_in(edit[anchor], names)}")
            )
    if problems:
        raise InvalidConfig(problems)
    at = len(kept) if anchor is None else _first(names, edit[anchor]) + (anchor == "after")
    return [*kept[:at], *((None, entry) for entry in edit.get("add", [])), *kept[at:]]


def edit_schema(items: dict[str, Any]) -> dict[str, Any]:
    """The JSON Schema of an edit of a list of `items`."""
    properties = {"add": {"type": "array", "items": items}, "remove": {"type": "array"}, "before": {}, "after": {}}
    return {
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "anyOf": [{"required": ["add"]}, {"required": ["remove"]}],
        "dependentRequired": {"before": ["add"], "after": ["add"]},
        "not": {"required": ["before", "after"]},
    }


def _problems_of_form(edit: dict[str, Any], key_path: KeyPath) -> list[Problem]:
    what = "an object edits the list of the extended file, a list replaces it"
    problems = [Problem((*key_path, key), f"{not_one_of(key, KEYS)} ({what})") for key in edit if key not in KEYS]
    if not problems and not is_list_edit(edit):
        problems.append(Problem(key_path, f'= {format_value(edit)} has neither "add" nor "remove" ({what})'))
    for key in ("add", "remove"):
        if key in edit and not isinstance(edit[key], list):
            wrong = edit[key]
            problems.append(Problem((*key_path, key), f"= {format_value(wrong)} is {kind(wrong)}; a list is expected"))
    if "before" in edit and "after" in edit:
        problems.append(Problem(key_path, 'has "before" and "after"; one of them says where to add'))
    for key in ("before", "after"):
        if key in edit and "add" not in edit and not problems:
            problems.append(Problem((*key_path, key), 'says where to add, and there is no "add"'))
    return problems


def _name(entry: Any) -> Any:
    """What an edit calls an entry by."""
    return entry["type"] if isinstance(entry, dict) and "type" in entry else entry


def _same(one: Any, other: Any) -> bool:
    return one == other and isinstance(one, bool) == isinstance(other, bool)  # Python holds True for 1


def _holds(names: list[Any], name: Any) -> bool:
    return any(_same(name, other) for other in names)


def _first(names: list[Any], name: Any) -> int:
    return next(number for number, other in enumerate(names) if _same(name, other))


def _not_in(name: Any, names: list[Any]) -> str:
    if not names:
        return "is not in the list, which is empty"
    texts = [other if isinstance(other, str) else format_value(other) for other in names]
    meant = did_you_mean(name, texts) if isinstance(name, str) else ""
    return f"is not in the list ({', '.join(dict.fromkeys(texts))}){meant}"
