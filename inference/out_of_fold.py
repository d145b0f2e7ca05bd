"""Out-of-fold predictions: those of each image by a model that did not train on it. In a run of folds that is each
image's fold, in another run the validation images' one model."""

from __future__ import annotations

import csv
import logging
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from base.batch import UNKNOWN
from base.label_space import LabelSpace
from data_loader.records import LabelTable
from data_loader.records.tables import as_cell, from_cell
from inference.predictor import Predictor, Probabilities, find_checkpoint
from inference.scoring.evaluation import SetScores, classifications, evaluate, with_interval
from inference.submission import TRUE, write_csv
from inference.tta import PRESETS
from utils import distributed
from utils.files import short_path
from utils.run_folders import RunFolders

logger = logging.getLogger(__name__)

OUT_OF_FOLD_FILE = "out_of_fold.csv"
"""A `PredictionTable`; in a fold's folder of its own images, in the run's of all."""

KEYS = ["id", "person", "fold"]
SUM_TOLERANCE = 1e-3
"""How far from 1 the probabilities of a head may add up to, in half precision too. A damaged digit is further off."""


@dataclass(frozen=True)
class PredictionTable:
    """What models predict of N images that they did not train on, and what is known of them.

    ids, persons: (N,)
    folds: (N,) int64; -1 where the run has none
    by_head: probabilities (N, C) float32 over each head's training classes
    truth: by predicted attribute the scored class, (N,) int64, -1 = unknown

    As CSV: id, person, fold, a column "<head> <class>" for each probability, and "true <attribute>" with the classes'
    names, empty where unknown.
    """

    labels: LabelSpace
    ids: list[str]
    persons: list[str]
    folds: Tensor
    by_head: dict[str, Tensor]
    truth: dict[str, Tensor]

    @classmethod
    def of(cls, images: LabelTable, fold: int | None, by_head: Mapping[str, Tensor]) -> PredictionTable:
        """What one model predicts of all `images`."""
        names = [record.name for record in images.records]
        persons = [record.person for record in images.records]
        folds = torch.full((len(images),), UNKNOWN if fold is None else fold)
        return cls(images.label_space, names, persons, folds, dict(by_head), images.scoring_targets)

    @classmethod
    def joined(cls, tables: Sequence[PredictionTable]) -> PredictionTable:
        """The rows of several, one after another."""

        def by_name(dicts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
            return {name: torch.cat([each[name] for each in dicts]) for name in dicts[0]}

        return cls(
            tables[0].labels,
            [name for table in tables for name in table.ids],
            [person for table in tables for person in table.persons],
            torch.cat([table.folds for table in tables]),
            by_name([table.by_head for table in tables]),
            by_name([table.truth for table in tables]),
        )

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: Sequence[int]) -> PredictionTable:
        """The table of some rows, by number."""
        return PredictionTable(
            self.labels,
            [self.ids[row] for row in rows],
            [self.persons[row] for row in rows],
            self.folds[rows],
            {name: table[rows] for name, table in self.by_head.items()},
            {name: classes[rows] for name, classes in self.truth.items()},
        )

    def write(self, file: Path) -> None:
        """Raises ConfigError, or StorageFullError, where it cannot be written."""
        folds = ["" if fold == UNKNOWN else str(fold) for fold in self.folds.tolist()]
        numbers = torch.cat(list(self.by_head.values()), dim=1).tolist()
        names = {name: [*attribute.class_names, ""] for name, attribute in self.labels.predicted_attributes.items()}
        truth = [[names[name][number] for number in self.truth[name].tolist()] for name in names]  # -1 is the last: ""
        rows = zip(self.ids, self.persons, folds, numbers, zip(*truth, strict=True), strict=True)
        write_csv(
            file,
            _header(self.labels),
            [[*keys, *(f"{value:.9g}" for value in row), *true] for *keys, row, true in rows],  # exact for a float32
        )

    @classmethod
    def read(cls, file: Path, labels: LabelSpace) -> PredictionTable:
        """A file that `write` has made; one of an earlier version has no truth, all of it is then unknown.

        Raises OSError, or ValueError where it is not one of `labels`."""
        with file.open(newline="", encoding="utf-8") as stream:
            header, *rows = [*csv.reader(stream)] or [[]]
        expected, attributes = _header(labels), labels.predicted_attributes
        has_truth = header == expected
        width = len(expected) - len(attributes)
        if not (has_truth or header == expected[:width]) or any(len(row) != len(header) for row in rows):
            raise ValueError(f"{file}: does not hold out-of-fold predictions of these heads")
        numbers = torch.tensor([[float(value) for value in row[len(KEYS) : width]] for row in rows])
        columns = numbers.reshape(len(rows), -1).split(list(labels.num_classes.values()), dim=1)
        if not all(((column.sum(dim=1) - 1).abs() < SUM_TOLERANCE).all() for column in columns):
            raise ValueError(f"{file}: holds what are no probabilities: some do not add up to 1")
        truth = {}
        for column, (name, attribute) in enumerate(attributes.items(), start=width):
            known = {as_cell(text): number for number, text in enumerate(attribute.class_names)} | {"": UNKNOWN}
            cells = [row[column] for row in rows] if has_truth else [""] * len(rows)
            if not known.keys() >= set(cells):
                raise ValueError(f"{file}: true {name} holds what is no class of it")
            truth[name] = torch.tensor([known[cell] for cell in cells], dtype=torch.int64)
        return cls(
            labels,
            [from_cell(row[0]) for row in rows],
            [from_cell(row[1]) for row in rows],
            torch.tensor([int(row[2] or UNKNOWN) for row in rows], dtype=torch.int64),
            dict(zip(labels.heads, columns, strict=True)),
            truth,
        )

    def scores(self) -> list[SetScores]:
        predicted = Probabilities.from_heads(self.labels, self.by_head)
        joint = None if predicted.joint is None else predicted.joint.argmax(dim=1)
        classes = {name: table.argmax(dim=1) for name, table in predicted.by_attribute.items()}
        return evaluate(self.labels, classifications(self.labels, joint, classes, self.truth), self.persons)


@dataclass(frozen=True)
class FoldScores:
    """The scores of each fold on its own validation images, and of all of them together."""

    by_fold: list[list[SetScores]]
    together: list[SetScores]

    def lines(self) -> list[str]:
        """A table: a row for each fold, mean and standard deviation over the folds, and all images together."""
        lines = []
        for number, scores in enumerate(self.by_fold):
            rows = [
                f"{row.name} macro F1 {with_interval(row.macro_f1, row.interval)} "
                f"accuracy {with_interval(row.accuracy, row.accuracy_interval)}"
                for row in scores
            ]
            lines.append(f"fold {number}: {', '.join(rows)}")
        for score in self.together:
            folds = [row for scores in self.by_fold for row in scores if row.name == score.name]
            macro_f1 = _mean_and_deviation([row.macro_f1 for row in folds])
            accuracy = _mean_and_deviation([row.accuracy for row in folds])
            lines.append(f"{score.name}: over {len(folds)} folds macro F1 {macro_f1}, accuracy {accuracy}")
        return [*lines, "all images, each predicted by the fold that did not train on it:", *map(str, self.together)]

    def __str__(self) -> str:
        if not self.together:
            return f"{len(self.by_fold)} folds"
        macro_f1 = _mean_and_deviation([scores[0].macro_f1 for scores in self.by_fold if scores])
        first = self.together[0]
        together = with_interval(first.macro_f1, first.interval)
        return f"{len(self.by_fold)} folds, {first.name} macro F1 {macro_f1}, all images together {together}"


def _mean_and_deviation(values: Sequence[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.4f} +- {deviation:.4f}"


def predict_validation(
    folders: RunFolders, images: LabelTable, device: torch.device
) -> tuple[LabelTable, PredictionTable]:
    """The validation images of a run or a fold, but those that training skipped as unreadable, and what its best
    checkpoint predicts of them: kept in OUT_OF_FOLD_FILE, or read where that is there."""
    file = folders.models / OUT_OF_FOLD_FILE
    predictor = Predictor.from_checkpoint(find_checkpoint(folders.models), device, PRESETS["none"])
    if predictor.loader_arguments["on_bad_image"] == "skip":
        images = images.without(predictor.find_unreadable(images.records, "skip"))
    table = _read_if_whole(file, images, folders.fold)
    distributed.barrier()  # all have looked for the file
    if table is None:
        table = PredictionTable.of(images, folders.fold, predictor.predict(images.records).by_head)
        if distributed.is_main_process():
            if file.exists():
                logger.warning("%s: is damaged, or of an earlier version; it is written again", file)
            table.write(file)
    distributed.barrier()
    return images, table


def join_folds(run: RunFolders, folds: Sequence[tuple[LabelTable, PredictionTable]]) -> FoldScores:
    """Joins the folds' tables to the run's file, in order of folds, and scores them against the known labels.

    Where sources have images of the same name, the run's file has their paths for ids."""
    joined = PredictionTable.joined([table for _, table in folds])
    if len(set(joined.ids)) < len(joined):
        joined = replace(joined, ids=[short_path(record.path) for images, _ in folds for record in images.records])
    if distributed.is_main_process():
        joined.write(run.models / OUT_OF_FOLD_FILE)
    distributed.barrier()
    return FoldScores([table.scores() for _, table in folds], joined.scores())


def _header(labels: LabelSpace) -> list[str]:
    classes = [f"{name} {known}" for name, head in labels.heads.items() for known in head.class_names]
    return [*KEYS, *classes, *(f"{TRUE}{name}" for name in labels.predicted_attributes)]


def _read_if_whole(file: Path, images: LabelTable, fold: int | None) -> PredictionTable | None:
    """The table in a file; None unless it is of exactly these images and what is known of them."""
    try:
        table = PredictionTable.read(file, images.label_space)
    except (OSError, ValueError, csv.Error):
        return None
    expected = PredictionTable.of(images, fold, table.by_head)
    is_same = (table.ids, table.persons) == (expected.ids, expected.persons)
    is_same = is_same and torch.equal(table.folds, expected.folds)
    is_same = is_same and all(torch.equal(classes, expected.truth[name]) for name, classes in table.truth.items())
    return table if is_same else None
