"""Sources of records: the competition's folders, and any table of images and attributes."""

from __future__ import annotations

import logging
import os
import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from data_loader.records.image_root import ImageRoot, relative_path_problem
from data_loader.records.records import Part, Record
from data_loader.records.tables import FORMULA_STARTS, find_column, plain, raise_problems, read_table
from utils.errors import DataError
from utils.wording import not_one_of

__all__ = ["AttributeTable", "CompetitionFolder"]

logger = logging.getLogger(__name__)

PHOTOGRAPH_EXTENSIONS = (".jpg", ".jpeg", ".png")
STEMS = ("mask1", "mask2", "mask3", "mask4", "mask5", "incorrect_mask", "normal")
DEFAULT_SPLIT_VALUES: dict[str, Part] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "eval": "test",
}


class BaseSource(ABC):
    """Images and what is known of them.

    allow_links: whether files may be links that lead out of the source's folder
    persons: "shared" where a person's id means the same person in all sources, "own" where it is this source's alone
    """

    def __init__(self, allow_links: bool = False, persons: Literal["shared", "own"] = "shared") -> None:
        self.allow_links = allow_links
        self.persons = persons

    @abstractmethod
    def collect(self, problems: list[str], attributes: Iterable[str] = ()) -> list[Record]:
        """The records that are right; a line for each other is added to `problems`.

        attributes: the names that a column is looked for, if its header only looks otherwise

        Raises DataError where nothing can be read at all."""


class CompetitionFolder(BaseSource):
    """The competition's layout: train.csv (id,gender,race,age,path) and images/<path>/{mask1 .. normal}.{jpg,jpeg,png}.

    Attributes: mask (wear, incorrect, not_wear: from the file's stem), gender, age, race, as they stand in the table;
    without train.csv the folders' names give them, <id>_<gender>_<race>_<age>. The person is the id without an
    ending -1 or -2: such ids may be the same person, and keeping them on one side costs nothing.
    `path` is the key (one id stands twice, on two folders). Names that begin with "." are skipped.

    root: the folder with train.csv and images/
    on_missing: where a folder, or one of the seven photographs, is missing: "refuse", or "skip" with a warning
    same_stem: of files that differ only in their extension (normal.jpg, normal.png), take the "first" with a warning,
        or "all"
    allow_links, persons: see BaseSource
    """

    def __init__(
        self,
        root: str,
        on_missing: Literal["refuse", "skip"] = "refuse",
        same_stem: Literal["first", "all"] = "first",
        allow_links: bool = False,
        persons: Literal["shared", "own"] = "shared",
    ) -> None:
        super().__init__(allow_links, persons)
        self.root = Path(root)
        self.on_missing = on_missing
        self.same_stem = same_stem

    def __str__(self) -> str:
        return str(self.root)

    def collect(self, problems: list[str], attributes: Iterable[str] = ()) -> list[Record]:  # noqa: ARG002
        _check_layout(self.root, "train.csv")
        image_root = ImageRoot(self.root / "images", self.allow_links)
        missing: list[str] = []
        repeated: list[str] = []
        records: list[Record] = []
        for origin, folder, person_id, values in self._people(image_root.root, problems):
            path = f"{image_root.root}/{folder}"
            try:
                names = sorted(os.listdir(path))  # noqa: PTH208
                image_root.check_link(f"{path}/", folder, is_link=False)
            except OSError:
                missing.append(f'{origin}: folder "{folder}" is missing in {image_root.root}')
                continue
            except ValueError as error:
                problems.append(f"{origin}: folder {error}")
                continue
            person = re.sub("-[12]$", "", person_id)
            found = set()
            for file in names:
                stem, extension = os.path.splitext(file.lower())  # noqa: PTH122 (18,900 of them)
                if file.startswith(".") or extension not in PHOTOGRAPH_EXTENSIONS:
                    continue
                name = f"{folder}/{file}"
                if stem in found and self.same_stem == "first":
                    repeated.append(name)
                    continue
                found.add(stem)
                try:
                    own = {"mask": _mask_state(name, stem), **values}
                    file_path = image_root.find(name)
                except ValueError as error:
                    problems.append(f"{origin}: {error}")
                else:
                    records.append(Record(file_path, name, person, own, origin, person_id=person_id))
            absent = [stem for stem in STEMS if stem not in found]
            if absent:
                missing.append(f'{origin}: folder "{folder}" lacks {", ".join(absent)} (.jpg, .jpeg or .png)')
        self._report(missing, repeated, problems)
        if not (records or missing or problems):
            raise DataError(
                f"{self.root}: no train.csv is in it, and no folder <id>_<gender>_<race>_<age> in its images/; "
                "name the folder of the training data"
            )
        return records

    def _people(self, images: Path, problems: list[str]) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
        """Origin, folder, id and attributes of each row of train.csv, or of each folder where there is none."""
        table = self.root / "train.csv"
        if table.exists():
            first: dict[str, int] = {}
            for row, cells in read_table(table, ["id", "gender", "age", "path"]):
                origin, folder = f"{table} row {row}", cells["path"]
                if problem := relative_path_problem(folder):
                    problems.append(f"{origin}: {problem}")
                elif folder in first:
                    problems.append(f'{origin}: path "{folder}" stands already in row {first[folder]}')
                elif not cells["id"]:
                    problems.append(f"{origin}: the id is empty")
                else:
                    first[folder] = row
                    yield origin, folder, cells["id"], {name: cells[name] for name in cells.keys() & _TABLE_ATTRIBUTES}
            return
        for folder in sorted(entry.name for entry in os.scandir(images) if entry.is_dir()):
            parts = folder.rsplit("_", 3)
            if folder.startswith("."):
                continue
            if len(parts) != 4 or not all(parts):
                problems.append(f"{images / folder}: without train.csv a folder is named <id>_<gender>_<race>_<age>")
                continue
            identity, gender, race, age = parts
            yield str(images / folder), folder, identity, {"gender": gender, "age": age, "race": race}

    def _report(self, missing: list[str], repeated: list[str], problems: list[str]) -> None:
        if missing and self.on_missing == "skip":
            logger.warning("%s: %d folders are missing or lack photographs; skipped", self.root, len(missing))
        elif missing:
            missing[0] += '; complete the data, or set on_missing to "skip"'
            problems += missing
        if repeated:
            logger.warning(
                "%s: %d photographs are there again under another extension, such as %s, and are counted once "
                '(same_stem = "all" takes them all)',
                self.root, len(repeated), repeated[0],
            )  # fmt: skip


_TABLE_ATTRIBUTES = {"gender", "age", "race"}


def _mask_state(name: str, stem: str) -> str:
    if re.fullmatch(r"mask\d+", stem):
        return "wear"
    if stem in ("incorrect_mask", "normal"):
        return "incorrect" if stem == "incorrect_mask" else "not_wear"
    raise ValueError(f'"{name}" is named after no mask state (mask1 .. mask5, incorrect_mask, normal)')


class AttributeTable(BaseSource):
    """Any table (CSV, TSV, gzipped, Parquet) with a path column and a column for each attribute.

    An empty cell is an unknown value. A header that differs from a name only in case, spaces and underscores, or is a
    known synonym ("Subject ID" for person), is taken for it, and the log says so.

    path: of the table
    root: the folder that paths are relative to (default: the table's own)
    path_column: its cells may lack the file's extension
    person_column: what keeps images of one person together; "auto": a column headed person, or a synonym of it; None,
        an empty cell, or no such column: each image stands for itself
    columns: {attribute: column} where the two names differ, null for an attribute that this table does not give
    split_column: gives the side of each row; "auto": a column headed split, partition, set or subset, if there is one
        and its cells name sides; None: no column does
    split_values: {cell: side} (default: train, val, valid, validation, dev, test, eval, ... in any letter case)
    allow_links, persons: see BaseSource
    """

    def __init__(
        self,
        path: str,
        root: str | None = None,
        path_column: str = "path",
        person_column: str | None = "auto",
        columns: dict[str, str | None] | None = None,
        split_column: str | None = "auto",
        split_values: dict[str, Part] | None = None,
        allow_links: bool = False,
        persons: Literal["shared", "own"] = "shared",
    ) -> None:
        super().__init__(allow_links, persons)
        self.path = Path(path)
        self.root = Path(root) if root is not None else self.path.parent
        self.path_column = path_column
        self.person_column = person_column
        self.columns = columns or {}
        self.split_column = split_column
        self.split_values = split_values

    def __str__(self) -> str:
        return str(self.path)

    def collect(self, problems: list[str], attributes: Iterable[str] = ()) -> list[Record]:
        needed = [*filter(None, self.columns.values())]
        needed += [name for name in (self.path_column,) if name != "path"]
        needed += [name for name in (self.person_column,) if name not in (None, "auto", "person")]
        needed += [name for name in (self.split_column,) if name not in (None, "auto")]
        rows = read_table(self.path, needed)
        path_column, person_column, split_column, columns = self._columns(rows, [*attributes])
        image_root = ImageRoot(self.root, self.allow_links)
        first: dict[str, int] = {}
        records = []
        for row, cells in rows:
            origin, name = f"{self.path} row {row}", cells[path_column]
            if name in first:
                problems.append(f'{origin}: path "{name}" stands already in row {first[name]}')
                continue
            first[name] = row
            try:
                path = image_root.find(name)
            except ValueError as error:
                problems.append(f"{origin}: {error}")
                continue
            part, side = None, cells[split_column] if split_column else ""
            if side and (part := self._part(side)) is None:
                problems.append(
                    f'{origin}: {split_column} = "{side}" {not_one_of(side, self.split_values or DEFAULT_SPLIT_VALUES)}'
                )
            values = {attribute: cells[column] or None for attribute, column in columns.items()}
            person = unicodedata.normalize("NFC", cells[person_column] if person_column else "")
            records.append(Record(path, name, person, values, origin, part))
        for short, found in [*image_root.completed.items()][:1]:
            logger.info("%s: %d paths lack an extension; %s is taken for %s, and so on",
                        self.path, len(image_root.completed), short, found)  # fmt: skip
        return records

    def _columns(
        self, rows: list[tuple[int, dict[str, str]]], attributes: list[str]
    ) -> tuple[str, str | None, str | None, dict[str, str]]:
        """The columns of path, person and split (the latter two if there are any), and those of attributes by name.

        Raises DataError where a column is missing, or several may be meant."""
        header = [name for name in rows[0][1] if name]
        meant = {plain(name) for name in attributes}
        free = [name for name in header if name not in self.columns.values() and plain(name) not in meant]
        taken: dict[str, str] = {}

        def find(name: str, among: list[str], setting: str) -> str | None:
            column = find_column(self.path, among, name, setting)
            if column not in (None, name):
                taken[name] = str(column)
            return column

        path = self.path_column if self.path_column in header else find("path", free, "path_column")
        if path is None:
            raise DataError(
                f'{self.path}: has no column "path" (its columns are {", ".join(header)}); name the column of image '
                "paths with path_column"
            )
        person = self.person_column
        if person == "auto":
            person = find("person", free, "person_column")
        elif person not in header:  # "person" need not be there
            person = None
        if person is None:
            logger.log(
                logging.INFO if self.person_column is None else logging.WARNING,
                "%s: no person column: each image counts as a person of its own%s",
                self.path, "" if self.person_column is None else "; name it with person_column, if there is one",
            )  # fmt: skip
        split = self.split_column
        if split == "auto":
            split = find("split", [name for name in free if name not in (path, person)], "split_column")
            unlike = [cells[split] for _, cells in rows if split and cells[split] and self._part(cells[split]) is None]
            if split and unlike:
                logger.warning(
                    '%s: its column "%s" is not taken for a split, as "%s" is no side of one; if it is, name it with '
                    "split_column and split_values",
                    self.path, split, unlike[0],
                )  # fmt: skip
                taken.pop("split", None)
                split = None
            elif split:
                logger.info(
                    '%s: its column "%s" gives the split; split_column = null divides without it', self.path, split
                )
        columns: dict[str, str | None] = {name: name for name in header if name not in (path, person, split)}
        for attribute in attributes:
            if attribute not in columns and attribute not in self.columns:
                column = find(attribute, [name for name in columns if name not in self.columns.values()], "columns")
                if column is not None:
                    del columns[column]
                    columns[attribute] = column
        columns |= self.columns
        if taken:
            described = ", ".join(f'"{column}" as {name}' for name, column in taken.items())
            logger.info("%s: columns taken by what they look like: %s", self.path, described)
        return path, person, split, {name: column for name, column in columns.items() if column is not None}

    def _part(self, cell: str) -> Part | None:
        if self.split_values is None:
            return DEFAULT_SPLIT_VALUES.get(cell.lower())
        return self.split_values.get(cell)


def read_evaluation_folder(info_dir: Path | str) -> list[Record]:
    """The images to answer: info.csv (ImageID,ans) and images/ in `info_dir`; the rows' order is kept.

    Nothing is known of them (`ans` is a placeholder), and all are of the part "test". Raises DataError.
    """
    root = Path(info_dir)
    _check_layout(root, "info.csv", table_needed=True)
    table, images = root / "info.csv", ImageRoot(root / "images")
    rows = read_table(table, ["ImageID", "ans"])
    others = [column for column in rows[0][1] if column not in ("ImageID", "ans")]
    if others:
        raise DataError(f"{table}: has the columns {', '.join(rows[0][1])}; expected ImageID,ans and no others")
    problems: list[str] = []
    first: dict[str, int] = {}
    records = []
    for row, cells in rows:
        name, origin = cells["ImageID"], f"{table} row {row}"
        try:
            if name.startswith(FORMULA_STARTS):  # which must stand in the submission as it is
                raise ValueError(
                    f'the name "{name}" begins with "{name[0]}", which a spreadsheet would run as a formula; rename it'
                )
            if name in first:
                raise ValueError(f'ImageID "{name}" stands already in row {first[name]}')
            records.append(Record(images.find(name), name, name, {}, origin, "test"))
        except ValueError as error:
            problems.append(f"{origin}: {error}")
        first.setdefault(name, row)
    raise_problems(problems)
    return records


def _check_layout(root: Path, table: str, table_needed: bool = False) -> None:
    """Raises DataError if `root` does not hold the table and a filled images/, with what is there instead."""
    expected = f"expected {table} and images/ in it"
    if not root.is_dir():
        raise DataError(f"{root}: {'is not a folder' if root.exists() else 'there is no such folder'}; {expected}")
    found = sorted(entry.name + "/" * entry.is_dir() for entry in os.scandir(root) if not entry.name.startswith("."))
    holds = f"it holds {', '.join(found[:8])}{' ...' if len(found) > 8 else ''}" if found else "it is empty"
    for other in [*(root / name for name in found if name.endswith("/")), root.parent]:
        if (other / table).is_file() and (other / "images").is_dir() and not (root / table).is_file():
            raise DataError(f"{root}: {expected}; {holds}; there is a {table} in {other}: set that folder")
    if not (root / "images").is_dir() or (table_needed and not (root / table).is_file()):
        raise DataError(f"{root}: {expected}; {holds}")
    if not any(not entry.name.startswith(".") for entry in os.scandir(root / "images")):
        raise DataError(f"{root / 'images'}: is empty; put the photographs there")
