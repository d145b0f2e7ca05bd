"""Prepares pictures into a new folder: python -m scripts.prepare TABLE_OR_FOLDER OUT -c config.json [--contact-sheet]

The config's `preparation` is applied to every picture. Names, folders and file formats stay as they are, and tables are
copied, so that OUT can take the source's place in a config. A command that was stopped is run again and does the rest.
OUT/prepared.csv lists what each picture fell back to.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from data_loader.preparation.prepared_folder import CONTACT_SHEET, prepare, read_preparation
from logger.log import close_log, open_log
from utils.command_line import CommandLine
from utils.errors import DataError, run_and_exit


def parse(argv: Sequence[str] | None) -> Namespace:
    """The command line. Raises ConfigError."""
    parser = CommandLine(prog="scripts.prepare", description="Prepares the pictures of a table or folder into another.")
    parser.add_argument("source", type=Path, help="a table with a column of paths, or a folder")
    parser.add_argument("output", type=Path, help="a new folder, or that of a run of this command that was stopped")
    parser.add_argument(
        "-c", "--config", type=Path, default=Path("config.json"), help="a config with a preparation (config.json)"
    )
    parser.add_argument(
        "--contact-sheet", action="store_true", help=f"writes {CONTACT_SHEET}: pictures before and after"
    )
    return parser.parse(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of this process, or `argv`."""
    arguments = parse(argv)
    if not arguments.source.exists():
        raise DataError(f"{arguments.source}: there is no such table or folder")
    preparation = read_preparation(arguments.config)
    log = open_log(None, 1)
    try:
        for line in prepare(arguments.source, arguments.output, preparation, arguments.contact_sheet):
            log.info("%s", line)
        log.info("%s: written", arguments.output)
    finally:
        close_log()


if __name__ == "__main__":
    run_and_exit(main)
