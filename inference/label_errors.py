"""Suspicious labels: those that confident learning finds in predictions by models that did not train on them."""

from __future__ import annotations

import csv
import io
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from base.batch import UNKNOWN
from data_loader.records import LabelTable
from data_loader.records.tables import as_cell
from inference.predictor import Probabilities
from inference.run_predictions import RunPredictions, common_images
from utils.errors import ConfigError, DataError
from utils.images import read_rgb
from utils.images.contact_sheet import captioned, grid, tile_of
from utils.wording import counted

logger = logging.getLogger(__name__)

HEADER = ["person", "path", "attribute", "value", "given", "suggested", "p_given", "p_suggested"]
"""Of the table of suspicious labels, which a config takes as label_fixes."""
SHEET_PICTURES, SHEET_COLUMNS = 120, 10


@dataclass(frozen=True)
class SuspiciousLabel:
    """A label that is probably wrong.

    attribute: whose label it is
    rows: of the images that have it: one, or all of a person's
    of_person: whether it is a person's
    given, suggested: scored classes
    p_given, p_suggested: their probabilities; of a person the mean over the images
    """

    attribute: str
    rows: list[int]
    of_person: bool
    given: int
    suggested: int
    p_given: float
    p_suggested: float


def suspicious_labels(
    truth: Mapping[str, np.ndarray], probabilities: Mapping[str, np.ndarray], persons: Sequence[str]
) -> list[SuspiciousLabel]:
    """By attribute, the likeliest errors first (the least probability of the given class).

    truth: by attribute the scored class, (N,) int64, -1 = unknown
    probabilities: by attribute, (N, S), by models that did not train on the images
    persons: (N,); an attribute that never differs within a person is examined person by person

    Confident learning (Northcutt, Jiang & Chuang 2021) estimates how often each class is labelled as each other one,
    with a threshold of confidence for each class, and takes so many of the least confident; see `find_label_issues` of
    cleanlab, which is asked head by head. Raises ConfigError where cleanlab is missing."""
    try:
        from cleanlab.filter import find_label_issues
    except ImportError:
        raise ConfigError('finding label errors needs the package "cleanlab": pip install cleanlab') from None
    found = []
    for name, classes in truth.items():
        groups = _groups(classes, persons)
        labels = np.array([classes[rows[0]] for rows in groups], dtype=np.int64)
        predicted = np.array([probabilities[name][rows].mean(axis=0) for rows in groups], dtype=np.float64)
        if len(np.unique(labels)) < 2:
            logger.warning("%s: fewer than two classes are known; it is left out", name)
            continue
        predicted /= predicted.sum(axis=1, keepdims=True)
        issues = find_label_issues(labels, predicted, return_indices_ranked_by="self_confidence", n_jobs=1)
        for group in issues.tolist():
            others = np.where(np.arange(predicted.shape[1]) == labels[group], -1, predicted[group])
            found.append(
                SuspiciousLabel(
                    name, groups[group], _is_of_persons(classes, persons), int(labels[group]), int(others.argmax()),
                    float(predicted[group, labels[group]]), float(others.max()),
                )
            )  # fmt: skip
    return found


def _groups(classes: np.ndarray, persons: Sequence[str]) -> list[list[int]]:
    """The rows that share a label: those of a person, or each for itself; without unknown ones."""
    known = np.flatnonzero(classes != UNKNOWN).tolist()
    if not _is_of_persons(classes, persons):
        return [[row] for row in known]
    by_person = defaultdict(list)
    for row in known:
        by_person[persons[row]].append(row)
    return list(by_person.values())


def _is_of_persons(classes: np.ndarray, persons: Sequence[str]) -> bool:
    """Whether some persons have several images, and each of them one class."""
    known = [(person, value) for person, value in zip(persons, classes.tolist(), strict=True) if value != UNKNOWN]
    number = len({person for person, _ in known})
    return len(set(known)) == number < len(known)


# --- of runs, and what is written of them ---


def find_in_runs(runs: Sequence[RunPredictions]) -> tuple[LabelTable, list[SuspiciousLabel]]:
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
            logger.warning("%s", error)
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


def lines_of(images: LabelTable, found: Sequence[SuspiciousLabel]) -> list[str]:
    """A line for each attribute."""
    lines = []
    for name in images.label_space.predicted_attributes:
        own = [label for label in found if label.attribute == name]
        what = counted(len(own), "person" if own and own[0].of_person else "image")
        first = ""
        if own:
            record = images.records[own[0].rows[0]]
            first = f", first {record.person_id or record.person if own[0].of_person else record.name}"
        lines.append(f"{name}: the labels of {what} are suspicious{first}")
    return lines
