"""The JSON Schema of a config file, for editors: what they complete with, and check against, while one types."""

from __future__ import annotations

from typing import Any

from utils.config.layers import NAMED_FREELY
from utils.config.sections import Sections

NULLABLE = {key_path[-1] for key_path in NAMED_FREELY}


def editor_schema(sections: Sections) -> dict[str, Any]:
    """The schema (draft 2020-12) of a file. No key is required, since another file that is extended may have it; the
    entries of lists are complete."""
    schema = _partial(sections.schema())
    text = {"type": "string"}
    extends = {"anyOf": [text, {"type": "array", "items": text}]}
    schema["properties"] = {"$schema": {}, "extends": extends, **schema["properties"]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _partial(schema: dict[str, Any]) -> dict[str, Any]:
    if schema.get("type") == "array":
        return {"anyOf": [schema, _edit_schema(schema.get("items", {}))]}
    partial: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "properties":
            partial[key] = {name: _partial(inner) for name, inner in value.items()}
            for name in NULLABLE & partial[key].keys():  # null removes an entry
                for holder in (partial[key][name], *partial[key][name].get("anyOf", [])):
                    if holder.get("additionalProperties"):
                        holder["additionalProperties"] = {"anyOf": [holder["additionalProperties"], {"type": "null"}]}
        elif key in ("additionalProperties", "then") and isinstance(value, dict):
            partial[key] = _partial(value)
        elif key in ("anyOf", "allOf"):
            partial[key] = [_partial(inner) for inner in value]
        elif key != "required":
            partial[key] = value
    return partial


def _edit_schema(items: dict[str, Any]) -> dict[str, Any]:
    """Of an object that edits a list of `items`."""
    return {
        "type": "object",
        "properties": {
            "before": {},
            "after": {},
            "add": {"type": "array", "items": items},
            "remove": {"type": "array"},
        },
        "additionalProperties": False,
        "anyOf": [{"required": ["add"]}, {"required": ["remove"]}],
        "dependentRequired": {"before": ["add"], "after": ["add"]},
        "not": {"required": ["before", "after"]},
    }
