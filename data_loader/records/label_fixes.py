"""Label fixes: a table of corrections, made on reading, so that the data's own files stay as they came.

A CSV `person,path,attribute,value`. A row names a person (by the id that the data's table has, to the letter) or a file
(as `Record.name`); the other cell is empty, or its column absent; further columns, such as a note, are ignored. An
empty value makes the label unknown.
"""

from __future__ import annotations

import logging
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from base.label_space import LabelSpace
from data_loader.records.records import Record
from data_loader.records.tables import SHOWN_PROBLEMS, read_table
from utils.errors import DataError
from utils.wording import did_you_mean, not_one_of

logger = logging.getLogger(__name__)

LISTED_FIXES = 20
"""Up to so many are listed at INFO; more at DEBUG, with their count at INFO."""


@dataclass(frozen=True)
class _Fix:
    origin: str
    column: str
    key: str
    attribute: str
    value: str | None

    def __str__(self) -> str:
        return f'{self.origin}: {self.column} "{self.key}"'


def corrected_labels(
    records: Sequence[Record], table: Path, label_space: LabelSpace, problems: list[str]
) -> list[dict[str, Any]]:
    """The attributes of each record with all fixes of `table` made; they are listed in the log.

    A fix that matches nothing or several files, names an attribute that there is none of, gives a value that is no
    class, or contradicts another is added to `problems`, a line each. Raises DataError for a table that cannot be read.
    """
    rows_of: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row, record in enumerate(records):
        rows_of["person", _composed(record.person_id or record.person)].append(row)
        rows_of["path", _composed(record.name)].append(row)
    labels = [dict(record.attributes) for record in records]
    made: dict[tuple[int, str], _Fix] = {}
    lines, changed, wrong = [], 0, 0
    for fix in _read_fixes(table, problems):
        rows = rows_of.get((fix.column, _composed(fix.key)), [])
        problem = _problem(fix, [records[row] for row in rows], label_space)
        others = [made[row, fix.attribute] for row in rows if (row, fix.attribute) in made]
        contradicted = [other.origin for other in others if other.value != fix.value]
        if not rows and wrong < SHOWN_PROBLEMS:  # looking for the nearest of thousands takes its time
            problem = f"{problem}{did_you_mean(fix.key, [key for column, key in rows_of if column == fix.column])}"
        elif not problem and contradicted:
            problem = f"{fix}: {fix.attribute} = {fix.value!r} contradicts {contradicted[0]}; keep one of the two"
        if problem:
            problems.append(problem)
            wrong += 1
            continue
        before = Counter(labels[row].get(fix.attribute) or None for row in rows)
        for row in rows:
            labels[row][fix.attribute] = fix.value
            made[row, fix.attribute] = fix
        changed += before.total() - before[fix.value]
        lines.append(_described(fix, before))
    level = logging.INFO if len(lines) <= LISTED_FIXES else logging.DEBUG
    for line in lines:
        logger.log(level, "%s", line)
    logger.info("%s: %d label fixes made, which changed %d labels", table, len(lines), changed)
    return labels


def _read_fixes(table: Path, problems: list[str]) -> list[_Fix]:
    rows = read_table(table, ["attribute", "value"])
    if not rows[0][1].keys() & {"person", "path"}:
        raise DataError(
            f'{table}: has neither a column "person" nor a column "path" (its columns are {", ".join(rows[0][1])})'
        )
    fixes = []
    for row, cells in rows:
        origin = f"{table} row {row}"
        named = [(column, cells[column]) for column in ("person", "path") if cells.get(column)]
        if len(named) != 1:
            problems.append(
                f"{origin}: names {'a person and a path; keep one' if named else 'neither a person nor a path'}"
            )
        else:
            fixes.append(_Fix(origin, *named[0], cells["attribute"], cells["value"] or None))
    return fixes


def _problem(fix: _Fix, matches: Sequence[Record], label_space: LabelSpace) -> str:
    """What is wrong with a fix in itself, or nothing."""
    if not matches:
        return f"{fix} is in no source"
    others = [match for match in matches[1:] if fix.column == "path" or match.person != matches[0].person]
    if others:
        return f"{fix} is in several sources ({matches[0].origin}, {others[0].origin}); the fix cannot tell them apart"
    known = dict.fromkeys([*label_space.attributes, *matches[0].attributes])
    if fix.attribute in label_space.attributes:
        attribute = label_space.attributes[fix.attribute]
        try:
            attribute.scoring_class(fix.value)
            attribute.training_class(fix.value)
        except DataError as error:
            names = attribute.class_names if attribute.bins is None else ()
            return f"{fix}: {error}{did_you_mean(str(fix.value), names)}"
    elif fix.attribute not in known:  # what this run does not predict may be fixed, too
        return f'{fix}: attribute "{fix.attribute}" {not_one_of(fix.attribute, known)}'
    return ""


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _described(fix: _Fix, before: Counter[Any]) -> str:
    old = " or ".join("unknown" if value is None else str(value) for value in before)
    images = f"{before.total()} image{'' if before.total() == 1 else 's'}"
    if set(before) == {fix.value}:
        return f"{fix}: {fix.attribute} is {old} already ({images})"
    return f"{fix}: {fix.attribute} = {old} -> {'unknown' if fix.value is None else fix.value} ({images})"
