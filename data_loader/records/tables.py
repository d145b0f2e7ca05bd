"""Tables: reading them, finding their columns, and what must not be written into one."""

from __future__ import annotations

import csv
import gzip
import io
import re
import unicodedata
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from utils.errors import DataError
from utils.wording import did_you_mean

SHOWN_PROBLEMS = 10

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
    left out. Raises DataError if the file is not such a table, is not UTF-8, has no rows, lacks one of `columns`, or
    has rows of another length than its header."""
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


def as_cell(text: str) -> str:
    """Text as it may be written into a table: what a spreadsheet would run as a formula gets a leading quote."""
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text


def from_cell(text: str) -> str:
    """The text that `as_cell` has written."""
    return text[1:] if text.startswith("'") and text[1:].startswith(FORMULA_STARTS) else text


def _checked_header(path: Path, row: Sequence[str], columns: Sequence[str]) -> list[str]:
    header = [unicodedata.normalize("NFC", cell) for cell in row]
    problems = [
        f'{path}: has no column "{name}" (its columns are {", ".join(header)}){did_you_mean(name, header)}'
        for name in columns
        if name not in header
    ]
    problems += [
        f'{path}: has the column "{name}" {header.count(name)} times'
        for name in dict.fromkeys(header)
        if name and header.count(name) > 1
    ]
    raise_problems(problems)
    return header


def _read_bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        if data.startswith(b"\x1f\x8b"):
            data = gzip.decompress(data)
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
    rows: list[list[str]] = []
    try:
        for cells in csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True):
            rows.append(cells)
    except csv.Error as error:
        raise DataError(f"{path} row {len(rows) + 1}: is not CSV ({error})") from None
    return rows


def _read_parquet(path: Path) -> list[list[str]]:
    import pandas

    try:
        table = pandas.read_parquet(path)
    except ImportError:
        raise DataError(f"{path}: to read Parquet, pip install pyarrow; or save it as CSV") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: is damaged ({error})") from None
    return [list(map(str, table.columns)), *table.astype("string").fillna("").values.tolist()]
