"""Labels that are probably wrong: python -m scripts.find_label_errors RUN [RUN ...] --output FOLDER

Asks the runs' out-of-fold predictions, attribute by attribute, with confident learning (pip install cleanlab).

    <output>/label_fixes.csv    a config's label_fixes: delete the rows of labels that are right, and use it
    <output>/label_errors.jpg   the pictures, with their row in the table, the given class and the suggested one
"""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from base.label_space import LabelSpace
from data_loader.records import LabelTable
from data_loader.records.tables import as_cell
from inference.label_errors import SuspiciousLabel, suspicious_labels
from inference.predictor import Probabilities
from inference.run_predictions import RunPredictions, common_images
from logger.log import LOG_NAME, close_log, open_log
from utils.command_line import CommandLine
from utils.errors import ConfigError, DataError, run_and_exit
from utils.files import write_atomically, write_output
from utils.images import read_rgb
from utils.images.contact_sheet import JPEG, captioned, encode, grid, tile_of
from utils.run_folders import obstacle_to_writing, refuse_missing
from utils.wording import counted

log = logging.getLogger(LOG_NAME)

TABLE, SHEET = "label_fixes.csv", "label_errors.jpg"
HEADER = ["person", "path", "attribute", "value", "given", "suggested", "p_given", "p_suggested"]
SHEET_PICTURES, SHEET_COLUMNS = 120, 10


def find(runs: Sequence[RunPredictions]) -> tuple[LabelTable, list[SuspiciousLabel]]:
    """The images that all runs predict, and what is suspicious of them. Raises ConfigError, DataError."""
    common = common_images(runs)
    images = common[0].read_images()
    by_run = [Probabilities.from_heads(run.table.labels, run.table.by_head).by_attribute for run in common]
    names = list(common[0].table.truth)
    mean = {name: np.mean([each[name].numpy() for each in by_run], axis=0) for name in names}
    truth = {name: classes.numpy() for name, classes in common[0].table.truth.items()}
    return images, suspicious_labels(truth, mean, [record.person_id or record.person for record in images.records])


def table_text(images: LabelTable, found: Sequence[SuspiciousLabel]) -> str:
    """The CSV. A number's suggested bin is no number: its value is left empty, which makes the label unknown."""
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(HEADER)
    for label in found:
        record, attribute = images.records[label.rows[0]], images.label_space.attributes[label.attribute]
        named = [record.person_id or record.person, ""] if label.of_person else ["", record.name]
        given, suggested = (attribute.class_names[number] for number in (label.given, label.suggested))
        value = suggested if attribute.bins is None else ""
        numbers = [f"{label.p_given:.4f}", f"{label.p_suggested:.4f}"]
        table.writerow([*map(as_cell, named), label.attribute, value, as_cell(given), as_cell(suggested), *numbers])
    return text.getvalue()


def contact_sheet(images: LabelTable, found: Sequence[SuspiciousLabel]) -> np.ndarray:
    """A picture of each of the first SHEET_PICTURES labels of all attributes in turn, (H, W, 3)."""
    tiles = []
    for number, label in _in_turn(found)[:SHEET_PICTURES]:
        names = images.label_space.attributes[label.attribute].class_names
        record = images.records[label.rows[len(label.rows) // 2]]
        try:
            tile = tile_of(read_rgb(record.path))
        except DataError as error:
            log.warning("%s", error)
            continue
        classes = f"{names[label.given]} > {names[label.suggested]}, {label.p_suggested:.2f}"
        tiles.append(captioned(tile, [f"row {number + 2}: {label.attribute}", classes]))
    return grid(tiles, SHEET_COLUMNS) if tiles else np.full((1, 1, 3), 255, np.uint8)


def _in_turn(found: Sequence[SuspiciousLabel]) -> list[tuple[int, SuspiciousLabel]]:
    """Numbered: the first of each attribute, then the second of each, and so on."""
    rank: dict[str, int] = {}
    keys = []
    for number, label in enumerate(found):
        rank[label.attribute] = rank.get(label.attribute, -1) + 1
        keys.append((rank[label.attribute], number, label))
    return [(number, label) for _, number, label in sorted(keys, key=lambda key: key[:2])]


def report(images: LabelTable, found: Sequence[SuspiciousLabel], labels: LabelSpace) -> list[str]:
    """A line for each attribute."""
    lines = []
    for name in labels.predicted_attributes:
        own = [label for label in found if label.attribute == name]
        what = counted(len(own), "person" if own and own[0].of_person else "image")
        first = ""
        if own:
            record = images.records[own[0].rows[0]]
            first = f", first {record.person_id or record.person if own[0].of_person else record.name}"
        lines.append(f"{name}: the labels of {what} are suspicious{first}")
    return lines


def main(argv: Sequence[str] | None = None) -> list[SuspiciousLabel]:
    """The command. Raises ConfigError, CheckpointError, DataError, StorageFullError."""
    parser = CommandLine(prog="scripts.find_label_errors", description="Finds labels that are probably wrong.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders; one of folds covers all images")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FOLDER", help=f"where {TABLE} and {SHEET} are written"
    )
    given = parser.parse(argv)
    if repeated := [run for number, run in enumerate(given.runs) if run in given.runs[:number]]:
        raise ConfigError(f"{repeated[0]}: is named twice")
    for run in given.runs:
        refuse_missing(run)
    if obstacle := obstacle_to_writing(given.output):
        raise ConfigError(f"--output {given.output}: cannot be written: {obstacle}")
    open_log(None, verbosity=1)
    try:
        runs = [RunPredictions.read(run) for run in given.runs]
        images, found = find(runs)
        log.info("%d images that %s did not train on", len(images), counted(len(runs), "run"))
        for line in report(images, found, images.label_space):
            log.info("%s", line)
        write_output(given.output / TABLE, table_text(images, found))
        if found:
            write_atomically(given.output / SHEET, encode(contact_sheet(images, found), JPEG))
        log.info("%s: written; look at each label, and delete the rows of those that are right", given.output / TABLE)
        if used := sorted({run.config["label_fixes"] for run in runs if run.config.get("label_fixes")}):
            log.info("the runs have used %s: add the rows to it", ", ".join(used))
        return found
    finally:
        close_log()


if __name__ == "__main__":
    run_and_exit(main)
