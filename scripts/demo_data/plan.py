"""Which files a drawn data set holds: its people, its tables' rows, and the class of every photograph."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from base.label_space import LabelSpace
from scripts.demo_data.faces import MASK_STATES, STEMS, mask_state_of
from scripts.demo_data.people import GENDERS, Person, imagine_person
from utils.errors import DataError
from utils.random_streams import numpy_stream

LABEL_SPACE = LabelSpace(
    {"mask": {"classes": list(MASK_STATES)}, "gender": {"classes": list(GENDERS)}, "age": {"bins": [30, 60]}}
)
RACE = "Asian"  # the competition's folder names have no other
EXTENSIONS = ("jpg", "jpeg", "png")


@dataclass(frozen=True)
class Drawing:
    """One file to draw: where, and which photograph of its person it is."""

    path: Path
    stem: str
    mask_state: str


@dataclass
class Plan:
    """Everything that a data set holds: the tables' rows, and by person what to draw. Paths are below the output."""

    train_rows: list[dict[str, Any]] = field(default_factory=list)
    answers: list[tuple[str, int, str]] = field(default_factory=list)  # ImageID, ans, person: info.csv's order
    people: list[tuple[Person, list[Drawing]]] = field(default_factory=list)

    def paths(self) -> Iterable[Path]:
        return (drawing.path for _, drawings in self.people for drawing in drawings)


def answer_of(person: Person, mask_state: str) -> int:
    """The combined class of a photograph."""
    raw = {"mask": mask_state, "gender": person.gender, "age": person.age}
    classes = {name: torch.tensor([LABEL_SPACE.attributes[name].scoring_class(raw[name])]) for name in raw}
    return int(LABEL_SPACE.joint_classes(classes)[0])


def _train_path(folder: str, name: str) -> Path:
    return Path("train", "images", folder, name)


def plan_people(people: int, eval_people: int, seed: int) -> Plan:
    plan = Plan()
    for index in range(people):
        person = imagine_person(seed, "train", index)
        number = f"{index + 1:06d}"
        folder = f"{number}_{person.gender}_{RACE}_{person.age}"
        plan.train_rows.append({"id": number, "gender": person.gender, "race": RACE, "age": person.age, "path": folder})
        drawings = [Drawing(_train_path(folder, f"{stem}.jpg"), stem, mask_state_of(stem)) for stem in STEMS]
        plan.people.append((person, drawings))
    names = [
        hashlib.blake2b(f"{seed}/drawn eval/{place}".encode(), digest_size=20).hexdigest() + ".jpg"
        for place in range(eval_people * len(STEMS))
    ]
    _plan_evaluation(plan, names, list(range(len(names))), seed)
    # An order that has nothing to do with people, nor with the names' own order.
    plan.answers.sort(key=lambda row: hashlib.blake2b(f"{seed}/drawn order/{row[0]}".encode()).digest())
    return plan


def _plan_evaluation(plan: Plan, names: list[str], order: list[int], seed: int) -> None:
    """Gives photograph order[i] (seven a person, one person after another) the name names[i]."""
    photographs: dict[int, list[tuple[int, str]]] = {}
    people: dict[int, Person] = {}
    for name, place in zip(names, order, strict=True):
        index, number = divmod(place, len(STEMS))
        photographs.setdefault(index, []).append((number, name))
        if index not in people:
            people[index] = imagine_person(seed, "eval", index)
        answer = answer_of(people[index], mask_state_of(STEMS[number]))
        plan.answers.append((name, answer, f"eval_{index + 1:06d}"))
    for index, own in sorted(photographs.items()):
        drawings = [
            Drawing(Path("eval", "images", name), STEMS[number], mask_state_of(STEMS[number])) for number, name in own
        ]
        plan.people.append((people[index], drawings))


def plan_tables(train_table: Path, train_files: Path, eval_table: Path, seed: int) -> Plan:
    plan = Plan()
    plan.train_rows = _read_table(train_table, ("id", "gender", "race", "age", "path"))
    people: dict[str, Person] = {}
    for index, row in enumerate(plan.train_rows):
        place = f"{train_table} row {index + 2}"
        if row["gender"] not in GENDERS or not row["age"].isdigit():
            raise DataError(
                f"{place}: gender = {row['gender']!r}, age = {row['age']!r}: expected male or female, a number"
            )
        if row["path"] in people:
            raise DataError(f"{place}: path = {row['path']!r} stands twice; each person needs a folder of their own")
        people[row["path"]] = imagine_person(seed, "train", index, row["gender"], int(row["age"]))
    drawings: dict[str, list[Drawing]] = {folder: [] for folder in people}
    for number, row in enumerate(_read_table(train_files, ("path", "label")), start=2):
        place = f"{train_files} row {number}"
        folder, _, name = row["path"].partition("/")
        stem, _, extension = name.partition(".")
        if (
            folder not in people
            or Path(folder).name != folder
            or stem not in STEMS
            or extension.lower() not in EXTENSIONS
        ):
            raise DataError(
                f"{place}: path = {row['path']!r} is not <folder of {train_table.name}>/<{', '.join(STEMS)}>"
                f".<{', '.join(EXTENSIONS)}>"
            )
        if not row["label"].isdigit() or int(row["label"]) >= LABEL_SPACE.num_joint_classes:
            raise DataError(
                f"{place}: label = {row['label']!r} is not a class of 0 to {LABEL_SPACE.num_joint_classes - 1}"
            )
        mask = int(LABEL_SPACE.attribute_classes(torch.tensor([int(row["label"])]))["mask"][0])
        drawings[folder].append(Drawing(_train_path(folder, name), stem, MASK_STATES[mask]))
    plan.people = [(people[folder], own) for folder, own in drawings.items() if own]
    names = [row["ImageID"] for row in _read_table(eval_table, ("ImageID",))]
    for number, name in enumerate(names, start=2):
        if Path(name).name != name or name.lower().rpartition(".")[2] not in EXTENSIONS:
            raise DataError(
                f"{eval_table} row {number}: ImageID = {name!r} is not a file name ending in {', '.join(EXTENSIONS)}"
            )
    if len(set(names)) < len(names):
        raise DataError(f"{eval_table}: the column ImageID names a file twice")
    count = -(-len(names) // len(STEMS)) * len(STEMS)
    _plan_evaluation(
        plan, names, numpy_stream(seed, "drawn eval order").permutation(count)[: len(names)].tolist(), seed
    )
    return plan


def _read_table(path: Path, columns: tuple[str, ...]) -> list[dict[str, Any]]:
    """The rows of a UTF-8 CSV, every value a text. Raises DataError if it cannot be read, or lacks a column or rows."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="")
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    missing = [column for column in columns if column not in (reader.fieldnames or [])]
    if missing or not rows:
        raise DataError(
            f"{path}: {'no column ' + ', '.join(missing) if missing else 'no rows'}; expected {','.join(columns)}"
        )
    return rows
