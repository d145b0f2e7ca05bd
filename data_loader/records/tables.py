"""Tables: CSV files, and the paths and names that stand in them."""

from __future__ import annotations

import codecs
import csv
import io
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path

from utils.errors import DataError
from utils.wording import did_you_mean

SHOWN_PROBLEMS = 10


def raise_problems(problems: Sequence[str]) -> None:
    """Raises DataError with the first ten problems and their count, if there are any."""
    if len(problems) > SHOWN_PROBLEMS:
        more = f"... and {len(problems) - SHOWN_PROBLEMS} more ({len(problems)} problems in all)"
        raise DataError("\n".join([*problems[:SHOWN_PROBLEMS], more]))
    if problems:
        raise DataError("\n".join(problems))


def read_table(path: Path, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """The rows of a CSV as (row number, cells by column); rows are counted as a spreadsheet does, the header is row 1.

    Cells are stripped of white space; empty rows are passed over. Raises DataError if the file is not UTF-8, has
    no rows, lacks one of `columns`, or has rows of another length than its header.
    """
    rows = csv.reader(io.StringIO(_read_text(path), newline=""), strict=True)
    number, table, problems = 0, [], []
    header: list[str] = []
    try:
        for number, row in enumerate(rows, start=1):
            if number == 1:
                header = _checked_header(path, row, columns)
            elif any(cell.strip() for cell in row):
                if len(row) != len(header):
                    problems.append(
                        f"{path} row {number}: has {len(row)} cells, the header has {len(header)} "
                        f"(a comma inside a cell must be quoted)"
                    )
                table.append((number, {name: cell.strip() for name, cell in zip(header, row, strict=False)}))
    except csv.Error as error:
        raise DataError(f"{path} row {number + 1}: is not CSV ({error})") from None
    raise_problems(problems)
    if not table:
        raise DataError(f"{path}: has no rows{' under its header' if header else ''}")
    return table


def _checked_header(path: Path, row: list[str], columns: Sequence[str]) -> list[str]:
    header = [cell.strip() for cell in row]
    if len(header) == 1 and (separator := re.search("[;\t|]", header[0])):
        raise DataError(f"{path} row 1: the columns are parted by {separator[0]!r}; save the table with commas")
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


def _read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or data.count(b"\0") > len(data) / 4
    if utf16:
        raise DataError(f"{path}: looks like UTF-16; save it as UTF-8")
    if b"\0" in data:
        raise DataError(f"{path} row {data[: data.index(0)].count(10) + 1}: holds a NUL byte; the file is damaged")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = data[: error.start].count(10) + 1
    try:
        data.decode("cp949")
        guess = "looks like cp949 (Korean Windows)"
    except UnicodeDecodeError:
        guess = "is not UTF-8"
    raise DataError(f"{path} row {row}: the text {guess}; save it as UTF-8")


class ImageRoot:
    """The folder that a table's paths are taken from; nothing outside it is ever opened."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._real = os.path.join(os.path.realpath(root), "")  # noqa: PTH118 - Path drops the separator at the end
        self._holds: dict[str, bool] = {}

    def holds(self, path: str) -> bool:
        """True if `path`, with all its links followed, is the root or inside it."""
        return os.path.join(os.path.realpath(path), "").startswith(self._real)  # noqa: PTH118 (18,900 of them)

    def problem(self, relative: str) -> str | None:
        """What is wrong with a path as a table has it: empty, leading out of the root, missing, not a file."""
        if problem := relative_path_problem(relative):
            return problem
        path = f"{self.root}/{relative}"
        folder = os.path.dirname(path)  # noqa: PTH120 (18,900 of them)
        try:
            mode = os.lstat(path).st_mode
            if folder not in self._holds:
                self._holds[folder] = self.holds(folder)
            if not self._holds[folder] or (stat.S_ISLNK(mode) and not self.holds(path)):
                return f'"{relative}" is a link that leads out of {self.root}; put the image there, or set root'
            if stat.S_ISLNK(mode):
                mode = os.stat(path).st_mode  # noqa: PTH116
        except OSError:
            return f'image "{relative}" is missing in {self.root}'
        return None if stat.S_ISREG(mode) else f'"{relative}" is not a file'


def relative_path_problem(text: str) -> str | None:
    """What is wrong with a relative path, before anything is looked up on disk."""
    if not text:
        return "the path is empty"
    if "\\" in text:
        return f'the path "{text}" must have "/" between its parts'
    parts = [part for part in text.split("/") if part not in ("", ".")]  # pathlib would take most of a table's time
    if text.startswith("/") or ".." in parts or re.match("[A-Za-z]:", text) or not parts:
        return f'the path "{text}" leaves its folder; give it relative to the folder and without ".."'
    return name_problem(text)


def name_problem(name: str) -> str | None:
    """Names go into tables that spreadsheets open, and a cell beginning with one of = + - @ is run as a formula."""
    if name.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f'the name "{name}" begins with "{name[0]}", which a spreadsheet would run as a formula; rename it'
    return None
