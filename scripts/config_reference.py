"""Every key of a config as a page of Markdown, made of the signatures that configs are checked against."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from utils.config.sections import NamedSections, Section, Sections, Settings, TypedList, TypedSection, no_keys
from utils.config.signatures import arguments_schema

PLAIN_TYPES = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "null": "null",
    "array": "list",
    "object": "object",
}
LIMITS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
MOST_TABLES = 12
"""A section that may name more types than this lists their arguments in a line each."""


def reference(sections: Sections) -> str:
    """The page. A type's arguments are a table of key, type, default ("needed" where there is none) and meaning."""
    lines = [
        "# Every key of a config",
        "",
        "Made by `python -m scripts.write_schema` from the signatures and docstrings of what a config names.",
        "A key that is left out has its default; `train.py --print-config` shows them all.",
        "",
        "## Plain keys",
        "",
        *_table(arguments_schema(sections.extra)),
    ]
    described: dict[int, str] = {}
    for key, section in sections.parts.items():
        lines += ["", f"## `{key}`", "", *_described(section, key, described)]
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines))
    return f"{text.rstrip()}\n"


def _described(section: Section, key: str, described: dict[int, str]) -> Iterator[str]:
    """described: where the types of a section were described before."""
    optional = " It may be left out, or null." if section.optional else ""
    if isinstance(section, Settings):
        schema = arguments_schema(section.component, section.injected)
        yield from (f"{schema['description']}{optional}", "", *_table(schema))
    elif isinstance(section, TypedSection):
        yield f"One `type`, with its `args`.{optional}"
        yield from _types(section, key, described)
    elif isinstance(section, TypedList):
        yield f"A list of objects with a `type` and `args`.{optional}"
        yield from _types(section.section, key, described)
    elif isinstance(section, NamedSections):
        yield from (f"By a name of your choice.{optional}", "", *_described(section.section, key, described))
    elif isinstance(section, Sections):
        yield from (f"An object.{optional}", "", *_table(arguments_schema(section.extra)))
        for name, inner in section.parts.items():
            yield from ("", f"### `{key}.{name}`", "", *_described(inner, f"{key}.{name}", described))


def _types(section: TypedSection, key: str, described: dict[int, str]) -> Iterator[str]:
    if id(section) in described:
        yield from ("", f"Types: those of `{described[id(section)]}`.")
        return
    described[id(section)] = key
    if section.extra is not no_keys:
        yield from ("", "Beside `type` and `args`:", "", *_table(arguments_schema(section.extra)))
    for name, inner in section.parts.items():
        yield from ("", f"`{name}`:", "", *_described(inner, name, described))
    yield from ("", "Types:", "")
    for name in section.names:
        schema = section.arguments_schema(name)
        properties, sentence = schema["properties"], schema.get("description", "")
        if len(section.names) > MOST_TABLES:
            defaults = {
                key: f" = {json.dumps(inner['default'])}" for key, inner in properties.items() if "default" in inner
            }
            arguments = ", ".join(f"`{key}{defaults.get(key, '')}`" for key in properties)
            yield f"- `{name}`: {sentence} {arguments or 'no arguments'}"
        else:
            yield from (f"- `{name}`: {sentence}", "", *(f"  {row}" for row in _table(schema)), "")


def _table(schema: Mapping[str, Any]) -> list[str]:
    """None where there are no keys."""
    rows = []
    for key, inner in schema["properties"].items():
        default = "needed" if key in schema.get("required", []) else ""
        if "default" in inner:
            default = f"`{json.dumps(inner['default'], ensure_ascii=False)}`"
        cells = (f"`{key}`", _type(inner), default, inner.get("description", ""))
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return ["| key | type | default | meaning |", "|---|---|---|---|", *rows] if rows else []


def _type(schema: Mapping[str, Any]) -> str:
    """The type of a value in words: "whole number, at least 1", `"best"` or `"last"`, list of text."""
    if "const" in schema or "enum" in schema:
        return ", ".join(f"`{json.dumps(each)}`" for each in schema.get("enum", [schema.get("const")]))
    members = schema.get("anyOf") or schema.get("oneOf")
    if members:
        return " or ".join(dict.fromkeys(_type(member) for member in members))
    words = PLAIN_TYPES.get(str(schema.get("type")), "anything")
    if schema.get("type") == "array" and schema.get("items"):
        words = f"list of {_type(schema['items'])}"
    limits = [f"{word} {schema[limit]:g}" for limit, word in LIMITS.items() if limit in schema]
    return ", ".join([words, *limits])
