"""Photographs that are one picture: python -m scripts.find_duplicates -c config.json [--resume RUN] [--output FOLDER]

Looks among all images of a config, those of training, validation and test and of info_dir, for exact copies and for
those that were resized, encoded again, cropped a little or mirrored, within persons and across them. With --resume RUN
each image is also compared with those whose embeddings by the run's model are nearest, which finds larger crops.

    <output>/duplicates.csv    a row for each pair: group, relation, kind, difference, and of both path, side and person
    <output>/duplicates.jpg    the pairs side by side, with their row's number in the table; red: between two sides
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from data_loader.duplicates import Leak
from experiment.checks import cross_checks
from experiment.cli import parse_override
from experiment.duplicates import DUPLICATES_FILE, HEADER, SHEET_FILE, contact_sheet, find_in_config, table_text
from experiment.schema import SECTIONS
from logger.log import close_log, open_log
from parse_config import ConfigParser
from utils.command_line import CommandLine
from utils.errors import ConfigError, run_and_exit
from utils.files import obstacle_to_replacing, write_atomically, write_output
from utils.images.contact_sheet import JPEG, encode
from utils.run_folders import obstacle_to_writing, refuse_missing


def main(argv: Sequence[str] | None = None) -> list[Leak]:
    """The command. Raises ConfigError, CheckpointError, DataError, StorageFullError."""
    parser = CommandLine(prog="scripts.find_duplicates", description="Finds photographs that are one picture.")
    parser.add_argument("-c", "--config", type=Path, default=Path("config.json"), help="the config (config.json)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="a.b.c=value", help="sets one value of the config"
    )
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", help=f"where {DUPLICATES_FILE} and {SHEET_FILE} are written"
    )
    parser.add_argument("--resume", type=Path, metavar="RUN", help="a run whose embeddings give further candidates")
    given = parser.parse(argv)
    if given.resume is not None:
        refuse_missing(given.resume)
    overrides = [parse_override(text) for text in given.set]
    if given.output is not None:
        obstacle = obstacle_to_replacing(given.output / DUPLICATES_FILE, [given.config], ".csv", ",".join(HEADER[:3]))
        if obstacle := obstacle or obstacle_to_writing(given.output):
            raise ConfigError(f"--output {given.output}: {DUPLICATES_FILE} cannot be written: {obstacle}")
    log = open_log(None, 1)
    try:
        config = ConfigParser.from_file(given.config, SECTIONS, overrides, cross_checks, environment=True)
        for note in config.notes:
            log.info("%s", note)
        records, sides, leaks = find_in_config(config, given.resume)
        for leak in leaks:
            log.info("%s", leak.line(records))
        if not leaks:
            log.info("%d images: no duplicates", len(records))
        if given.output is not None:
            was_there = (given.output / DUPLICATES_FILE).exists()
            write_output(given.output / DUPLICATES_FILE, table_text(records, sides, leaks))
            if leaks:
                write_atomically(given.output / SHEET_FILE, encode(contact_sheet(records, sides, leaks), JPEG))
            elif was_there:
                (given.output / SHEET_FILE).unlink(missing_ok=True)  # of the earlier search
            log.info("%s: written", given.output)
        return leaks
    finally:
        close_log()


if __name__ == "__main__":
    run_and_exit(main)
