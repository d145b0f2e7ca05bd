"""pydantic's findings in the user's terms: the key path, the value, what is expected, the nearest right name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from utils.errors import KeyPath, Problem
from utils.wording import did_you_mean, format_value, kind

SHOULD_BE = "Input should be "
"""How pydantic begins most messages."""


@dataclass(frozen=True)
class _Finding:
    key_path: KeyPath
    value: Any
    error: Any

    @property
    def type(self) -> str:
        return str(self.error["type"])


def position(key_path: KeyPath, root: Any) -> tuple[float, ...]:
    """Sorts key paths in the order of the values in `root`; what is not there comes last in its object."""
    numbers: list[float] = []
    for step in key_path:
        steps = list(root) if isinstance(root, dict) else list(range(len(root))) if isinstance(root, list) else []
        if step not in steps:
            return (*numbers, float("inf"))
        numbers.append(steps.index(step))
        root = root[step]
    return tuple(numbers)


def explain(
    error: ValidationError,
    arguments: dict[str, Any],
    key_path: KeyPath,
    schema: dict[str, Any],
    owner: str,
    injected: tuple[str, ...],
    also_known: tuple[str, ...] | None,
) -> list[Problem]:
    """A line for each key path that is wrong, in the order of `arguments`.

    schema: of the arguments, for the names that each key path takes;
    owner: the callable's name;
    injected: the parameters that the program passes;
    also_known: see `argument_problems`.
    """
    findings = _findings([(step["loc"], step) for step in error.errors(include_url=False)], arguments, ())
    by_key_path: dict[KeyPath, list[_Finding]] = {}
    for finding in findings:
        by_key_path.setdefault(finding.key_path, []).append(finding)
    problems = []
    for where in sorted(by_key_path, key=lambda each: position(each, arguments)):
        first = by_key_path[where][0]
        if first.type == "missing":
            needs = "" if len(where) > 1 or also_known is not None else f"; {owner} needs it"
            problems.append(Problem((*key_path, *where), f"is missing{needs}"))
        elif first.type == "extra_forbidden":
            problems.append(Problem((*key_path, *where), _unknown_key(where, schema, owner, injected, also_known)))
        else:
            problems.append(Problem((*key_path, *where), f"= {_value_text(by_key_path[where])}"))
    return problems


def _findings(errors: list[tuple[tuple[Any, ...], Any]], value: Any, key_path: KeyPath) -> list[_Finding]:
    """Errors with pydantic's locations, relative to `value` -> findings at key paths that the user knows.

    A location also holds the names of a union's members, which no user has written: of the members that fit so far
    the one with the fewest errors speaks; where none does, all of them."""
    here: list[_Finding] = []
    inside: dict[Any, list[tuple[tuple[Any, ...], Any]]] = {}
    members: dict[Any, list[tuple[tuple[Any, ...], Any]]] = {}
    for location, error in errors:
        head: Any = location[0] if location else None
        known = head in value if isinstance(value, dict) else isinstance(value, list) and head in range(len(value))
        if not location:
            here.append(_Finding(key_path, value, error))
        elif len(location) == 1 and error["type"] in ("missing", "extra_forbidden"):
            here.append(
                _Finding((*key_path, head), value, error) if isinstance(value, dict) else _short(key_path, value, error)
            )
        elif known:
            inside.setdefault(head, []).append((location[1:], error))
        else:
            members.setdefault(head, []).append((location[1:], error))
    for head, group in inside.items():
        here += _findings(group, value[head], (*key_path, head))
    found = [_findings(group, value, key_path) for group in members.values()]
    deeper = [member for member in found if any(finding.key_path != key_path for finding in member)]
    return here + (min(deeper, key=len) if deeper else [finding for member in found for finding in member])


def _short(key_path: KeyPath, value: list[Any], error: Any) -> _Finding:
    """A list that lacks an entry, as an error of the list."""
    message = f"List should have at least {error['loc'][-1] + 1} items, not {len(value)}"
    return _Finding(key_path, value, {**error, "type": "too_short", "msg": message})


def _unknown_key(
    where: KeyPath, schema: dict[str, Any], owner: str, injected: tuple[str, ...], also_known: tuple[str, ...] | None
) -> str:
    name, inner = str(where[-1]), len(where) > 1
    if name in injected and not inner:
        return "is set by the program; remove it"
    known = _names_at(schema, where[:-1])
    if inner or also_known is not None:
        known = known if inner else [*(also_known or ()), *known]
        listed = f" (known: {', '.join(known)})" if known else ""
        return f"is not a known key{did_you_mean(name, known)}{listed}"
    takes = f"it takes {', '.join(known)}" if known else "it takes none"
    return f"is not an argument of {owner}{did_you_mean(name, known)} ({takes})"


def _names_at(schema: dict[str, Any], key_path: KeyPath) -> list[str]:
    """The keys that the schema knows of at a key path."""
    if not key_path:
        own = list(schema.get("properties", {}))
        return own + [name for member in schema.get("anyOf", []) for name in _names_at(member, ())]
    step, rest = key_path[0], key_path[1:]
    inner = schema.get("properties", {}).get(step) or schema.get("additionalProperties") or schema.get("items")
    names = _names_at(inner, rest) if isinstance(inner, dict) else []
    return names + [name for member in schema.get("anyOf", []) for name in _names_at(member, key_path)]


def _value_text(findings: list[_Finding]) -> str:
    """What is wrong with one value, of which each member of a union may have said something."""
    value = findings[0].value
    messages = list(dict.fromkeys(str(finding.error["msg"]) for finding in findings))
    expected = [message.removeprefix(SHOULD_BE) for message in messages if message.startswith(SHOULD_BE)]
    others = [message.removeprefix("Value error, ") for message in messages if not message.startswith(SHOULD_BE)]
    if others:  # [] lacks entry 0 and entry 1: the last message says it
        return f"{format_value(value)}: {others[-1][0].lower()}{others[-1][1:]}"
    is_kind = f" is {kind(value)}; it" if any(finding.type.endswith("_type") for finding in findings) else ""
    choices = [choice for text in expected for choice in re.findall("'([^']*)'", text)]
    meant = did_you_mean(value, choices) if isinstance(value, str) else ""
    return f"{format_value(value)}{is_kind} must be {' or '.join(expected)}{meant}"


def resolved_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with its `$defs` put in where they are named, and without the titles that pydantic makes up."""
    definitions = schema.get("$defs", {})

    def resolve(node: Any, inside_properties: bool = False) -> Any:
        if isinstance(node, list):
            return [resolve(each) for each in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            return resolve(definitions[node["$ref"].rsplit("/", 1)[-1]])
        hidden = () if inside_properties else ("$defs", "title")
        return {
            key: resolve(each, key == "properties" and not inside_properties)
            for key, each in node.items()
            if key not in hidden
        }

    resolved: dict[str, Any] = resolve(schema)
    return resolved
