"""Duplicates in a config's data: those of different persons are reported before training; scripts.find_duplicates lists
all of them."""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Sequence, Set
from pathlib import Path

import numpy as np

from data_loader.duplicates import DuplicatePair, Leak, find_duplicates, groups, leaks_of, nearest_pairs
from data_loader.records.file_signatures import NO_SIGNATURE, signatures_of
from data_loader.records.image_check import CHECKED_IMAGES_FILE, check_images
from data_loader.records.records import Record
from data_loader.records.sources import read_evaluation_folder
from data_loader.records.tables import as_cell
from experiment.builders import read_label_table
from experiment.checks import check_config
from experiment.folds import Fold, splits_of
from inference.embeddings import embed
from inference.inputs import folds_with_checkpoints
from inference.predictor import Predictor, find_checkpoint
from parse_config import ConfigParser
from utils import distributed
from utils.device import choose_device
from utils.errors import DataError
from utils.files import short_path
from utils.images import read_rgb
from utils.images.contact_sheet import BLACK, RED, captioned, grid, tile_of

logger = logging.getLogger(__name__)

DUPLICATES_FILE, SHEET_FILE = "duplicates.csv", "duplicates.jpg"
"""What scripts.find_duplicates writes."""
HEADER = [
    "pair", "group", "relation", "kind", "difference", "path", "side", "person", "other_path", "other_side",
    "other_person",
]  # fmt: skip

NEIGHBOURS = 5
"""So many of the nearest embeddings of each image are compared with it."""

SHEET_PAIRS, SHEET_COLUMNS = 120, 5

REMEDY = (
    'python -m scripts.find_duplicates -c <this config> shows them; "persons": "by_duplicates" in a source joins '
    'their persons, and "duplicates": "ignore" says nothing'
)


def read_evaluation_images(config: ConfigParser) -> list[Record]:
    """The images of `info_dir`; none where there is no such folder. Raises DataError."""
    info_dir = config.extra().info_dir
    if info_dir is None or not Path(info_dir).is_dir():
        return []
    return read_evaluation_folder(info_dir, any(source["args"].get("allow_links") for source in config["data"]))


def records_by_side(folds: Sequence[Fold], evaluation: Sequence[Record]) -> tuple[list[Record], list[str]]:
    """All images of a config, each once, and of each its side: train, validation, test or evaluation; of a run of folds
    the fold that it validates in."""
    first, side_of = folds[0].split, dict[str, tuple[Record, str]]()
    tables = [(fold.split.validation, f"fold {fold.number}") for fold in folds] if len(folds) > 1 else []
    tables += [(fold.split.train, "train") for fold in folds]  # some images never validate
    tables += [(first.validation, "validation"), (first.test, "test")]
    for records, side in [*((table.records, side) for table, side in tables), ([*evaluation], "evaluation")]:
        for record in records:
            side_of.setdefault(str(record.path), (record, side))
    return [record for record, _ in side_of.values()], [side for _, side in side_of.values()]


def check_duplicates(config: ConfigParser, folds: Sequence[Fold]) -> None:
    """Warns of photographs of different persons that are one picture, or refuses those on two sides of the split, as
    the config's `duplicates` says. Where images are missing nothing is said: the check of images refuses them.

    Raises DataError, on every process."""
    policy = config.extra().duplicates
    if policy == "ignore":
        return
    lines, refused = json.loads(distributed.text_of_main_process(json.dumps(_lines(config, folds))))
    if policy == "refuse" and refused:
        raise DataError("\n".join([*refused, REMEDY]))
    if lines:
        logger.warning("%s", "\n  ".join([*lines, REMEDY]))


def _lines(config: ConfigParser, folds: Sequence[Fold]) -> tuple[list[str], list[str]]:
    """A line for each relation, and those of relations between sides."""
    if not distributed.is_main_process():
        return [], []
    try:
        evaluation = read_evaluation_images(config)
    except DataError:  # the check of the evaluation's images warns of it
        evaluation = []
    records, sides = records_by_side(folds, evaluation)
    if NO_SIGNATURE in signatures_of(str(record.path) for record in records).values():
        return [], []
    trainer, untrained = config["trainer"], ("test", "evaluation")  # what is there twice does not matter here
    persons = ["" if side in untrained else record.person for record, side in zip(records, sides, strict=True)]
    paths = [record.path for record in records]
    pairs = find_duplicates(paths, persons, Path(trainer["save_dir"]), show_progress=trainer["verbosity"] > 0)
    leaks = leaks_of(pairs, records, sides)
    lines = [leak.line(records) for leak in leaks]
    return lines, [line for line, leak in zip(lines, leaks, strict=True) if leak.crosses_sides]


# --- all duplicates, whoever is in them ---


def find_in_config(config: ConfigParser, run: Path | None = None) -> tuple[list[Record], list[str], list[Leak]]:
    """All images of a config with their sides, and their duplicates by relation.

    run: whose embeddings are asked, too

    Raises ConfigError, CheckpointError, DataError."""
    folds = splits_of(config, read_label_table(config, check_config(config)))
    records, sides = records_by_side(folds, read_evaluation_images(config))
    save_dir, bits = Path(config["trainer"]["save_dir"]), config["data_loader"]["args"]["bits_used_of_16"]
    paths = [record.path for record in records]
    bad = check_images(paths, save_dir / CHECKED_IMAGES_FILE, "warn", bits, True, "they are no duplicates of any other")
    near = None if run is None else _neighbours(records, {*bad}, run)
    pairs = find_duplicates(paths, None, save_dir, show_progress=True, extra_pairs=near)
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
