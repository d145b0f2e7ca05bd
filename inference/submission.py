"""The CSV files that answers are handed in as, and read back from for scoring: a row an image.

A submission has the columns ImageID and ans, the joint class; where a label space has none, ImageID and a column an
attribute. Beside it, <submission>.json tells which checkpoints made it, and what its classes mean.
"""

from __future__ import annotations

import csv
import errno
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from base.attribute import Attribute
from base.batch import UNKNOWN
from base.label_space import LabelSpace
from data_loader.records.tables import as_cell, raise_problems, read_table
from utils.errors import ConfigError, DataError, StorageFullError
from utils.files import write_atomically

ID_COLUMN, ANSWER_COLUMN, PERSON_COLUMN = "ImageID", "ans", "person"

SHOWN_CHARACTERS = 40


@dataclass
class Answers:
    """A table of answers.

    path: the file; ids: the images' names; rows: the number of each in the file.
    classes: by attribute that the table knows, (N,) int64, -1 = unknown.
    joint: (N,) int64, the joint class, where the table tells it, -1 = unknown.
    persons: whose images they are, where the table tells it.
    is_numbered: whether the table has the joint class itself, and not its attributes."""

    path: Path
    ids: list[str]
    rows: list[int]
    classes: dict[str, Tensor]
    joint: Tensor | None = None
    persons: list[str] | None = None
    is_numbered: bool = False


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Writes a table; text that a spreadsheet would run as a formula gets a leading quote.

    Raises ConfigError, or StorageFullError, where it cannot be written."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([as_cell(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)
    _write(path, text.getvalue())


def _write(path: Path, text: str) -> None:
    try:
        write_atomically(path, text.encode())
    except OSError as error:
        kind = StorageFullError if error.errno == errno.ENOSPC else ConfigError
        raise kind(f"{path}: cannot be written: {error.strerror}") from None


def write_submission(
    path: Path, ids: Sequence[str], labels: LabelSpace, joint: Tensor | None, classes: Mapping[str, Tensor]
) -> None:
    """Writes a row an image, in the given order: the joint class's number, or each attribute's class by name."""
    if joint is not None:
        columns: dict[str, Sequence[object]] = {ANSWER_COLUMN: joint.tolist()}
    else:
        columns = {
            name: [labels.attributes[name].class_names[number] for number in own.tolist()]
            for name, own in classes.items()
        }
    write_csv(path, [ID_COLUMN, *columns], list(zip(ids, *columns.values(), strict=True)))


def write_probabilities(path: Path, ids: Sequence[str], labels: LabelSpace, by_attribute: Mapping[str, Tensor]) -> None:
    """Writes one row an image: its name, then each attribute's probability of each scored class, (N, S) each."""
    header = [f"{name} {text}" for name in by_attribute for text in labels.attributes[name].class_names]
    table = torch.cat(list(by_attribute.values()), dim=1)
    rows = [[name, *(f"{value:.6f}" for value in row)] for name, row in zip(ids, table.tolist(), strict=True)]
    write_csv(path, [ID_COLUMN, *header], rows)


def origin_file(submission: Path) -> Path:
    """The file beside a submission that has what made it."""
    return submission.with_name(f"{submission.name}.json")


def write_origin(submission: Path, labels: LabelSpace, members: Sequence[Mapping[str, Any]]) -> None:
    """Writes what made a submission: its label space, and of each model the checkpoint, the run and the weight."""
    origin = {"labels": labels.to_config(), "models": list(members)}
    _write(origin_file(submission), f"{json.dumps(origin, indent=4, ensure_ascii=False)}\n")


def read_origin(submission: Path) -> LabelSpace | None:
    """The label space in the file beside a submission; None if there is none. Raises DataError."""
    path = origin_file(submission)
    if not path.is_file():
        return None
    try:
        return LabelSpace(**json.loads(path.read_text(encoding="utf-8"))["labels"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: does not tell what the answers mean ({error!r:.60}); name a run or checkpoint with --labels"
        ) from None


def read_answers(path: Path, labels: LabelSpace, complete: bool = False) -> Answers:
    """Reads a CSV with the columns ImageID, then ans (the joint class) or one an attribute, and perhaps person.

    A column of an attribute holds its classes by name, or all by number, or (of one with bins) numbers to be sorted
    into them; an empty cell is unknown. Of persons, too.

    complete: each class must be known, as in a submission.

    Raises DataError naming the row for a missing column, an image that stands twice, or what is no class."""
    table = read_table(path, (ID_COLUMN,))
    header = table[0][1]
    named = {name: each for name, each in labels.predicted_attributes.items() if name in header}
    if ANSWER_COLUMN in header and labels.has_joint_class:
        named = {}
    elif not named:
        expected = [*([ANSWER_COLUMN] if labels.has_joint_class else []), *labels.predicted_attributes]
        raise DataError(
            f"{path}: has no column {' or '.join(map(repr, expected))} (its columns are {', '.join(header)})"
        )
    seen: dict[str, int] = {}
    for number, row in table:
        if row[ID_COLUMN] in seen:
            raise DataError(f"{path} row {number}: {row[ID_COLUMN]} stands in row {seen[row[ID_COLUMN]]} already")
        seen[row[ID_COLUMN]] = number
    joint = None
    if not named:
        joint = torch.tensor([_joint_class(path, number, row[ANSWER_COLUMN], labels) for number, row in table])
    classes = labels.attribute_classes(joint) if joint is not None else {}
    for name, attribute in named.items():
        classes[name] = _classes(path, attribute, [(number, row[name]) for number, row in table])
        if complete and (classes[name] == UNKNOWN).any():
            first = list(seen.values())[int((classes[name] == UNKNOWN).nonzero()[0])]
            raise DataError(f"{path} row {first}: {name} is empty; every image must have an answer")
    if joint is None and labels.has_joint_class and all(each.name in classes for each in labels.joint_attributes):
        joint = labels.joint_classes(classes)
    persons = None
    if PERSON_COLUMN in header:
        # An image of nobody known stands alone, under a name that no cell can hold.
        persons = [row[PERSON_COLUMN] or f"\0{row[ID_COLUMN]}" for _, row in table]
    return Answers(path, list(seen), list(seen.values()), classes, joint, persons, not named)


def _joint_class(path: Path, number: int, text: str, labels: LabelSpace) -> int:
    known = _class_number(text, labels.num_joint_classes)
    if known is None:
        last = labels.num_joint_classes - 1
        raise DataError(f"{path} row {number}: {ANSWER_COLUMN} = {_shortened(text)} is not a class of 0 to {last}")
    return known


def _classes(path: Path, attribute: Attribute, cells: Sequence[tuple[int, str]]) -> Tensor:
    """The classes that a column holds, (N,): `cells` with their rows."""
    names = {name: number for number, name in enumerate(attribute.class_names)}
    texts = {text for _, text in cells if text}
    by_number = {text: _class_number(text, len(names)) for text in texts}
    if texts <= names.keys():
        known = names
    elif None not in by_number.values():
        known = {text: number for text, number in by_number.items() if number is not None}
    elif attribute.bins is not None:
        known = {}
        for number, text in cells:
            try:
                known[text] = attribute.scoring_class(text)
            except DataError as error:
                raise DataError(f"{path} row {number}: {error}") from None
    else:
        number, text = next((number, text) for number, text in cells if text and text not in names)
        raise DataError(
            f"{path} row {number}: {attribute.name} = {_shortened(text)} is not one of {', '.join(names)} (or, in all "
            f"rows, of 0 to {len(names) - 1})"
        )
    return torch.tensor([known[text] if text else UNKNOWN for _, text in cells])


def _class_number(text: str, num_classes: int) -> int | None:
    digits = text.lstrip("0") or text[-1:]  # int() refuses thousands of digits
    if digits.isascii() and digits.isdecimal() and len(digits) < 10 and int(digits) < num_classes:
        return int(digits)
    return None


def _shortened(text: str) -> str:
    return repr(text) if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]!r}..."


def align(table: Answers, ids: Sequence[str], reference: Path | str) -> Answers:
    """The rows of `table` in the order of `ids`, which are the images of `reference`.

    Raises DataError for the table if it lacks some of them, or has others."""
    position = {name: row for row, name in enumerate(table.ids)}
    expected = set(ids)
    problems = [f"{table.path}: lacks {name}, which is in {reference}" for name in ids if name not in position]
    problems += [
        f"{table.path} row {number}: {name} is not in {reference}"
        for name, number in zip(table.ids, table.rows, strict=True)
        if name not in expected
    ]
    raise_problems(problems)
    rows = [position[name] for name in ids]
    return Answers(
        table.path,
        list(ids),
        [table.rows[row] for row in rows],
        {name: classes[rows] for name, classes in table.classes.items()},
        None if table.joint is None else table.joint[rows],
        None if table.persons is None else [table.persons[row] for row in rows],
        table.is_numbered,
    )
