"""The CSV files that answers are handed in as, and read back from for scoring: a row an image.

A submission has the columns ImageID and ans, the joint class; where a label space has none, ImageID and a column for
each attribute. Beside it, <submission>.json holds which checkpoints made it, and its label space.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from base.attribute import Attribute
from base.batch import UNKNOWN
from base.label_space import LabelSpace
from data_loader.records.tables import Rows, as_cell, columns_are, from_cell, raise_problems, read_table
from utils.errors import DataError
from utils.files import write_output

ID_COLUMN, ANSWER_COLUMN, PERSON_COLUMN = "ImageID", "ans", "person"
TRUE = "true "
"""The beginning of the names of columns that hold the truth."""


@dataclass(frozen=True)
class Answers:
    """A table of answers.

    path: the file
    ids: the images' names
    classes: by attribute that the table knows, (N,) int64, -1 = unknown
    joint: (N,) int64, the joint class, -1 = unknown; None where the table lacks it
    persons: of the images; None where the table has no such column
    has_joint_column: whether the joint class is a column of its own, not made of the attributes'
    """

    path: Path
    ids: list[str]
    classes: dict[str, Tensor]
    joint: Tensor | None = None
    persons: list[str] | None = None
    has_joint_column: bool = False


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Writes a table; text that a spreadsheet would run as a formula gets a leading quote.

    Raises ConfigError, or StorageFullError, where it cannot be written."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([as_cell(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)
    write_output(path, text.getvalue())


def write_submission(
    path: Path,
    ids: Sequence[str],
    labels: LabelSpace,
    joint: Tensor | None,
    classes: Mapping[str, Tensor],
    truth: Mapping[str, Tensor] | None = None,
) -> None:
    """Writes a row an image, in the given order: the joint class's number, or each attribute's class by name.

    truth: by attribute, (N,), -1 = unknown: adds the columns "true ans" and "true <attribute>", empty where unknown"""
    columns: dict[str, Sequence[object]] = _named(labels, classes) if joint is None else {ANSWER_COLUMN: joint.tolist()}
    truth = {name: own for name, own in (truth or {}).items() if name in labels.predicted_attributes}
    if joint is not None and all(each.name in truth for each in labels.joint_attributes):
        numbers = labels.joint_classes(truth).tolist()
        columns[f"{TRUE}{ANSWER_COLUMN}"] = ["" if number == UNKNOWN else number for number in numbers]
    columns |= {f"{TRUE}{name}": own for name, own in _named(labels, truth).items()}
    write_csv(path, [ID_COLUMN, *columns], list(zip(ids, *columns.values(), strict=True)))


def _named(labels: LabelSpace, classes: Mapping[str, Tensor]) -> dict[str, Sequence[object]]:
    """By attribute, the classes' names; "" where unknown."""
    names = {name: [*labels.attributes[name].class_names, ""] for name in classes}  # -1 is the last: ""
    return {name: [names[name][number] for number in own.tolist()] for name, own in classes.items()}


def write_probabilities(path: Path, ids: Sequence[str], labels: LabelSpace, by_attribute: Mapping[str, Tensor]) -> None:
    """Writes a row an image: its name, then each attribute's probability of each scored class, (N, S) each."""
    header = [f"{name} {text}" for name in by_attribute for text in labels.attributes[name].class_names]
    table = torch.cat(list(by_attribute.values()), dim=1)
    rows = [[name, *(f"{value:.6f}" for value in row)] for name, row in zip(ids, table.tolist(), strict=True)]
    write_csv(path, [ID_COLUMN, *header], rows)


def origin_file(submission: Path) -> Path:
    """The file beside a submission that has what made it."""
    return submission.with_name(f"{submission.name}.json")


def write_origin(
    submission: Path, labels: LabelSpace, members: Sequence[Mapping[str, Any]], decision: str | None = None
) -> None:
    """Writes what made a submission: its label space, of each model the checkpoint, the run and the weight, and the
    file of a tuned decision."""
    origin = {"labels": labels.to_config(), "models": list(members)}
    if decision is not None:
        origin["decision"] = decision
    write_output(origin_file(submission), f"{json.dumps(origin, indent=4, ensure_ascii=False)}\n")


def read_origin(submission: Path) -> LabelSpace | None:
    """The label space in the file beside a submission; None if there is no such file. Raises DataError."""
    path = origin_file(submission)
    if not path.is_file():
        return None
    try:
        return LabelSpace(**json.loads(path.read_text(encoding="utf-8"))["labels"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: holds no label space ({error!r:.60}); name a run with --labels") from None


def read_answers(path: Path, labels: LabelSpace, complete: bool = False) -> Answers:
    """Reads a CSV with the columns ImageID, then ans (the joint class) or one an attribute, and perhaps person.

    ans is a number. A column of an attribute holds its classes by name, or all by number, or (of one with bins) numbers
    to be sorted into them. An empty cell is unknown. The quote that `write_csv` gives to formulas is removed.

    complete: each class must be known, as in a submission

    Raises DataError naming the row for a missing column, an image that is there twice, or what is no class."""
    table = [
        (number, {column: from_cell(cell) for column, cell in row.items()})
        for number, row in read_table(path, (ID_COLUMN,))
    ]
    header = table[0][1]
    attributes = {name: each for name, each in labels.predicted_attributes.items() if name in header}
    if ANSWER_COLUMN in header and labels.has_joint_class:
        attributes = {}
    elif not attributes:
        expected = [*([ANSWER_COLUMN] if labels.has_joint_class else []), *labels.predicted_attributes]
        missing = " or ".join(map(repr, expected))
        raise DataError(f"{path}: has no column {missing} ({columns_are(header)})")
    first: dict[str, int] = {}
    for number, row in table:
        if first.setdefault(row[ID_COLUMN], number) != number:
            raise DataError(f"{path} row {number}: {row[ID_COLUMN]} is in row {first[row[ID_COLUMN]]} already")
    classes = {
        name: _classes(path, name, table, len(each.class_names), complete, each) for name, each in attributes.items()
    }
    joint = None
    if not attributes:
        joint = _classes(path, ANSWER_COLUMN, table, labels.num_joint_classes, complete)
        classes = labels.attribute_classes(joint)
    elif labels.has_joint_class and all(each.name in classes for each in labels.joint_attributes):
        joint = labels.joint_classes(classes)
    persons = None
    if PERSON_COLUMN in header:
        # An unknown person is no other image's: a name that no cell can hold.
        persons = [row[PERSON_COLUMN] or f"\0{row[ID_COLUMN]}" for _, row in table]
    return Answers(path, list(first), classes, joint, persons, not attributes)


def _classes(
    path: Path, column: str, table: Rows, num_classes: int, complete: bool, attribute: Attribute | None = None
) -> Tensor:
    """The classes in a column, (N,).

    attribute: that the column is of; None for the joint class"""
    texts = {text for _, row in table if (text := row[column])}
    names = () if attribute is None else attribute.class_names
    sort_into_bins = None if attribute is None or attribute.bins is None else attribute.scoring_class
    known = {text: int(text) for text in texts if re.fullmatch("[0-9]{1,9}", text) and int(text) < num_classes}
    if attribute is not None and (known.keys() != texts or texts <= set(names)):
        known = {name: number for number, name in enumerate(names)}
    if sort_into_bins and not texts <= known.keys():
        known = {}
    classes = []
    for number, row in table:
        text = row[column]
        if not text and complete:
            raise DataError(f"{path} row {number}: {column} is empty; every image must have an answer")
        if text and text not in known:
            if sort_into_bins is None:
                expected = f"a class of 0 to {num_classes - 1}"
                if names:
                    expected = f"one of {', '.join(names)} (or, in all rows, {expected})"
                raise DataError(f"{path} row {number}: {column} = {text[:40]!r} is not {expected}")
            try:
                known[text] = sort_into_bins(text)
            except DataError as error:
                raise DataError(f"{path} row {number}: {error}") from None
        classes.append(known[text] if text else UNKNOWN)
    return torch.tensor(classes)


def align(table: Answers, ids: Sequence[str], reference: Path | str) -> Answers:
    """The rows of `table` in the order of `ids`, which are the images of `reference`.

    Raises DataError for the table if it lacks some of them, or has others."""
    position = {name: row for row, name in enumerate(table.ids)}
    expected = set(ids)
    problems = [f"{table.path}: lacks {name}, which is in {reference}" for name in ids if name not in position]
    problems += [f"{table.path}: {name} is not in {reference}" for name in table.ids if name not in expected]
    raise_problems(problems)
    rows = [position[name] for name in ids]
    return replace(
        table,
        ids=list(ids),
        classes={name: classes[rows] for name, classes in table.classes.items()},
        joint=None if table.joint is None else table.joint[rows],
        persons=None if table.persons is None else [table.persons[row] for row in rows],
    )
