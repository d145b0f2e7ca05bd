"""Sources of records: the competition's folders, and any table of images and attributes."""

from __future__ import annotations

import logging
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from data_loader.records.records import Part, Record
from data_loader.records.tables import (
    ImageRoot,
    name_problem,
    raise_problems,
    read_table,
    relative_path_problem,
)
from utils.errors import DataError
from utils.wording import not_one_of

__all__ = ["AttributeTable", "CompetitionFolder"]

logger = logging.getLogger(__name__)

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png")
STEMS = ("mask1", "mask2", "mask3", "mask4", "mask5", "incorrect_mask", "normal")
DEFAULT_SPLIT_VALUES: dict[str, Part] = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "eval": "test",
}


class BaseSource(ABC):
    """A source: `read` gives its records or raises; `collect` lets several sources tell their problems together."""

    @abstractmethod
    def collect(self, problems: list[str]) -> list[Record]:
        """The records that are right; adds a line to `problems` for each other.

        Raises DataError if none can be read."""

    def read(self) -> list[Record]:
        """The records. Raises DataError with the first ten problems and their count."""
        problems: list[str] = []
        records = self.collect(problems)
        raise_problems(problems)
        return records


class CompetitionFolder(BaseSource):
    """The competition's layout: train.csv (id,gender,race,age,path) and images/<path>/{mask1 .. normal}.{jpg,jpeg,png}.

    Attributes: mask (wear, incorrect, not_wear: from the file's stem), gender, age, race, as they stand in the table;
    without train.csv the folders' names give them, <id>_<gender>_<race>_<age>. The person is the id without an
    ending -1 or -2: such ids may be the same person, and keeping them on one side costs nothing.
    `path` is the key (one id stands twice, on two folders). Names that begin with "." are passed over.

    on_missing: what to do where a folder, or one of the seven photographs, is missing: "refuse", or "skip" with a
    warning.
    """

    def __init__(self, root: str, on_missing: Literal["refuse", "skip"] = "refuse") -> None:
        self.root = Path(root)
        self.on_missing = on_missing

    def collect(self, problems: list[str]) -> list[Record]:
        images = self.root / "images"
        _check_layout(self.root, "train.csv")
        image_root = ImageRoot(images)
        missing: list[str] = []
        records: list[Record] = []
        for origin, folder, person_id, attributes in self._people(images, problems):
            path = f"{images}/{folder}"
            try:
                names = sorted(os.listdir(path))  # noqa: PTH208
            except OSError:
                missing.append(f'{origin}: folder "{folder}" is missing in {images}')
                continue
            if not image_root.holds(path):
                problems.append(f'{origin}: folder "{folder}" is a link that leads out of {images}')
                continue
            person = re.sub("-[12]$", "", person_id)
            found = set()
            for name in names:
                before = len(problems)
                mask = self._mask_state(f"{folder}/{name}", origin, image_root, problems)
                if mask or len(problems) > before:  # what is wrong with it has been said
                    found.add(name.rpartition(".")[0].lower())
                if mask:
                    values = {"mask": mask, **attributes}
                    records.append(
                        Record(Path(path, name), f"{folder}/{name}", person, values, origin, person_id=person_id)
                    )
            absent = [stem for stem in STEMS if stem not in found]
            if absent:
                missing.append(f'{origin}: folder "{folder}" lacks {", ".join(absent)} (.jpg, .jpeg or .png)')
        self._report_missing(missing, problems)
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
                    attributes: dict[str, Any] = {
                        name: cells[name] for name in cells.keys() & {"gender", "age", "race"}
                    }
                    yield origin, folder, cells["id"], attributes
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

    def _mask_state(self, name: str, origin: str, image_root: ImageRoot, problems: list[str]) -> str | None:
        """The mask's state by the file's stem; None where the file is no photograph (or is wrong: a problem)."""
        file = name.rpartition("/")[2]
        stem, extension = os.path.splitext(file.lower())  # noqa: PTH122 (18,900 of them)
        if file.startswith(".") or extension not in IMAGE_EXTENSIONS:
            return None
        if problem := image_root.problem(name):
            problems.append(f"{origin}: {problem}")
        elif re.fullmatch(r"mask\d+", stem):
            return "wear"
        elif stem == "incorrect_mask":
            return "incorrect"
        elif stem == "normal":
            return "not_wear"
        else:
            problems.append(f'{origin}: "{name}" is named after no mask state (mask1 .. mask5, incorrect_mask, normal)')
        return None

    def _report_missing(self, missing: list[str], problems: list[str]) -> None:
        if missing and self.on_missing == "skip":
            logger.warning("%s: %d folders are missing or lack photographs; skipped", self.root, len(missing))
        elif missing:
            missing[0] += '; complete the data, or set on_missing to "skip"'
            problems += missing


class AttributeTable(BaseSource):
    """Any CSV with a path column and a column for each attribute; an empty cell is an unknown value.

    root: the folder that paths are relative to (default: the table's own); person_column: what keeps images of one
    person together (None, or an empty cell: the image stands for itself; a table without the default column has
    none); columns: {attribute: column} where the two names differ, null for an attribute that this table does not give;
    split_column: a column that gives the side of each row, through split_values ({cell: side}; default: train ->
    train, val, valid and validation -> validation, test and eval -> test, in any letter case).
    """

    def __init__(
        self,
        path: str,
        root: str | None = None,
        path_column: str = "path",
        person_column: str | None = "person",
        columns: dict[str, str | None] | None = None,
        split_column: str | None = None,
        split_values: dict[str, Part] | None = None,
    ) -> None:
        self.path = Path(path)
        self.root = Path(root) if root is not None else self.path.parent
        self.path_column = path_column
        self.person_column = person_column
        self.columns = columns or {}
        self.split_column = split_column
        self.split_values = split_values

    def collect(self, problems: list[str]) -> list[Record]:
        needed = [self.path_column, *filter(None, self.columns.values())]
        needed += [self.person_column] if self.person_column not in (None, "person") else []
        needed += [self.split_column] if self.split_column else []
        rows = read_table(self.path, needed)
        if not self.split_column and "split" in rows[0][1]:
            logger.warning('%s: its column "split" is not used; name it as split_column to keep that split', self.path)
        image_root = ImageRoot(self.root)
        columns = self._attribute_columns(rows[0][1])
        first: dict[str, int] = {}
        records = []
        for row, cells in rows:
            origin, name = f"{self.path} row {row}", cells[self.path_column]
            if name in first:
                problems.append(f'{origin}: path "{name}" stands already in row {first[name]}')
                continue
            first[name] = row
            if problem := image_root.problem(name):
                problems.append(f"{origin}: {problem}")
                continue
            attributes = {attribute: cells[column] or None for attribute, column in columns.items()}
            path = Path(self.root, name)
            person = cells.get(self.person_column or "", "")
            records.append(Record(path, name, person, attributes, origin, self._part(cells, origin, problems)))
        return records

    def _attribute_columns(self, header: Sequence[str] | dict[str, str]) -> dict[str, str]:
        others = (self.path_column, self.person_column, self.split_column)
        columns: dict[str, str | None] = {name: name for name in header if name and name not in others}
        columns.update(self.columns)
        return {attribute: column for attribute, column in columns.items() if column is not None}

    def _part(self, cells: dict[str, str], origin: str, problems: list[str]) -> Part | None:
        value = cells[self.split_column] if self.split_column else ""
        if not value:
            return None
        values = DEFAULT_SPLIT_VALUES if self.split_values is None else self.split_values
        part = values.get(value) or (values.get(value.lower()) if self.split_values is None else None)
        if part is None:
            problems.append(f'{origin}: {self.split_column} = "{value}" {not_one_of(value, values)}')
        return part


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
        if problem := name_problem(name):
            problems.append(f"{origin}: {problem}")
        elif name in first:
            problems.append(f'{origin}: ImageID "{name}" stands already in row {first[name]}')
        elif problem := images.problem(name):
            problems.append(f"{origin}: {problem}")
        first.setdefault(name, row)
        records.append(Record(images.root / name, name, name, {}, origin, "test"))
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
