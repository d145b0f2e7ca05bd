"""The CSV files that a trained model's answers are handed in as, and read back from for scoring."""

from __future__ import annotations

import csv
import errno
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from base.label_space import LabelSpace
from data_loader.records.tables import read_table
from utils.errors import ConfigError, DataError, StorageFullError
from utils.files import write_atomically

ID_COLUMN, ANSWER_COLUMN, PERSON_COLUMN = "ImageID", "ans", "person"

SHOWN_CHARACTERS = 40


@dataclass
class Answers:
    """A table of answers: the images' names, the answer of each (N,) int64, and whose they are where it is told."""

    ids: list[str]
    answers: Tensor
    persons: list[str] | None = None


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Writes a table. Raises ConfigError, or StorageFullError, where it cannot be."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    try:
        write_atomically(path, text.getvalue().encode())
    except OSError as error:
        kind = StorageFullError if error.errno == errno.ENOSPC else ConfigError
        raise kind(f"{path}: cannot be written: {error.strerror}") from None


def write_submission(path: Path, ids: Sequence[str], answers: Tensor) -> None:
    """Writes `ImageID,ans` rows in the given order."""
    write_csv(path, [ID_COLUMN, ANSWER_COLUMN], list(zip(ids, answers.tolist(), strict=True)))


def write_probabilities(path: Path, ids: Sequence[str], labels: LabelSpace, by_attribute: Mapping[str, Tensor]) -> None:
    """Writes one row an image: its name, then each attribute's probability of each scored class, (N, S) each."""
    header = [f"{name} {text}" for name in by_attribute for text in labels.attributes[name].class_names]
    table = torch.cat(list(by_attribute.values()), dim=1)
    rows = [[name, *(f"{value:.6f}" for value in row)] for name, row in zip(ids, table.tolist(), strict=True)]
    write_csv(path, [ID_COLUMN, *header], rows)


def read_answers(path: Path, num_joint_classes: int) -> Answers:
    """Reads a CSV with the columns ImageID, ans and perhaps person, whose empty cells say that it is not known.

    Raises DataError naming the row for a missing column, a doubled image, or an answer that is no class."""
    table = read_table(path, (ID_COLUMN, ANSWER_COLUMN))
    seen: dict[str, int] = {}
    answers = []
    for number, row in table:
        name, text = row[ID_COLUMN], row[ANSWER_COLUMN]
        digits = text.lstrip("0") or text[-1:]  # int() refuses thousands of digits
        if not (digits.isascii() and digits.isdecimal() and len(digits) < 10 and int(digits) < num_joint_classes):
            shown = repr(text) if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]!r}..."
            raise DataError(
                f"{path} row {number}: {ANSWER_COLUMN} = {shown} is not a class of 0 to {num_joint_classes - 1}"
            )
        if name in seen:
            raise DataError(f"{path} row {number}: {name} stands in row {seen[name]} already")
        seen[name] = number
        answers.append(int(digits))
    persons = None
    if PERSON_COLUMN in table[0][1]:
        # An image of nobody known stands alone, under a name that no cell can hold.
        persons = [row[PERSON_COLUMN] or f"\0{row[ID_COLUMN]}" for _, row in table]
    return Answers(list(seen), torch.tensor(answers), persons)


def align(truth: Answers, ids: Sequence[str], path: Path) -> Answers:
    """The rows of `truth` in the order of `ids`. Raises DataError if an image is on one side only."""
    position = {name: row for row, name in enumerate(truth.ids)}
    lacking = [name for name in ids if name not in position]
    if lacking or len(ids) != len(truth.ids):
        extra = len(truth.ids) - (len(ids) - len(lacking))
        example = f", such as {lacking[0]}" if lacking else ""
        raise DataError(
            f"{path}: lacks {len(lacking)} of the {len(ids)} images{example}, and has {extra} that are not asked for"
        )
    rows = [position[name] for name in ids]
    return Answers(list(ids), truth.answers[rows], [truth.persons[row] for row in rows] if truth.persons else None)
