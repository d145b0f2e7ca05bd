"""Writes configs/config.schema.json, which editors check and complete configs with: python -m scripts.write_schema"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from experiment.schema import SECTIONS
from utils.command_line import CommandLine
from utils.config.editor_schema import editor_schema
from utils.errors import run_command
from utils.files import write_atomically

SCHEMA_FILE = Path(__file__).parents[1] / "configs" / "config.schema.json"


def schema_text() -> str:
    """The schema, made from the signatures that configs are checked against; without spaces, which would double it."""
    return json.dumps(editor_schema(SECTIONS), separators=(",", ":"), ensure_ascii=False) + "\n"


def main() -> None:
    """The command."""
    CommandLine(description="Writes configs/config.schema.json, which editors check configs with.").parse()
    write_atomically(SCHEMA_FILE, schema_text().encode())
    print(f"{SCHEMA_FILE}: written")


if __name__ == "__main__":
    sys.exit(run_command(main))
