"""Tables: reading them, finding their columns, and what must not be written into one."""

from __future__ import annotations

import csv
import gzip
import io
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from utils.errors import DataError
from utils.files import read_regular
from utils.wording import did_you_mean, first_line, on_one_line

SHOWN_PROBLEMS, SHOWN_COLUMNS = 10, 40

MAX_TABLE_BYTES = 256 * 1024 * 1024
"""Of a table, also unpacked: two million images in a hundred bytes each."""

MAX_COLUMNS = 10_000

SYNONYMS = {
    "path": ("file", "filename", "filepath", "image", "imagefile", "imagename", "imagepath", "img", "imgpath"),
    "person": ("personid", "subject", "subjectid", "identity", "individual", "participant", "participantid",
               "patient", "patientid"),
    "split": ("partition", "set", "subset"),
    "gender": ("sex",),
    "sex": ("gender",),
}  # fmt: skip
"""By the name of a column: what else it is called, as `plain` gives it."""

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
"""A spreadsheet runs a cell that begins so as a formula."""

Rows = list[tuple[int, dict[str, str]]]
"""A table's rows: number, and cells by column."""


def raise_problems(problems: Sequence[str]) -> None:
    """Raises DataError with the first ten problems and their count, if there are any."""
    problems = [on_one_line(problem) for problem in problems]
    if len(problems) > SHOWN_PROBLEMS:
        more = f"... and {len(problems) - SHOWN_PROBLEMS} more ({len(problems)} problems in all)"
        raise DataError("\n".join([*problems[:SHOWN_PROBLEMS], more]))
    if problems:
        raise DataError("\n".join(problems))


def read_table(path: Path, columns: Sequence[str] = ()) -> Rows:
    """The rows of a table: CSV, TSV (by its name), either of them gzipped, or Parquet.

    path: of the table
    columns: that it must have

    Rows are counted as a spreadsheet does: the header is row 1. Cells are text, stripped of white space; empty rows are
    left out. Raises DataError if the file is not such a table, is larger than MAX_TABLE_BYTES or MAX_COLUMNS, is not
    UTF-8, has no rows, lacks one of `columns`, or has rows of another length than its header."""
    data = _read_bytes(path)
    if data.startswith(b"PAR1"):
        cells = _read_parquet(path)
    else:
        cells = _read_text(path, data, "\t" if ".tsv" in path.suffixes else ",")
    rows = [(number, [*map(str.strip, row)]) for number, row in enumerate(cells, start=1) if any(map(str.strip, row))]
    if len(rows) < 2:
        raise DataError(f"{path}: has no rows{' under its header' if rows else ''}")
    header = _checked_header(path, rows.pop(0)[1], columns)
    lengths = f"cells, the header has {len(header)} (a comma inside a cell must be quoted)"
    raise_problems(
        [f"{path} row {number}: has {len(row)} {lengths}" for number, row in rows if len(row) != len(header)]
    )
    return [(number, dict(zip(header, row, strict=True))) for number, row in rows]


def find_column(table: Path, header: Iterable[str], name: str, setting: str) -> str | None:
    """The column for `name`: headed so, or so but for case, spaces and underscores, or with a synonym.

    setting: the argument that would name it. Raises DataError where several columns fit."""
    header = list(header)
    if name in header:
        return name
    same = [column for column in header if plain(column) == plain(name)]
    found = same or [column for column in header if plain(column) in SYNONYMS.get(name, ())]
    if len(found) > 1:
        raise DataError(f"{table}: which column is the {name}, {' or '.join(found)}? name it with {setting}")
    return found[0] if found else None


def plain(name: str) -> str:
    """A name without what differs from table to table: "Person ID" and "person_id" are alike."""
    return re.sub(r"[\s_.-]", "", unicodedata.normalize("NFC", name).casefold())


def columns_are(columns: Iterable[str]) -> str:
    """What a table has instead, for messages; of many the first."""
    header = [*columns]
    more = f" and {len(header) - SHOWN_COLUMNS:,} more" if len(header) > SHOWN_COLUMNS else ""
    return f"its columns are {', '.join(header[:SHOWN_COLUMNS])}{more}"


def _separator_hint(header: Sequence[str]) -> str:
    """Where all is in one column."""
    found = next((mark for mark in (";", "\t", "|") if len(header) == 1 and mark in header[0]), None)
    return "" if found is None else f"; its cells are divided by {found!r}: save it with commas"


def as_cell(text: str) -> str:
    """Text as it may be written into a table: what a spreadsheet would run as a formula gets a leading quote."""
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text


def from_cell(text: str) -> str:
    """The text that `as_cell` has written."""
    return text[1:] if text.startswith("'") and text[1:].startswith(FORMULA_STARTS) else text


def _checked_header(path: Path, row: Sequence[str], columns: Sequence[str]) -> list[str]:
    if len(row) > MAX_COLUMNS:
        raise DataError(f"{path}: has {len(row):,} columns, more than the {MAX_COLUMNS:,} that are read; name a table")
    header = [unicodedata.normalize("NFC", cell) for cell in row]
    counts = Counter(header)
    problems = [
        f'{path}: has no column "{name}" ({columns_are(header)}){_separator_hint(header)}{did_you_mean(name, header)}'
        for name in columns
        if name not in header
    ]
    problems += [
        f'{path}: has the column "{name}" {count} times; rename all but one'
        for name, count in counts.items()
        if name and count > 1
    ]
    raise_problems(problems)
    return header


def _read_bytes(path: Path) -> bytes:
    try:
        data = read_regular(path, MAX_TABLE_BYTES)
        if data.startswith(b"\x1f\x8b"):
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
                data = file.read(MAX_TABLE_BYTES + 1)
            if len(data) > MAX_TABLE_BYTES:
                raise DataError(f"{path}: unpacks to more than the {MAX_TABLE_BYTES:,} bytes that are read; divide it")
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: is damaged ({error})") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    if data.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise DataError(f"{path}: is a spreadsheet; save it as CSV (UTF-8)")
    return data


def _read_text(path: Path, data: bytes, separator: str) -> list[list[str]]:
    """The header and the rows. (pandas would fill up a row that is too short, and takes 0.3 s to import.)"""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = data[: error.start].count(b"\n") + 1
        raise DataError(f"{path} row {row}: is not UTF-8 (UTF-16 or cp949, perhaps); save it as UTF-8") from None
    if "\0" in text:
        row = text[: text.index("\0")].count("\n") + 1
        raise DataError(f"{path} row {row}: holds a NUL byte (UTF-16 or damaged, perhaps); save it as UTF-8")
    del text
    rows: list[list[str]] = []
    try:
        lines = io.TextIOWrapper(
            io.BytesIO(data), encoding="utf-8-sig", newline=""
        )  # StringIO would take four times it
        for cells in csv.reader(lines, delimiter=separator, strict=True):
            rows.append(cells)
    except csv.Error as error:
        raise DataError(f"{path} row {len(rows) + 1}: is not CSV ({error})") from None
    return rows


def _read_parquet(path: Path) -> list[list[str]]:
    import pandas

    try:
        from pyarrow.parquet import read_metadata

        described = read_metadata(path)
        unpacked = sum(described.row_group(number).total_byte_size for number in range(described.num_row_groups))
        if max(unpacked, described.num_rows * described.num_columns) > MAX_TABLE_BYTES:
            raise DataError(f"{path}: unpacks to more than the {MAX_TABLE_BYTES:,} bytes that are read; divide it")
        table = pandas.read_parquet(path)
        return [list(map(str, table.columns)), *table.astype("string").fillna("").values.tolist()]
    except ImportError:
        raise DataError(f"{path}: to read Parquet, pip install pyarrow; or save it as CSV") from None
    except DataError:
        raise
    except Exception as error:  # the file is foreign: whatever its reading raises is a reason to refuse it
        raise DataError(f"{path}: is damaged ({first_line(error)})") from None
