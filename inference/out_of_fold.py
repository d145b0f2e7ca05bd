"""Out-of-fold predictions: those of each image by the one fold's model that did not train on it."""

from __future__ import annotations

import csv
import logging
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from base.label_space import LabelSpace
from data_loader.records import LabelTable, Record
from data_loader.records.tables import as_cell
from inference.evaluation import SetScores, classifications, evaluate, with_interval
from inference.predictor import Predictor, Probabilities, find_checkpoint
from inference.submission import write_csv
from inference.tta import PRESETS
from utils import distributed
from utils.files import short_path
from utils.run_folders import RunFolders

logger = logging.getLogger(__name__)

OUT_OF_FOLD_FILE = "out_of_fold.csv"
"""id, person, fold, then each head's probability of each of its training classes; in a fold's folder its own images, in
the run's those of all folds."""


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


def predict_fold(folders: RunFolders, images: LabelTable, device: torch.device) -> LabelTable:
    """Writes what the fold's best checkpoint predicts of its validation images, unless that file exists.

    Returns the images that it predicts: all but those that training skipped as unreadable."""
    file = folders.models / OUT_OF_FOLD_FILE
    predictor = Predictor.from_checkpoint(find_checkpoint(folders.models), device, PRESETS["none"])
    if predictor.loader_arguments["on_bad_image"] == "skip":
        images = images.without(predictor.find_unreadable(images.records, "skip"))
    keys = [[as_cell(record.name), as_cell(record.person), str(folders.fold)] for record in images.records]
    if distributed.is_main_process() and not _is_complete(file, images.label_space, keys):
        if file.exists():
            logger.warning("%s: is not what this fold predicts of its images; it is written again", file)
        table = torch.cat(list(predictor.predict(images.records).by_head.values()), dim=1)
        values = [[f"{value:.9g}" for value in row] for row in table.tolist()]  # exact for a float32
        write_csv(file, _header(images.label_space), [key + row for key, row in zip(keys, values, strict=True)])
    distributed.barrier()
    return images


def join_folds(run: RunFolders, images_by_fold: Sequence[LabelTable]) -> FoldScores:
    """Joins the folds' files to the run's, in order of folds, and scores them against the known labels.

    images_by_fold: of each fold, the images that its file predicts

    Where sources have images of the same name, the run's file has their paths for ids."""
    labels = images_by_fold[0].label_space
    rows_by_fold = [
        read_rows(run.of_fold(fold).models / OUT_OF_FOLD_FILE, labels) for fold in range(len(images_by_fold))
    ]
    rows = [row for rows in rows_by_fold for row in rows]
    records = [record for images in images_by_fold for record in images.records]
    if distributed.is_main_process():
        names = [record.name for record in records]
        ids = names if len(set(names)) == len(names) else [short_path(record.path) for record in records]
        joined = [[name, *row[1:]] for name, row in zip(ids, rows, strict=True)]
        write_csv(run.models / OUT_OF_FOLD_FILE, _header(labels), joined)
    distributed.barrier()
    return FoldScores(
        [_scores(labels, each, images.records) for each, images in zip(rows_by_fold, images_by_fold, strict=True)],
        _scores(labels, rows, records),
    )


def read_rows(file: Path, labels: LabelSpace) -> list[list[str]]:
    """The rows of a file of out-of-fold predictions. Raises OSError, or ValueError where it is not one of `labels`."""
    with file.open(newline="", encoding="utf-8") as stream:
        header, *rows = csv.reader(stream)
    if header != _header(labels) or any(len(row) != len(header) for row in rows):
        raise ValueError(f"{file}: does not hold out-of-fold predictions of these heads")
    return rows


def _header(labels: LabelSpace) -> list[str]:
    classes = [f"{name} {known}" for name, head in labels.heads.items() for known in head.class_names]
    return ["id", "person", "fold", *classes]


def _is_complete(file: Path, labels: LabelSpace, keys: Sequence[Sequence[str]]) -> bool:
    try:
        return [row[:3] for row in read_rows(file, labels)] == keys
    except (OSError, ValueError, csv.Error):
        return False


def _scores(labels: LabelSpace, rows: Sequence[Sequence[str]], records: Sequence[Record]) -> list[SetScores]:
    table = torch.tensor([[float(value) for value in row[3:]] for row in rows])
    columns = table.split(list(labels.num_classes.values()), dim=1)
    predicted = Probabilities.from_heads(labels, dict(zip(labels.heads, columns, strict=True)))
    joint = None if predicted.joint is None else predicted.joint.argmax(dim=1)
    classes = {name: table.argmax(dim=1) for name, table in predicted.by_attribute.items()}
    found = classifications(labels, joint, classes, LabelTable.from_records(records, labels).scoring_targets)
    return evaluate(labels, found, [record.person for record in records])
