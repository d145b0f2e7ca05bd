"""Label fixes: a table of corrections, made on reading, so that the data's own files stay unchanged.

A CSV `person,path,attribute,value`. A row names a person (by the id in the data's table) or a file (by `Record.name`);
the other cell is empty, or its column absent; further columns, such as a note, are ignored. An empty value makes the
label unknown.
"""

from __future__ import annotations

import logging
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from base.label_space import LabelSpace
from data_loader.records.records import Record
from data_loader.records.tables import from_cell, read_table
from utils.errors import DataError
from utils.wording import not_one_of

logger = logging.getLogger(__name__)

LISTED_FIXES = 20
"""Up to so many are listed at INFO; more at DEBUG, with their count at INFO."""


class _Fix(NamedTuple):
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
    """The attributes of each record with all fixes made, which are listed in the log.

    table: of the fixes
    label_space: whose classes the values must be
    problems: takes a line for each fix that matches nothing or several files, names an unknown attribute, gives a value
        that is no class, or contradicts another

    Raises DataError for a table that cannot be read.
    """
    rows_of: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row, record in enumerate(records):
        rows_of["person", _nfc(record.person_id or record.person)].append(row)
        rows_of["path", _nfc(record.name)].append(row)
    labels = [dict(record.attributes) for record in records]
    made: dict[tuple[int, str], _Fix] = {}
    lines, changed = [], 0
    for fix in _read_fixes(table, problems):
        rows = rows_of.get((fix.column, _nfc(fix.key)), [])
        problem = _problem(fix, [records[row] for row in rows], label_space)
        earlier = [made[row, fix.attribute] for row in rows if (row, fix.attribute) in made]
        other = next((other for other in earlier if other.value != fix.value), None)
        if not problem and other:
            problem = f"{fix}: {fix.attribute} = {fix.value!r} contradicts {other.origin}; keep one of the two"
        if problem:
            problems.append(problem)
            continue
        before = Counter(labels[row].get(fix.attribute) or None for row in rows)
        for row in rows:
            labels[row][fix.attribute] = fix.value
            made[row, fix.attribute] = fix
        changed += before.total() - before[fix.value]
        old = " or ".join(str(value or "unknown") for value in before)
        lines.append(f"{fix}: {fix.attribute} = {old} -> {fix.value or 'unknown'} (images: {len(rows)})")
    for line in lines:
        logger.log(logging.INFO if len(lines) <= LISTED_FIXES else logging.DEBUG, "%s", line)
    logger.info("%s: %d label fixes made, which changed %d labels", table, len(lines), changed)
    return labels


def _read_fixes(table: Path, problems: list[str]) -> list[_Fix]:
    fixes = []
    for row, cells in read_table(table, ["attribute", "value"]):
        origin = f"{table} row {row}"
        named = [(column, cells[column]) for column in ("person", "path") if cells.get(column)]
        if len(named) != 1:
            problems.append(f"{origin}: names {len(named)} of person and path; name one of the two")
        else:
            column, key = named[0]
            fixes.append(_Fix(origin, column, from_cell(key), cells["attribute"], cells["value"] or None))
    return fixes


def _problem(fix: _Fix, matches: Sequence[Record], label_space: LabelSpace) -> str:
    """What is wrong with a fix in itself, or nothing."""
    if not matches:
        return f"{fix} is in no source"
    others = [match for match in matches[1:] if fix.column == "path" or match.person != matches[0].person]
    if others:
        return f"{fix} is in several sources ({matches[0].origin}, {others[0].origin})"
    known = dict.fromkeys([*label_space.attributes, *matches[0].attributes])
    if fix.attribute not in known:  # attributes that are not predicted may be fixed, too
        return f'{fix}: attribute "{fix.attribute}" {not_one_of(fix.attribute, known)}'
    if fix.attribute in label_space.attributes:
        try:
            label_space.attributes[fix.attribute].training_class(fix.value)
        except DataError as error:
            return f"{fix}: {error}"
    return ""


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)
