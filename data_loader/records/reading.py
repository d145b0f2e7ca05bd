"""From sources to the label table: joined, corrected and checked."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from base.batch import UNKNOWN
from base.label_space import LabelSpace
from data_loader.records.file_signatures import absolute_paths
from data_loader.records.label_fixes import corrected_labels
from data_loader.records.label_table import LabelTable
from data_loader.records.records import Record
from data_loader.records.sources import BaseSource
from data_loader.records.tables import raise_problems
from utils.errors import DataError

logger = logging.getLogger(__name__)


def read_records(sources: Iterable[BaseSource], label_space: LabelSpace, label_fixes: Path | None = None) -> LabelTable:
    """The images of all sources, in the order of the sources. No image is opened.

    label_fixes: a table of corrections, see data_loader/records/label_fixes.py, which are made before all checks

    A value that is no class, an image that stands twice, a person on both sides of a split that the tables give, and
    an attribute that is to be predicted but known nowhere are problems, and so are fixes that cannot be made. Raises
    DataError with all of them.
    """
    problems: list[str] = []
    records: list[Record] = []
    ends: list[tuple[BaseSource, int]] = []
    for number, source in enumerate(sources):
        try:
            found = source.collect(problems, label_space.attributes)
            records += [_with_person(record, number, source.persons == "own") for record in found]
        except DataError as error:
            problems += str(error).split("\n")
        ends.append((source, len(records)))
    if label_fixes is not None:
        records = _fixed(records, label_fixes, label_space, problems)
    table = LabelTable.of(records, label_space, problems)
    _check_duplicates(records, problems)
    _check_given_parts(records, problems)
    if not problems:
        for name in label_space.predicted_attributes:
            if (table.training_classes[name] == UNKNOWN).all():
                given = sorted({attribute for record in records for attribute in record.attributes})
                problems.append(
                    f'"{name}" is to be predicted, but no record knows it (the sources give {", ".join(given)}); '
                    f"name its column in the source, or take it out of labels"
                )
    raise_problems(problems)
    start = 0
    for source, end in ends:
        _describe(source, table[np.arange(start, end)])
        start = end
    table.warn_of_absent_classes("the data")
    return table


def _with_person(record: Record, source: int, own: bool) -> Record:
    """An image that stands for itself is its own person, by a name that does not depend on where the data is; so is a
    person whose id means somebody else in other sources."""
    if record.person and not own:
        return record
    person_id = record.person_id or record.person or None
    return replace(record, person=f"{source}:{record.person or record.name}", person_id=person_id)


def _fixed(records: list[Record], table: Path, label_space: LabelSpace, problems: list[str]) -> list[Record]:
    """The records with their labels corrected."""
    try:
        labels = corrected_labels(records, table, label_space, problems)
    except DataError as error:
        problems += str(error).split("\n")
        return records
    return [replace(record, attributes=fixed) for record, fixed in zip(records, labels, strict=True)]


def _check_duplicates(records: Sequence[Record], problems: list[str]) -> None:
    first: dict[str, Record] = {}
    for record, path in zip(records, absolute_paths(record.path for record in records), strict=True):
        other = first.setdefault(path, record)
        if other is not record:
            problems.append(f'{record.origin}: "{record.name}" is the image of {other.origin} again')


def _check_given_parts(records: Sequence[Record], problems: list[str]) -> None:
    first: dict[str, Record] = {}
    reported: set[str] = set()
    for record in records:
        if record.part is None:
            continue
        other = first.setdefault(record.person, record)
        if other.part != record.part and record.person not in reported:
            reported.add(record.person)
            problems.append(
                f'{record.origin}: person "{record.person}" is in {record.part}, but {other.origin} has it in '
                f"{other.part}; keep a person on one side, or divide anew (split_column = null)"
            )


def _describe(source: BaseSource, table: LabelTable) -> None:
    """One line for the log: how much a source gives to learn from."""
    counts = {name: int((target != UNKNOWN).sum()) for name, target in table.targets.items()}
    known = ", ".join(f"{name} {count or 'none'}" for name, count in counts.items())
    logger.log(
        logging.INFO if any(counts.values()) else logging.WARNING,
        "%s: %d images of %d persons; known labels by head: %s",
        source, len(table), table.num_persons, known,
    )  # fmt: skip
