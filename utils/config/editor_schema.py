"""The JSON Schema of a config file, for editors: what they complete with, and check against, as one types."""

from __future__ import annotations

import json
from typing import Any

from utils.config.layers import NAMED_FREELY
from utils.config.list_edits import edit_schema
from utils.config.sections import Sections

NULLABLE = {key_path[-1] for key_path in NAMED_FREELY}
EDIT = "edit"
"""The definition of an edit of a list of plain values."""


def editor_schema(sections: Sections) -> dict[str, Any]:
    """The schema (draft 2020-12) of a file. One that extends another may leave out whatever the other says, and edit
    the other's lists."""
    complete = sections.schema()
    complete["properties"] = {
        "$schema": {},
        "extends": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
        **complete["properties"],
    }
    part = _without_required(complete)
    part["properties"]["extends"] = complete["properties"]["extends"]
    entries: dict[str, str] = {}  # of lists, as text, to their names: those of long lists of names stand once
    shared = _with_named_entries({"complete": complete, "part": part, EDIT: edit_schema({})}, entries)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "if": {"required": ["extends"]},
        "then": {"$ref": "#/$defs/part"},
        "else": {"$ref": "#/$defs/complete"},
        "$defs": {**shared, **{name: json.loads(text) for text, name in entries.items()}},
    }


def _with_named_entries(schema: Any, entries: dict[str, str]) -> Any:
    """The schema with references for what its lists hold, each kind of entry added to `entries` once."""
    if isinstance(schema, list):
        return [_with_named_entries(inner, entries) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    named = {key: _with_named_entries(inner, entries) for key, inner in schema.items()}
    if isinstance(schema.get("items"), dict) and "allOf" in schema["items"]:
        name = entries.setdefault(json.dumps(schema["items"]), f"entry{len(entries) + 1}")
        named["items"] = {"$ref": f"#/$defs/{name}"}
    return named


def _without_required(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a file that says only a part. Lists are replaced or edited, so their entries stay complete."""
    if schema.get("type") == "array":
        items = schema.get("items", {})
        return {"anyOf": [schema, edit_schema(items) if "allOf" in items else {"$ref": f"#/$defs/{EDIT}"}]}
    loose: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "properties":
            loose[key] = {name: _without_required(inner) for name, inner in value.items()}
            for name in NULLABLE & loose[key].keys():  # null takes an entry out
                for holder in (loose[key][name], *loose[key][name].get("anyOf", [])):
                    if holder.get("additionalProperties"):
                        holder["additionalProperties"] = {"anyOf": [holder["additionalProperties"], {"type": "null"}]}
        elif key in ("additionalProperties", "then") and isinstance(value, dict):
            loose[key] = _without_required(value)
        elif key in ("anyOf", "allOf"):
            loose[key] = [_without_required(inner) for inner in value]
        elif key != "required":
            loose[key] = value
    return loose
