"""Photographs that are one picture: python -m scripts.find_duplicates -c config.json [--resume RUN] [--output FOLDER]

Looks among all images of a config, those of training, validation and test and of info_dir, for exact copies and for
those that were resized, encoded again, cropped a little or mirrored, within persons and across them. With --resume RUN
each image is also compared with those whose embeddings by the run's model are nearest, which finds larger crops.

    <output>/duplicates.csv    a row for each pair: group, relation, kind, difference, and of both path, side and person
    <output>/duplicates.jpg    the pairs side by side, with their row's number in the table; red: between two sides
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence, Set
from pathlib import Path

import numpy as np

from data_loader.duplicates import DuplicatePair, Leak, find_duplicates, groups, leaks_of, nearest_pairs
from data_loader.records.image_check import CHECKED_IMAGES_FILE, check_images
from data_loader.records.records import Record
from data_loader.records.tables import as_cell
from experiment.builders import read_label_table
from experiment.checks import check_config, cross_checks
from experiment.cli import parse_override
from experiment.folds import splits_of
from experiment.leaks import read_evaluation_images, records_by_side
from experiment.schema import SECTIONS
from inference.embeddings import embed
from inference.inputs import folds_with_checkpoints
from inference.predictor import Predictor, find_checkpoint
from logger.log import close_log, open_log
from parse_config import ConfigParser
from utils.command_line import CommandLine
from utils.device import choose_device
from utils.errors import ConfigError, run_and_exit
from utils.files import obstacle_to_replacing, short_path, write_atomically, write_output
from utils.images import read_rgb
from utils.images.contact_sheet import BLACK, JPEG, RED, captioned, encode, grid, tile_of
from utils.run_folders import obstacle_to_writing, refuse_missing

TABLE, SHEET = "duplicates.csv", "duplicates.jpg"
HEADER = [
    "pair", "group", "relation", "kind", "difference", "path", "side", "person", "other_path", "other_side",
    "other_person",
]  # fmt: skip

NEIGHBOURS = 5
"""So many of the nearest embeddings of each image are compared with it."""

SHEET_PAIRS, SHEET_COLUMNS = 120, 5


def find(config: ConfigParser, run: Path | None = None) -> tuple[list[Record], list[str], list[Leak]]:
    """All images of a config with their sides, and their duplicates by relation.

    run: whose embeddings are asked, too

    Raises ConfigError, CheckpointError, DataError."""
    folds = splits_of(config, read_label_table(config, check_config(config)))
    records, sides = records_by_side(folds, read_evaluation_images(config))
    save_dir, bits = Path(config["trainer"]["save_dir"]), config["data_loader"]["args"]["bits_used_of_16"]
    paths = [record.path for record in records]
    bad = check_images(paths, save_dir / CHECKED_IMAGES_FILE, "warn", bits, True, "they are no duplicates of any other")
    further = None if run is None else _neighbours(records, {*bad}, run)
    pairs = find_duplicates(paths, None, save_dir, show_progress=True, extra_pairs=further)
    return records, sides, leaks_of(pairs, records, sides)


def _neighbours(records: Sequence[Record], bad: Set[Path], run: Path) -> np.ndarray:
    """(K, 2) rows of pairs whose embeddings are near; without images that cannot be read."""
    rows = np.array([row for row, record in enumerate(records) if record.path not in bad], dtype=np.int64)
    checkpoint = find_checkpoint(next(iter(folds_with_checkpoints(run).values()), run))
    predictor = Predictor.from_checkpoint(checkpoint, choose_device(None))
    (features,) = embed([predictor], [records[row] for row in rows], verbosity=1)
    return rows[nearest_pairs(features, NEIGHBOURS)]


def table_text(records: Sequence[Record], sides: Sequence[str], leaks: Sequence[Leak]) -> str:
    """The CSV: the pairs by relation, the most alike first."""
    pairs = [pair for leak in leaks for pair in leak.pairs]
    found = groups((pair.first, pair.second) for pair in pairs)
    group_of = {row: number for number, group in enumerate(found, start=1) for row in group}
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(HEADER)
    relations = [leak.relation for leak in leaks for _ in leak.pairs]
    for number, (pair, relation) in enumerate(zip(pairs, relations, strict=True), start=1):
        of_both = [
            cell
            for row in (pair.first, pair.second)
            for cell in (as_cell(short_path(records[row].path)), sides[row], as_cell(records[row].person))
        ]
        table.writerow([number, group_of[pair.first], relation, pair.kind, f"{pair.difference:.4f}", *of_both])
    return text.getvalue()


def contact_sheet(records: Sequence[Record], sides: Sequence[str], leaks: Sequence[Leak]) -> np.ndarray:
    """The first SHEET_PAIRS pairs of the table, side by side, (H, W, 3)."""
    numbered = enumerate(((pair, leak) for leak in leaks for pair in leak.pairs), start=1)
    tiles = [_tile(number, pair, leak, records, sides) for number, (pair, leak) in numbered if number <= SHEET_PAIRS]
    return grid(tiles, SHEET_COLUMNS)


def _tile(number: int, pair: DuplicatePair, leak: Leak, records: Sequence[Record], sides: Sequence[str]) -> np.ndarray:
    both = [
        captioned(tile_of(read_rgb(records[row].path)), [sides[row], records[row].person])
        for row in (pair.first, pair.second)
    ]
    title = f"{number}: {pair.kind}, {pair.difference:.2f}"
    return captioned(np.concatenate(both, axis=1), [title], RED if leak.crosses_sides else BLACK)


def main(argv: Sequence[str] | None = None) -> list[Leak]:
    """The command. Raises ConfigError, CheckpointError, DataError, StorageFullError."""
    parser = CommandLine(prog="scripts.find_duplicates", description="Finds photographs that are one picture.")
    parser.add_argument("-c", "--config", type=Path, default=Path("config.json"), help="the config (config.json)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="a.b.c=value", help="sets one value of the config"
    )
    parser.add_argument("--output", type=Path, metavar="FOLDER", help=f"where {TABLE} and {SHEET} are written")
    parser.add_argument("--resume", type=Path, metavar="RUN", help="a run whose embeddings give further candidates")
    given = parser.parse(argv)
    if given.resume is not None:
        refuse_missing(given.resume)
    overrides = [parse_override(text) for text in given.set]
    if given.output is not None:
        obstacle = obstacle_to_replacing(given.output / TABLE, [given.config], ".csv", ",".join(HEADER[:3]))
        if obstacle := obstacle or obstacle_to_writing(given.output):
            raise ConfigError(f"--output {given.output}: {TABLE} cannot be written: {obstacle}")
    log = open_log(None, 1)
    try:
        config = ConfigParser.from_file(given.config, SECTIONS, overrides, cross_checks, environment=True)
        for note in config.notes:
            log.info("%s", note)
        records, sides, leaks = find(config, given.resume)
        for leak in leaks:
            log.info("%s", leak.line(records))
        if not leaks:
            log.info("%d images: no duplicates", len(records))
        if given.output is not None:
            was_there = (given.output / TABLE).exists()
            write_output(given.output / TABLE, table_text(records, sides, leaks))
            if leaks:
                write_atomically(given.output / SHEET, encode(contact_sheet(records, sides, leaks), JPEG))
            elif was_there:
                (given.output / SHEET).unlink(missing_ok=True)  # of the earlier search
            log.info("%s: written", given.output)
        return leaks
    finally:
        close_log()


if __name__ == "__main__":
    run_and_exit(main)
