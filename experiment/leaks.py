"""Duplicates in a config's data: photographs of different persons that are one picture, reported before training."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from data_loader.duplicates import find_duplicates, leaks_of
from data_loader.records.file_signatures import NO_SIGNATURE, signatures_of
from data_loader.records.records import Record
from data_loader.records.sources import read_evaluation_folder
from experiment.folds import Fold
from parse_config import ConfigParser
from utils import distributed
from utils.errors import DataError

logger = logging.getLogger(__name__)

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
