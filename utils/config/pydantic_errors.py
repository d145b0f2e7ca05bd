"""pydantic's errors in the user's terms: the key path, the value, what is expected, the nearest right name."""

from __future__ import annotations

import re
from typing import Any

from pydantic import ValidationError

from utils.errors import KeyPath, Problem
from utils.wording import did_you_mean, format_value, kind

SHOULD_BE = "Input should be "
"""How pydantic begins most messages."""

PLAIN_WORDS = {
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid string": "text",
    "a valid boolean": "true or false",
    "a valid (?:list|array|tuple)": "a list",
    "a valid (?:dictionary|mapping)": "an object",
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
    "greater than": "above",
    "less than": "below",
}
"""Their words and this project's, which `kind` uses too."""


def explain(
    error: ValidationError,
    arguments: dict[str, Any],
    key_path: KeyPath,
    schema: dict[str, Any],
    also_known: tuple[str, ...],
) -> list[Problem]:
    """A problem for each key path that is wrong.

    key_path: of `arguments` in the config;
    schema: of the arguments, for the names that each key path takes;
    also_known: other keys of the object that the arguments stand in.
    """
    errors: dict[KeyPath, list[Any]] = {}
    for each in error.errors(include_url=False):
        where, value = _locate(each, arguments)
        errors.setdefault(where, []).append({**each, "input": value})
    problems = []
    for where, found in errors.items():
        if found[0]["type"] == "extra_forbidden":
            known = [*(also_known if len(where) == 1 else ()), *_names_at(schema, where[:-1])]
            listed = f" (known: {', '.join(known)})" if known else ""
            text = f"is not a known key{did_you_mean(str(where[-1]), known)}{listed}"
        elif found[0]["type"] == "missing" and isinstance(found[0]["input"], dict):
            text = "is missing"
        elif any(len(other) > len(where) and other[: len(where)] == where for other in errors):
            continue  # another member of a union fits better: it is wrong only deeper inside
        else:
            text = f"= {_value_text(found)}"
        problems.append(Problem((*key_path, *where), text))
    return problems


def _locate(error: Any, arguments: dict[str, Any]) -> tuple[KeyPath, Any]:
    """The key path of an error, and the value there (around it, where it is missing). pydantic's location also holds
    the names of a union's members, which no user has written."""
    where: KeyPath = ()
    value: Any = arguments
    for step in error["loc"]:
        if step in value if isinstance(value, dict) else isinstance(value, list) and step in range(len(value)):
            where, value = (*where, step), value[step]
    if error["type"] == "missing" and isinstance(value, dict):
        where = (*where, error["loc"][-1])
    return where, value


def _names_at(schema: dict[str, Any], key_path: KeyPath) -> list[str]:
    """The keys that the schema knows at a key path."""
    names = [name for member in schema.get("anyOf", []) for name in _names_at(member, key_path)]
    if not key_path:
        return [*schema.get("properties", {}), *names]
    inner = schema.get("properties", {}).get(key_path[0]) or schema.get("additionalProperties") or schema.get("items")
    return names + (_names_at(inner, key_path[1:]) if isinstance(inner, dict) else [])


def _value_text(errors: list[Any]) -> str:
    """What is wrong with one value; each member of a union may have an error of it."""
    value = errors[0]["input"]
    if errors[-1]["type"] == "missing":  # an entry of a tuple
        return f"{format_value(value)} must have at least {errors[-1]['loc'][-1] + 1} entries"
    messages = list(dict.fromkeys(str(error["msg"]).removeprefix("Value error, ") for error in errors))
    others = [message for message in messages if not message.startswith(SHOULD_BE)]
    if others:
        return f"{format_value(value)}: {others[-1][0].lower()}{others[-1][1:]}"
    expected = " or ".join(_in_plain_words(message.removeprefix(SHOULD_BE)) for message in messages)
    is_kind = f" is {kind(value)}; it" if any(error["type"].endswith("_type") for error in errors) else ""
    meant = did_you_mean(value, re.findall("'([^']*)'", expected)) if isinstance(value, str) else ""
    return f"{format_value(value)}{is_kind} must be {expected}{meant}"


def _in_plain_words(expected: str) -> str:
    for theirs, ours in PLAIN_WORDS.items():
        expected = re.sub(rf"\b{theirs}\b", ours, expected)
    return expected


def resolved_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with its `$defs` in the place of references, and without the titles that pydantic makes up."""

    def resolve(node: Any) -> Any:
        if isinstance(node, list):
            return [resolve(each) for each in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            return resolve(schema["$defs"][node["$ref"].rsplit("/", 1)[-1]])
        return {
            key: resolve(each)
            for key, each in node.items()
            if key != "$defs" and not (key == "title" and isinstance(each, str))
        }

    resolved: dict[str, Any] = resolve(schema)
    return resolved
