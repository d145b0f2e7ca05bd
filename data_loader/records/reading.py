"""From sources to the label table: joined, corrected and checked."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from base.batch import UNKNOWN
from base.label_space import LabelSpace
from data_loader.records.label_fixes import corrected_labels
from data_loader.records.label_table import LabelTable
from data_loader.records.records import Record
from data_loader.records.sources import BaseSource
from data_loader.records.tables import raise_problems
from utils.errors import DataError

logger = logging.getLogger(__name__)


def read_records(
    sources: Iterable[BaseSource],
    label_space: LabelSpace,
    label_fixes: Path | None = None,
    save_dir: Path | None = None,
) -> LabelTable:
    """The images of all sources, in the order of the sources. No image is opened, unless persons are joined by
    duplicates.

    sources: of the images
    label_space: the attributes that are predicted
    label_fixes: a table of corrections, which are made before all checks, see data_loader/records/label_fixes.py
    save_dir: where it is kept what is known of images; None: it is found out anew

    Raises DataError with all problems: values that are no class, images that occur twice, persons on both sides of a
    split that the tables give, attributes that are to be predicted but known nowhere, fixes that cannot be made.
    """
    problems: list[str] = []
    records: list[Record] = []
    ends: list[tuple[BaseSource, int]] = []
    by_duplicates: list[bool] = []
    for number, source in enumerate(sources):
        try:
            found = _collected(source, problems, label_space.attributes)
            records += [_with_settings(record, number, source, problems) for record in found]
        except DataError as error:
            problems += f"{error}{_remedy_if_missing(source, number)}".split("\n")
        ends.append((source, len(records)))
        by_duplicates += [source.persons == "by_duplicates"] * (len(records) - len(by_duplicates))
    if label_fixes is not None:
        try:
            labels = corrected_labels(records, label_fixes, label_space, problems)
            records = [replace(record, attributes=fixed) for record, fixed in zip(records, labels, strict=True)]
        except DataError as error:
            problems += str(error).split("\n")
    if any(by_duplicates) and not problems:
        from data_loader.duplicates import joined_persons  # it uses this package's image check

        records = joined_persons(records, by_duplicates, save_dir)
    table = LabelTable.from_records(records, label_space, problems)
    _check_duplicates(records, problems)
    _check_given_parts(records, problems)
    if not problems and not records:
        problems += [
            f"data: the sources give no images ({', '.join(map(str, sources))}); name a folder or table that has some"
        ]
    if not problems:
        _check_known(table, problems)
    raise_problems(problems)
    start = 0
    for source, end in ends:
        _log_source(source, table[np.arange(start, end)])
        start = end
    table.warn_of_absent_classes("the data")
    return table


def _collected(source: BaseSource, problems: list[str], attributes: Iterable[str]) -> list[Record]:
    given: Any = source.collect(problems, attributes)
    found = [*given] if isinstance(given, Iterable) else [given]
    if wrong := [each for each in found if not isinstance(each, Record)]:  # a plug-in's
        raise DataError(f"{type(source).__name__}.collect must give Records, not {wrong[0]!r:.60} (docs/extending.md)")
    return found


def _remedy_if_missing(source: BaseSource, number: int) -> str:
    """The key that names a folder or a table which does not exist; nothing where the source is there."""
    keys = [key for key in ("root", "path") if not Path(getattr(source, key, None) or ".").exists()]
    return f"; set data.{number}.args.{keys[0]}" if keys else ""


def _with_settings(record: Record, number: int, source: BaseSource, problems: list[str]) -> Record:
    """The record with what its source, of that number, says of all its images.

    An image without a person is its own person, under a name that does not depend on where the data is; so is a person
    whose id is another person in other sources."""
    if source.train_only and record.part in ("validation", "test"):
        wrong = f"is given to {record.part}, and the source is train_only"
        problems.append(f'{record.origin}: "{record.name}" {wrong}; set split_column to null, or train_only to false')
    if source.train_only or source.weight != 1:
        record = replace(record, train_only=source.train_only, weight=source.weight)
    if record.person and source.persons != "own":
        return record
    person_id = record.person_id or record.person or None
    return replace(record, person=f"{number}:{record.person or record.name}", person_id=person_id)


def _check_known(table: LabelTable, problems: list[str]) -> None:
    given = ", ".join(sorted({attribute for record in table.records for attribute in record.attributes}))
    problems += [
        f'"{name}" is to be predicted, but no record knows it (the sources give {given}); '
        "name its column in the source, or take it out of labels"
        for name in table.label_space.predicted_attributes
        if (table.training_classes[name] == UNKNOWN).all()
    ]


def _check_duplicates(records: Sequence[Record], problems: list[str]) -> None:
    first: dict[str, Record] = {}
    for record in records:
        other = first.setdefault(str(record.path), record)  # a Path is slow to hash
        if other is not record:
            problems.append(f'{record.origin}: "{record.name}" is the image of {other.origin} again')


def _check_given_parts(records: Sequence[Record], problems: list[str]) -> None:
    first: dict[str, Record] = {}
    wrong: dict[str, str] = {}
    for record in records:
        if record.part is not None and (other := first.setdefault(record.person, record)).part != record.part:
            line = (
                f'{record.origin}: person "{record.person}" is in {record.part}, but {other.origin} has it in '
                f"{other.part}; keep a person on one side, or set split_column to null"
            )
            wrong.setdefault(record.person, line)
    problems += wrong.values()


def _log_source(source: BaseSource, table: LabelTable) -> None:
    counts = {name: int((target != UNKNOWN).sum()) for name, target in table.targets.items()}
    known = ", ".join(f"{name} {count or 'none'}" for name, count in counts.items())
    logger.log(
        logging.INFO if any(counts.values()) else logging.WARNING,
        "%s: %d images of %d persons; known labels by head: %s",
        source, len(table), table.num_persons, known,
    )  # fmt: skip
