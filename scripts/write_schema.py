"""Writes configs/config.schema.json, which editors complete and check configs with, and docs/config.md, the reference
of every key: python -m scripts.write_schema"""

from __future__ import annotations

import json
from pathlib import Path

from experiment.schema import SECTIONS
from scripts.config_reference import reference
from scripts.editor_schema import editor_schema
from utils.command_line import CommandLine
from utils.errors import run_and_exit
from utils.files import write_atomically

ROOT = Path(__file__).parents[1]
SCHEMA_FILE = ROOT / "configs" / "config.schema.json"
REFERENCE_FILE = ROOT / "docs" / "config.md"


def main() -> None:
    """The command."""
    CommandLine(
        prog="scripts.write_schema", description="Writes the editors' schema of configs, and docs/config.md."
    ).parse()
    schema = json.dumps(editor_schema(SECTIONS), separators=(",", ":"), ensure_ascii=False)
    for file, text in {SCHEMA_FILE: f"{schema}\n", REFERENCE_FILE: reference(SECTIONS)}.items():
        write_atomically(file, text.encode())
        print(f"{file}: written")


if __name__ == "__main__":
    run_and_exit(main)
