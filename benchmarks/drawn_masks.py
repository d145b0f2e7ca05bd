"""What masks drawn on faces are worth: a model with them beside the same model without, on photographs kept apart.

`python -m benchmarks.drawn_masks --drawn FOLDER --masks FOLDER --weights-file FILE` trains both for each seed with
train.py, predicts the tables' own test rows with test.py, and prints the table of docs/results.md. What each model
predicted is kept in <output>/results.json: those models are not trained again, and one that was stopped is resumed.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

import test
import train
from base.batch import UNKNOWN
from base.label_space import LabelSpace
from benchmarks.machine import PROJECT
from benchmarks.real_faces import as_flag
from benchmarks.trainings import ANSWER, Column, Figure
from data_loader.records import LabelTable, read_records
from data_loader.records.sources import AttributeTable
from data_loader.records.tables import read_table
from experiment.schema import SECTIONS
from inference.scoring.intervals import Counts, Score, counts_by_person, difference, number_persons
from inference.submission import align, read_answers, read_origin
from parse_config import ConfigParser
from utils.command_line import CommandLine
from utils.errors import ConfigError, run_and_exit
from utils.files import write_atomically

CONFIG = PROJECT / "configs" / "faces_with_drawn_masks.json"
Arm = Literal["with", "without"]
EPOCHS: dict[Arm, int] = {"with": 1, "without": 5}
"""About as many updates for both: a face with drawn masks is eight images."""
MAX_LR = 0.0003


@dataclass(frozen=True)
class PartColumn(Column):
    """A score on a part of the test images.

    part: "crops" (real masks), "bare" (faces as they are) or "drawn" (faces with drawn masks, and bare)
    """

    part: Literal["crops", "bare", "drawn"]


COLUMNS = (
    PartColumn("real masks: mask, macro F1", "mask", "macro_f1", "crops"),
    PartColumn("real masks: mask, accuracy", "mask", "accuracy", "crops"),
    PartColumn("bare faces: gender, accuracy", "gender", "accuracy", "bare"),
    PartColumn("bare faces: age group, accuracy", "age", "accuracy", "bare"),
    PartColumn("bare faces: age group, macro F1", "age", "macro_f1", "bare"),
    PartColumn("drawn masks: 18 classes, macro F1", "answer", "macro_f1", "drawn"),
    PartColumn("drawn masks: 18 classes, accuracy", "answer", "accuracy", "drawn"),
    PartColumn("drawn masks: mask, macro F1", "mask", "macro_f1", "drawn"),
    PartColumn("drawn masks: gender, accuracy", "gender", "accuracy", "drawn"),
    PartColumn("drawn masks: age group, accuracy", "age", "accuracy", "drawn"),
)


class TestRows:
    """The test rows of both tables: what is true of them, and which part they are of."""

    __test__ = False

    def __init__(self, sources: Sequence[AttributeTable], labels: LabelSpace) -> None:
        table: LabelTable = read_records(sources, labels)
        rows = table[np.array([number for number, each in enumerate(table.records) if each.part == "test"])]
        self.names = [record.name for record in rows.records]
        self.persons = number_persons([record.person for record in rows.records])
        joint = labels.joint_classes(rows.scoring_classes)
        self.truth = {name: each.numpy() for name, each in {**rows.scoring_classes, ANSWER: joint}.items()}
        drawn = np.array(["drawn_mask" in record.attributes for record in rows.records])
        bare = np.array([record.attributes.get("drawn_mask") == "none" for record in rows.records])
        self.parts = {"crops": ~drawn, "bare": bare, "drawn": drawn}

    def counts(self, column: PartColumn, models: Sequence[np.ndarray], labels: LabelSpace) -> list[Counts]:
        """models: (N,) joint classes each"""
        truth = np.where(self.parts[column.part], self.truth[column.attribute], UNKNOWN)
        return counts_by_person(truth, [classes_of(column.attribute, each, labels) for each in models], self.persons)

    def majority(self, column: PartColumn) -> float:
        """The score of always predicting the class that is most frequent among these rows."""
        truth = np.where(self.parts[column.part], self.truth[column.attribute], UNKNOWN)
        constant = np.full_like(truth, np.bincount(truth[truth != UNKNOWN]).argmax())
        return column.score(counts_by_person(truth, [constant], self.persons)[0]).value


def classes_of(attribute: str, joint: np.ndarray, labels: LabelSpace) -> np.ndarray:
    """An attribute's classes of joint classes (N,)."""
    if attribute == ANSWER:
        return joint
    return np.asarray(labels.attribute_classes(torch.from_numpy(joint))[attribute])


def write_table_without(drawn: Path, path: Path) -> None:
    """The drawn table as it would be without drawn masks: of the training faces the bare pictures alone, their mask
    unknown; the test rows as they are."""
    rows = [cells for _, cells in read_table(drawn / "labels.csv", ["path", "drawn_mask", "mask", "split"])]
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        if row["split"] == "test":
            writer.writerow(row)
        elif row["drawn_mask"] == "none":
            writer.writerow({**row, "mask": ""})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.getvalue().encode())


def train_and_predict(arm: Arm, seed: int, drawn: Path, masks: Path, weights_file: Path, output: Path) -> list[int]:
    """Trains one model to its last epoch, which is the one that answers, and returns its joint classes of the test
    rows in the order of `TestRows`."""
    values: dict[str, Any] = {
        "name": f"{arm}_{seed}",
        "seed": seed,
        "data.0.args.path": str(drawn / "labels.csv" if arm == "with" else output / "without.csv"),
        "data.0.args.root": str(drawn),
        "data.1.args.path": str(masks / "labels.csv"),
        "arch.args.model_name": "mobilenetv2_100",
        "arch.args.weights_file": str(weights_file),
        "lr_scheduler.args.max_lr": MAX_LR,
        "trainer.epochs": EPOCHS[arm],
        "trainer.save_dir": str(output),
        "trainer.monitor": "off",
        "trainer.save_best": [],
        "trainer.tensorboard": False,
        "submit_dir": str(output / "predicted"),
    }
    sets = [word for key, value in values.items() for word in ("--set", f"{key}={as_flag(value)}")]
    trained = train.main(["-c", str(CONFIG), "--resume", "auto", *sets])
    assert trained is not None
    submission = test.main(
        ["--resume", str(trained.folders.models), "--checkpoint", "last", "--split", "test"]
    ).submission
    labels = read_origin(submission)
    assert labels is not None
    answers = read_answers(submission, labels, complete=True)
    rows = TestRows(sources(drawn, masks), labels)
    joint = align(answers, rows.names, masks / "labels.csv").joint
    assert joint is not None
    return [int(number) for number in joint.tolist()]


def sources(drawn: Path, masks: Path) -> list[AttributeTable]:
    """The tables of the model with drawn masks."""
    columns: dict[str, str | None] = {"gender": None, "age": None}
    return [
        AttributeTable(str(drawn / "labels.csv")),
        AttributeTable(str(masks / "labels.csv"), columns=columns, persons="own"),
    ]


def measure(
    drawn: Path, masks: Path, weights_file: Path, output: Path, seeds: int, progress: Callable[[str], None]
) -> dict[Arm, dict[str, list[int]]]:
    """By arm and seed the joint classes of the test rows; what is not in `output` yet is trained now."""
    file = output / "results.json"
    write_table_without(drawn, output / "without.csv")
    predicted: dict[Arm, dict[str, list[int]]] = {"with": {}, "without": {}}
    if file.exists():
        predicted = json.loads(file.read_text(encoding="utf-8"))
    for seed in range(1, seeds + 1):
        for arm in EPOCHS:
            if str(seed) not in predicted[arm]:
                progress(f"{arm} drawn masks, seed {seed}")
                predicted[arm][str(seed)] = train_and_predict(arm, seed, drawn, masks, weights_file, output)
                write_atomically(file, json.dumps(predicted).encode())
    return predicted


def markdown(rows: TestRows, predicted: dict[Arm, dict[str, list[int]]], labels: LabelSpace) -> str:
    """The table: mean over the seeds [95 % by persons] ± standard deviation over the seeds."""
    seeds = [seed for seed in predicted["with"] if seed in predicted["without"]]
    lines = [
        f"| {len(seeds)} seeds | persons, images | majority | with drawn masks | without | difference |",
        "|---|---|---|---|---|---|",
    ]
    for column in COLUMNS:
        models = [np.array(predicted[arm][seed]) for arm in ("with", "without") for seed in seeds]
        counts = rows.counts(column, models, labels)
        sides = (counts[: len(seeds)], counts[len(seeds) :])
        cells = []
        for side in sides:
            scores = [column.score(each) for each in side]
            cells.append(Figure([score.value for score in scores], Score.mean(scores).interval()).text())
        found = difference(sides[1], sides[0], column.kind)
        gains = [column.score(a).value - column.score(b).value for a, b in zip(*sides, strict=True)]
        gain = Figure(gains, found.interval, found.is_decided).text("+")
        known = rows.parts[column.part] & (rows.truth[column.attribute] != UNKNOWN)
        sizes = f"{len(np.unique(rows.persons[known]))}, {known.sum()}"
        cells = [column.title, sizes, f"{rows.majority(column):.3f}", *cells, gain]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """The command. Raises ConfigError, and whatever training raises."""
    parser = CommandLine(prog="python -m benchmarks.drawn_masks", description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--drawn", type=Path, required=True, help="what scripts.draw_masks made of a table with a split")
    add("--masks", type=Path, required=True, help="a folder with labels.csv (path,person,mask,split)")
    add("--weights-file", type=Path, required=True, help="ImageNet weights of mobilenetv2_100")
    add("--seeds", type=int, default=3, help="how many times each is trained (default 3)")
    add("--output", type=Path, default=Path("saved/drawn_masks"), help="for the runs and results.json")
    given = parser.parse(argv)
    if given.seeds < 1:
        raise ConfigError(f"--seeds {given.seeds}: must be at least 1")
    given.output.mkdir(parents=True, exist_ok=True)
    predicted = measure(
        given.drawn,
        given.masks,
        given.weights_file,
        given.output,
        given.seeds,
        lambda line: print(line, file=sys.stderr),
    )
    labels = ConfigParser.from_file(CONFIG, SECTIONS).build("labels")
    print(markdown(TestRows(sources(given.drawn, given.masks), labels), predicted, labels))


if __name__ == "__main__":
    run_and_exit(main)
