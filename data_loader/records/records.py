"""Records: one image on disk and what is known of it; the joining of sources."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from base.batch import UNKNOWN
from base.label_space import LabelSpace
from data_loader.records.file_signatures import absolute_paths
from data_loader.records.label_fixes import corrected_labels
from data_loader.records.tables import raise_problems
from utils.errors import DataError

Part = Literal["train", "validation", "test"]


@dataclass(frozen=True, slots=True)
class Record:
    """One image.

    name: what tables and outputs call it; person: the group that no split may cut; attributes: raw values by name,
    None or empty = unknown; origin: where it was read, such as "data/train/train.csv row 12"; part: the side that a
    table gives it, None where none does; person_id: what the table itself calls the person, such as "001498-1", where
    that is not `person`.
    """

    path: Path
    name: str
    person: str
    attributes: dict[str, Any]
    origin: str
    part: Part | None = None
    person_id: str | None = None


class Source(Protocol):
    """Whatever gives records: see data_loader/records/sources.py."""

    def collect(self, problems: list[str]) -> list[Record]:
        """The records that are right; what is wrong with the others is added to `problems`, a line each.

        Raises DataError where nothing can be read at all."""


def read_records(sources: Iterable[Source], label_space: LabelSpace, label_fixes: Path | None = None) -> list[Record]:
    """The records of all sources, in the order of the sources.

    label_fixes: a table of corrections, see data_loader/records/label_fixes.py, which are made before all checks.

    A value that is no class, an image that stands twice, a person on both sides of a split that the tables give, and
    an attribute that is to be predicted but known nowhere are problems, and so are fixes that cannot be made. Raises
    DataError with all of them.
    """
    problems: list[str] = []
    records: list[Record] = []
    for number, source in enumerate(sources):
        try:
            records += [_with_person(record, number) for record in source.collect(problems)]
        except DataError as error:
            problems += str(error).split("\n")
    if label_fixes is not None:
        records = _fixed(records, label_fixes, label_space, problems)
    known = _check_values(records, label_space, problems)
    _check_duplicates(records, problems)
    _check_given_parts(records, problems)
    if not problems:
        for name in label_space.predicted_attributes:
            if name not in known:
                found = sorted({attribute for record in records for attribute in record.attributes})
                problems.append(
                    f'"{name}" is to be predicted, but no record knows it (the sources give {", ".join(found)}); '
                    f"name its column in the source, or take it out of labels"
                )
    raise_problems(problems)
    return records


def _with_person(record: Record, source: int) -> Record:
    """An image that stands for itself is its own person, by a name that does not depend on where the data lies."""
    return record if record.person else replace(record, person=f"{source}:{record.name}")


def _fixed(records: list[Record], table: Path, label_space: LabelSpace, problems: list[str]) -> list[Record]:
    """The records with their labels corrected."""
    try:
        labels = corrected_labels(records, table, label_space, problems)
    except DataError as error:
        problems += str(error).split("\n")
        return records
    return [replace(record, attributes=fixed) for record, fixed in zip(records, labels, strict=True)]


def _check_values(records: Sequence[Record], label_space: LabelSpace, problems: list[str]) -> set[str]:
    """Adds each value that is no class, once a row. Returns the attributes that are known somewhere."""
    verdicts: dict[tuple[str, Any], str | None] = {}
    seen: dict[str, None] = {}
    known: set[str] = set()
    for record in records:
        for name, attribute in label_space.attributes.items():
            raw = record.attributes.get(name)
            if (name, raw) not in verdicts:
                try:
                    if attribute.training_class(raw) != UNKNOWN and attribute.scoring_class(raw) != UNKNOWN:
                        known.add(name)
                    verdicts[name, raw] = None
                except DataError as error:
                    verdicts[name, raw] = str(error)
            if verdicts[name, raw]:
                seen[f"{record.origin}: {verdicts[name, raw]}"] = None
    problems += seen
    return known


def _check_duplicates(records: Sequence[Record], problems: list[str]) -> None:
    first: dict[str, Record] = {}
    for record, path in zip(records, absolute_paths(record.path for record in records), strict=True):
        other = first.setdefault(path, record)
        if other is not record:
            problems.append(f'{record.origin}: "{record.name}" is the image of {other.origin} again')


def _check_given_parts(records: Sequence[Record], problems: list[str]) -> None:
    first: dict[str, Record] = {}
    told: set[str] = set()
    for record in records:
        if record.part is None:
            continue
        other = first.setdefault(record.person, record)
        if other.part != record.part and record.person not in told:
            told.add(record.person)
            problems.append(
                f'{record.origin}: person "{record.person}" is in {record.part}, but {other.origin} has it in '
                f"{other.part}; keep a person on one side, or divide anew (drop split_column)"
            )
