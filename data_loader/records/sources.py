"""Sources of records: the competition's folders, and any table of images and attributes."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from base.attribute import ScoredClass
from data_loader.records.image_root import ImageRoot, relative_path_problem
from data_loader.records.records import Part, Record
from data_loader.records.tables import (
    FORMULA_STARTS,
    Rows,
    columns_are,
    find_column,
    from_cell,
    plain,
    raise_problems,
    read_table,
)
from utils.errors import DataError
from utils.wording import not_one_of

__all__ = ["AttributeTable", "CompetitionFolder", "PseudoLabels"]

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


@dataclass(eq=False, kw_only=True)
class BaseSource(ABC):
    """Images and their attributes.

    allow_links: whether files may be links that lead out of the source's folder
    persons: "shared" where a person's id means the same person in all sources, "own" where it is this source's alone;
        "by_duplicates": as "shared", and persons who share a picture are one (docs/data.md)
    train_only: its images train in every split and never validate; those of a person who validates are left out
    weight: of each of its images in the loss of the heads, beside the class's; validation does not use it
    """

    allow_links: bool = False
    persons: Literal["shared", "own", "by_duplicates"] = "shared"
    train_only: bool = False
    weight: Annotated[float, Field(gt=0, le=1000)] = 1.0

    @abstractmethod
    def collect(self, problems: list[str], attributes: Iterable[str] = ()) -> list[Record]:
        """The records that are right; adds a line to `problems` for each other.

        problems: what is wrong with the source
        attributes: names that a column is looked for, also by similar headers

        Raises DataError where nothing can be read at all."""


@dataclass(eq=False)
class CompetitionFolder(BaseSource):
    """The competition's layout: train.csv (id,gender,race,age,path) and images/<path>/{mask1 .. normal}.{jpg,jpeg,png}.

    Attributes: mask (wear, incorrect, not_wear: from the file's stem), gender, age and race as in the table; without
    train.csv from the folders' names, <id>_<gender>_<race>_<age>. The person is the id without an ending -1 or -2:
    such ids may be the same person. `path` is the key (one id has two folders). Names that begin with "." are skipped.

    root: the folder with train.csv and images/
    on_missing: where a folder, or one of the seven photographs, is missing: "refuse", or "skip" with a warning
    same_stem: of files that differ only in their extension (normal.jpg, normal.png), take the "first" with a warning,
        or "all"
    allow_links, persons, train_only, weight: see BaseSource
    """

    root: str
    on_missing: Literal["refuse", "skip"] = "refuse"
    same_stem: Literal["first", "all"] = "first"

    def __str__(self) -> str:
        return str(Path(self.root))

    def collect(self, problems: list[str], attributes: Iterable[str] = ()) -> list[Record]:  # noqa: ARG002
        root = Path(self.root)
        _check_layout(root, "train.csv")
        images = ImageRoot(root / "images", self.allow_links)
        missing: list[str] = []
        repeated: list[str] = []
        records: list[Record] = []
        for origin, folder, person_id, values in _people(root, problems):
            try:
                files = images.list_folder(folder)
            except ValueError as error:
                problems.append(f"{origin}: folder {error}")
                continue
            if files is None:
                missing.append(f'{origin}: folder "{folder}" is missing in {images.root}')
                continue
            found, person = set(), re.sub("-[12]$", "", person_id)
            for file in files:
                stem, extension = os.path.splitext(file.lower())  # noqa: PTH122 (18,900 of them)
                if file.startswith(".") or extension not in PHOTOGRAPH_EXTENSIONS:
                    continue
                name = f"{folder}/{file}"
                if stem in found and self.same_stem == "first":
                    repeated.append(name)
                    continue
                found.add(stem)
                try:
                    known = {"mask": _mask_state(name, stem), **values}
                    records.append(Record(images.find(name), name, person, known, origin, person_id=person_id))
                except ValueError as error:
                    problems.append(f"{origin}: {error}")
            if absent := [stem for stem in STEMS if stem not in found]:
                missing.append(f'{origin}: folder "{folder}" lacks {", ".join(absent)} (.jpg, .jpeg or .png)')
        if missing and self.on_missing == "skip":
            logger.warning("%s: %d folders are missing or lack photographs; skipped", root, len(missing))
        elif missing:
            problems += [f'{missing[0]}; complete the data, or set on_missing to "skip"', *missing[1:]]
        if repeated:
            logger.warning(
                "%s: %d photographs also exist with another extension, such as %s, and are counted once "
                '(same_stem = "all" counts all)',
                self.root, len(repeated), repeated[0],
            )  # fmt: skip
        if not (records or missing or problems):
            raise DataError(f"{root}: has neither train.csv nor a folder images/<id>_<gender>_<race>_<age>")
        return records


_TABLE_ATTRIBUTES = {"gender", "age", "race"}


def _people(root: Path, problems: list[str]) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Origin, folder, id and attributes of each row of train.csv, or of each folder where there is none."""
    table, images = root / "train.csv", root / "images"
    if table.exists():
        first: dict[str, int] = {}
        for row, cells in read_table(table, ["id", "gender", "age", "path"]):
            origin, folder = f"{table} row {row}", cells["path"]
            earlier = first.setdefault(unicodedata.normalize("NFC", folder), row)
            if problem := relative_path_problem(folder):
                problems.append(f"{origin}: {problem}")
            elif earlier != row:
                problems.append(f'{origin}: path "{folder}" is in row {earlier} already')
            elif not cells["id"]:
                problems.append(f"{origin}: the id is empty")
            else:
                yield origin, folder, cells["id"], {name: cells[name] for name in cells.keys() & _TABLE_ATTRIBUTES}
        return
    for folder in sorted(entry.name for entry in os.scandir(images) if entry.is_dir()):
        if folder.startswith("."):
            continue
        parts = folder.rsplit("_", 3)
        if len(parts) != 4 or not all(parts):
            problems.append(f"{images / folder}: without train.csv a folder is named <id>_<gender>_<race>_<age>")
            continue
        identity, gender, race, age = parts
        yield str(images / folder), folder, identity, {"gender": gender, "age": age, "race": race}


def _mask_state(name: str, stem: str) -> str:
    if re.fullmatch(r"mask\d+", stem):
        return "wear"
    if stem in ("incorrect_mask", "normal"):
        return "incorrect" if stem == "incorrect_mask" else "not_wear"
    raise ValueError(f'"{name}" is named after no mask state (mask1 .. mask5, incorrect_mask, normal)')


@dataclass(eq=False)
class AttributeTable(BaseSource):
    """Any table (CSV, TSV, gzipped, Parquet) with a path column and a column for each attribute.

    An empty cell is an unknown value. A header that differs from a name only in case, spaces and underscores, or is a
    known synonym ("Subject ID" for person), is used for it, with a line in the log.

    path: of the table
    root: the folder that paths are relative to (default: the table's own)
    path_column: its cells may lack the file's extension
    person_column: the ids of persons; "auto": a column headed person, or a synonym of it; None, an empty cell, or no
        such column: each image is a person of its own
    columns: {attribute: column} where the two names differ, null for an attribute that this table does not give
    split_column: gives the side of each row; "auto": a column headed split, partition, set or subset, if there is one
        and its cells name sides; None: no column does
    split_values: {cell: side} (default: train, val, valid, validation, dev, test, eval, ... in any letter case)
    allow_links, persons, train_only, weight: see BaseSource
    """

    path: str
    root: str | None = None
    path_column: str = "path"
    person_column: str | None = "auto"
    columns: dict[str, str | None] | None = None
    split_column: str | None = "auto"
    split_values: dict[str, Part] | None = None

    def __str__(self) -> str:
        return str(Path(self.path))

    def setting(self, name: str) -> str:
        """What names the column of `name`, for messages: an argument; a command that has flags instead overrides it."""
        return f"{name}_column" if name in ("path", "person", "split") else "columns"

    def collect(self, problems: list[str], attributes: Iterable[str] = ()) -> list[Record]:
        path, root = Path(self.path), Path(self.path).parent if self.root is None else Path(self.root)
        if path.exists() and not root.is_dir():  # one line, not one a row
            raise DataError(f"{root}: there is no such folder")
        settings = (self.path_column, self.person_column, self.split_column)
        named = [*(self.columns or {}).values(), *(each for each in settings if each not in ("path", "person", "auto"))]
        rows = read_table(path, [column for column in named if column is not None])
        path_column, person_column, split_column, columns = self._columns(rows, [*attributes])
        images = ImageRoot(root, self.allow_links)
        records = []
        for row, cells in rows:
            origin, name = f"{path} row {row}", cells[path_column]
            try:
                file = images.find(name)
            except ValueError as error:
                problems.append(f"{origin}: {error}")
                continue
            side = cells[split_column] if split_column else ""
            part = self._part(side)
            if side and part is None:
                known = self.split_values or DEFAULT_SPLIT_VALUES
                problems.append(f'{origin}: {split_column} = "{side}" {not_one_of(side, known)}')
            values = {attribute: cells[column] or None for attribute, column in columns.items()}
            person = unicodedata.normalize("NFC", cells[person_column] if person_column else "")
            records.append(Record(file, name, person, values, origin, part))
        return records

    def _columns(self, rows: Rows, attributes: list[str]) -> tuple[str, str | None, str | None, dict[str, str]]:
        """The columns of path, person and split (the latter two if there are any), and those of attributes by name.

        Raises DataError where there is no column of paths, or several columns fit."""
        own = self.columns or {}
        header = [name for name in rows[0][1] if name]
        of_attributes = {plain(name) for name in attributes}
        free = [name for name in header if name not in own.values() and plain(name) not in of_attributes]

        def find(name: str, setting: str | None) -> str | None:
            if setting is None or setting in header:
                return setting
            return find_column(Path(self.path), free, name, self.setting(name))

        path, person = find("path", self.path_column), find("person", self.person_column)
        if path is None:
            wrong = f'has no column "path" ({columns_are(header)})'
            raise DataError(f"{self}: {wrong}; name it with {self.setting('path')}")
        if person is None and self.person_column is not None:
            alone = "each image counts as a person of its own"
            logger.warning("%s: no person column: %s; see %s", self, alone, self.setting("person"))
        split = find("split", self.split_column)
        values = [cells[split] for _, cells in rows if cells[split]] if split else []
        unlike = [value for value in values if self._part(value) is None]
        if self.split_column == "auto" and (unlike or split in (path, person)):
            if unlike:
                logger.warning('%s: the column "%s" is not used as the split: "%s" is no side; if it is one, set '
                               "split_column and split_values", self, split, unlike[0])  # fmt: skip
            split = None
        given: dict[str, str | None] = {name: name for name in header if name not in (path, person, split)}
        for attribute in attributes:
            if attribute not in given and attribute not in own:
                others = [name for name in given if name not in own.values()]
                if column := find_column(Path(self.path), others, attribute, self.setting(attribute)):
                    del given[column]
                    given[attribute] = column
        guessed = {"path": path, "person": person, **given, "split": split}
        described = [f'"{column}" as {name}' for name, column in guessed.items() if column not in (None, name)]
        if described or (split and self.split_column == "auto"):
            logger.info("%s: columns are read as %s", self, ", ".join(described or [f'"{split}" as split']))
        given |= own
        return path, person, split, {name: column for name, column in given.items() if column is not None}

    def _part(self, cell: str) -> Part | None:
        if self.split_values is None:
            return DEFAULT_SPLIT_VALUES.get(cell.lower())
        return self.split_values.get(cell)


Probability = Annotated[float, Field(gt=0, le=1)]


@dataclass(eq=False)
class PseudoLabels(BaseSource):
    """Images whose labels are what models predict of them: the CSV that `test.py --probabilities` writes.

    An attribute whose likeliest class is below its threshold is unknown; an image with no other is left out. Each image
    is a person of its own, and none validates. Of an attribute with bins the scored class is known, and no number.

    path: of the CSV, <answers>_probabilities.csv; the <answers>.csv.json beside it says which models made it
    root: the folder that ImageIDs are relative to, such as the images/ of info_dir
    thresholds: of the probability: one for all, or by attribute, {"mask": 0.95, "age": 0.8}: others stay unknown
    train_only: cannot be false
    allow_links, persons, weight: see BaseSource
    """

    path: str
    root: str
    thresholds: Probability | dict[str, Probability] = 0.9
    train_only: Literal[True] = field(default=True, kw_only=True)

    def __str__(self) -> str:
        return str(Path(self.path))

    def collect(self, problems: list[str], attributes: Iterable[str] = ()) -> list[Record]:
        path, root = Path(self.path), Path(self.root)
        if path.exists() and not root.is_dir():  # one line, not one a row
            raise DataError(f"{root}: there is no such folder")
        rows = read_table(path, ["ImageID"])
        columns = self._columns([name for name in rows[0][1] if name], [*attributes])
        images, first = ImageRoot(root, self.allow_links), dict[str, int]()
        probabilities: dict[str, list[float]] = {name: [] for name in columns}  # of the labels that are known
        records = []
        for row, cells in rows:
            name, origin = from_cell(cells["ImageID"]), f"{path} row {row}"
            if first.setdefault(name, row) != row:
                problems.append(f'{origin}: ImageID "{name}" is in row {first[name]} already')
                continue
            known: dict[str, Any] = {}
            try:
                file = images.find(name)
                for attribute, by_class in columns.items():
                    class_name, probability = _likeliest(attribute, {each: cells[c] for each, c in by_class.items()})
                    if probability >= self._threshold(attribute):
                        known[attribute] = ScoredClass(class_name)
                        probabilities[attribute].append(probability)
            except ValueError as error:
                problems.append(f"{origin}: {error}")
                continue
            if known:
                records.append(Record(file, name, "", known, origin))
        if not (records or problems):
            raise DataError(f"{path}: no probability reaches its threshold; lower thresholds")
        for attribute, kept in probabilities.items() if records else ():
            wrong = f", of which {len(kept) - sum(kept):.1f} are wrong by their own probabilities" if kept else ""
            logger.info("%s: %d of %d labels of %s are kept%s", path, len(kept), len(rows), attribute, wrong)
        return records

    def provenance(self) -> dict[str, Any]:
        """Plain data: the file, its sha256, and of each model behind it what the file beside it says (none, if there is
        no such file). Raises DataError where it cannot be read."""
        path = Path(self.path)
        try:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            beside = path.with_name(f"{path.stem.removesuffix('_probabilities')}.csv.json")
            made_by = json.loads(beside.read_text(encoding="utf-8"))["models"] if beside.is_file() else []
            return {"path": self.path, "sha256": digest, "models": [dict(model) for model in made_by]}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: what made it cannot be read ({error!r:.80})") from None

    def _columns(self, header: list[str], attributes: list[str]) -> dict[str, dict[str, str]]:
        """By attribute with a threshold, and by class, the column of its probabilities. Raises DataError."""
        found: dict[str, dict[str, str]] = {}
        for column in header:
            attribute, _, class_name = column.partition(" ")
            if class_name and attribute in attributes:
                found.setdefault(attribute, {})[class_name] = column
        if self.thresholds == {}:
            raise DataError(f"{self}: thresholds names no attribute; give one number for all, or one for each")
        named = [*self.thresholds] if isinstance(self.thresholds, dict) else [*found]
        if not named or any(attribute not in found for attribute in named):
            lacking = next((name for name in named if name not in found), " or ".join(attributes))
            wrong = f"has no probabilities of {lacking} ({columns_are(header)})"
            raise DataError(f"{self}: {wrong}; name the <answers>_probabilities.csv of test.py --probabilities")
        return {attribute: found[attribute] for attribute in named}

    def _threshold(self, attribute: str) -> float:
        return self.thresholds[attribute] if isinstance(self.thresholds, dict) else self.thresholds


def _likeliest(attribute: str, cells: dict[str, str]) -> tuple[str, float]:
    """The likeliest class and its probability. Raises ValueError for what are no probabilities.

    cells: by class"""
    try:
        probabilities = {name: float(cell) for name, cell in cells.items()}
        if not (min(probabilities.values()) >= 0 and abs(sum(probabilities.values()) - 1) <= 0.001):
            raise ValueError
    except ValueError:
        given = ", ".join(f"{name} {cell or 'empty'}" for name, cell in cells.items())
        raise ValueError(f"the probabilities of {attribute} must be 0 to 1 and sum to 1: {given}") from None
    likeliest = max(probabilities, key=probabilities.__getitem__)
    return likeliest, probabilities[likeliest]


def read_evaluation_folder(info_dir: Path | str, allow_links: bool = False) -> list[Record]:
    """The images to answer: info.csv (ImageID,ans) and images/ in `info_dir`; the rows' order is kept.

    allow_links: see BaseSource

    Nothing is known of them (`ans` is a placeholder), and all are of the part "test". Raises DataError.
    """
    root = Path(info_dir)
    _check_layout(root, "info.csv", table_needed=True)
    table, images = root / "info.csv", ImageRoot(root / "images", allow_links)
    rows = read_table(table, ["ImageID", "ans"])
    if len(rows[0][1]) > 2:
        raise DataError(f"{table}: has the columns {', '.join(rows[0][1])}; expected ImageID,ans and no others")
    problems: list[str] = []
    first: dict[str, int] = {}
    records = []
    for row, cells in rows:
        name, origin = cells["ImageID"], f"{table} row {row}"
        if first.setdefault(name, row) != row:
            problems.append(f'{origin}: ImageID "{name}" is in row {first[name]} already')
        elif name.startswith(FORMULA_STARTS):  # the submission must have it as it is
            problems.append(f'{origin}: the name "{name}" would be run as a formula by a spreadsheet; rename the image')
        else:
            try:
                records.append(Record(images.find(name), name, name, {}, origin, "test"))
            except ValueError as error:
                problems.append(f"{origin}: {error}")
    raise_problems(problems)
    return records


def _check_layout(root: Path, table: str, table_needed: bool = False) -> None:
    """Raises DataError if `root` does not hold the table and images/, with what it holds instead."""
    if (root / "images").is_dir() and ((root / table).is_file() or not table_needed):
        return
    holds = "is not a folder" if root.exists() else "there is no such folder"
    if root.is_dir():
        names = sorted(entry.name for entry in os.scandir(root) if not entry.name.startswith("."))
        holds = f"it holds {', '.join(names[:8])}{' ...' if names[8:] else ''}" if names else "it is empty"
    raise DataError(f"{root}: {holds}; expected {table} and images/ in it")
