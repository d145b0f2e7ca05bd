"""Out-of-fold predictions: those of each image by the one fold's model that did not train on it."""

from __future__ import annotations

import csv
import logging
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from base.label_space import LabelSpace
from data_loader.records import LabelTable, Record
from data_loader.records.image_check import CHECKED_IMAGES_FILE, check_images
from data_loader.records.tables import as_cell
from inference.evaluation import SetScores, evaluate_classes
from inference.predictor import Predictor, Probabilities, find_checkpoint
from inference.submission import write_csv
from inference.tta_presets import PRESETS
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
        lines = [f"fold {number}: {_short(scores)}" for number, scores in enumerate(self.by_fold)]
        for score in self.together:
            of_folds = [row for scores in self.by_fold for row in scores if row.name == score.name]
            macro_f1 = _mean_and_spread([row.macro_f1 for row in of_folds])
            accuracy = _mean_and_spread([row.accuracy for row in of_folds])
            lines.append(f"{score.name}: over {len(of_folds)} folds macro F1 {macro_f1}, accuracy {accuracy}")
        return [*lines, "all images, each predicted by the fold that did not train on it:", *map(str, self.together)]

    def __str__(self) -> str:
        if not self.together:
            return f"{len(self.by_fold)} folds"
        scores, answer = [fold[0].macro_f1 for fold in self.by_fold if fold], self.together[0]
        return (
            f"{len(self.by_fold)} folds, {answer.name} macro F1 {_mean_and_spread(scores)}, all images together "
            f"{answer.macro_f1:.4f}"
        )


def _mean_and_spread(values: Sequence[float]) -> str:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.4f} +- {spread:.4f}"


def _short(scores: Sequence[SetScores]) -> str:
    return ", ".join(f"{row.name} macro F1 {row.macro_f1:.4f} accuracy {row.accuracy:.4f}" for row in scores)


def predict_fold(folders: RunFolders, images: LabelTable, device: torch.device) -> LabelTable:
    """Writes what the fold's best checkpoint predicts of its validation images, unless that file exists.

    Returns the images that it predicts: all but those that training skipped as unreadable."""
    file = folders.models / OUT_OF_FOLD_FILE
    predictor = Predictor.from_checkpoint(find_checkpoint(folders.models), device, PRESETS["none"])
    if predictor.config["data_loader"]["args"].get("on_bad_image") == "skip":
        remembered = None if predictor.save_dir is None else predictor.save_dir / CHECKED_IMAGES_FILE
        paths, bits = [record.path for record in images.records], predictor.preprocessing.bits_used_of_16
        bad = set(check_images(paths, remembered, "skip", bits))
        images = images.without(bad)
    records, labels = images.records, images.label_space
    if distributed.is_main_process() and not _is_whole(file, records, folders.fold, labels):
        if file.exists():
            logger.warning("%s: is not what this fold predicts of its images; it is made anew", file)
        table = torch.cat(list(predictor.predict(records).by_head.values()), dim=1)
        rows = [
            [*_key(record, folders.fold), *(f"{value:.9g}" for value in row)]  # exact for a float32
            for record, row in zip(records, table.tolist(), strict=True)
        ]
        write_csv(file, _header(labels), rows)
    distributed.barrier()
    return images


def join_folds(run: RunFolders, images_by_fold: Sequence[LabelTable]) -> FoldScores:
    """Puts the folds' files together to the run's, in order of folds, and scores them against the known labels.

    images_by_fold: of each fold, the images that its file predicts. Where sources call several images alike, the
    run's file has their paths for ids."""
    rows = [row for fold in range(len(images_by_fold)) for row in _read(run.of_fold(fold).models / OUT_OF_FOLD_FILE)]
    labels = images_by_fold[0].label_space
    records = [record for images in images_by_fold for record in images.records]
    names = [record.name for record in records]
    if distributed.is_main_process():
        ids = names if len(set(names)) == len(names) else [short_path(record.path) for record in records]
        write_csv(
            run.models / OUT_OF_FOLD_FILE, _header(labels), [[i, *row[1:]] for i, row in zip(ids, rows, strict=True)]
        )
    distributed.barrier()
    known = {
        name: torch.cat([images.scoring_targets[name] for images in images_by_fold])
        for name in labels.predicted_attributes
    }
    joint, classes = _classes(labels, rows)
    persons = [record.person for record in records]
    fold_of = torch.tensor([int(row[2]) for row in rows])
    return FoldScores(
        [_scores(labels, joint, classes, known, persons, fold_of == fold) for fold in range(len(images_by_fold))],
        _scores(labels, joint, classes, known, persons, torch.ones_like(fold_of, dtype=torch.bool)),
    )


def _header(labels: LabelSpace) -> list[str]:
    classes = [f"{name} {known}" for name, head in labels.heads.items() for known in head.class_names]
    return ["id", "person", "fold", *classes]


def _key(record: Record, fold: int | None) -> list[str]:
    return [as_cell(record.name), as_cell(record.person), str(fold)]


def _is_whole(file: Path, records: Sequence[Record], fold: int | None, labels: LabelSpace) -> bool:
    """Whether the file has a row of probabilities for each record, and no other."""
    header = _header(labels)
    try:
        with file.open(newline="", encoding="utf-8") as stream:
            found = list(csv.reader(stream))
        return (
            found[:1] == [header]
            and [row[:3] for row in found[1:]] == [_key(record, fold) for record in records]
            and all(len(row) == len(header) and all(0 <= float(value) <= 1 for value in row[3:]) for row in found[1:])
        )
    except (OSError, ValueError, csv.Error):
        return False


def _classes(labels: LabelSpace, rows: Sequence[Sequence[str]]) -> tuple[Tensor | None, dict[str, Tensor]]:
    """The joint class, where there is one, and each attribute's class that are likeliest by the rows."""
    table = torch.tensor([[float(value) for value in row[3:]] for row in rows])
    columns = table.split(list(labels.num_classes.values()), dim=1)
    predicted = Probabilities.of_heads(labels, dict(zip(labels.heads, columns, strict=True)))
    joint = None if predicted.joint is None else predicted.joint.argmax(dim=1)
    return joint, {name: values.argmax(dim=1) for name, values in predicted.by_attribute.items()}


def _scores(
    labels: LabelSpace,
    joint: Tensor | None,
    classes: dict[str, Tensor],
    known: dict[str, Tensor],
    persons: Sequence[str],
    chosen: Tensor,
) -> list[SetScores]:
    return evaluate_classes(
        labels,
        None if joint is None else joint[chosen],
        {name: own[chosen] for name, own in classes.items()},
        {name: target[chosen] for name, target in known.items()},
        [person for person, is_chosen in zip(persons, chosen.tolist(), strict=True) if is_chosen],
    )


def _read(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))[1:]
