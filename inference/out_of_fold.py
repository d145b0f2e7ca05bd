"""Out-of-fold predictions: what each image is said to be by the one fold's model that did not train on it."""

from __future__ import annotations

import csv
import logging
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from base.batch import UNKNOWN
from base.label_space import LabelSpace
from data_loader.image_check import CHECKED_IMAGES_FILE, check_images
from data_loader.records import Record
from inference.evaluation import SetScores, evaluate_classes
from inference.predictor import Predictor, find_checkpoint
from inference.submission import write_csv
from utils import process_group
from utils.errors import DataError
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
        return [*lines, "all images, each judged by the fold that did not train on it:", *map(str, self.together)]

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


def predict_fold(folders: RunFolders, records: Sequence[Record], device: torch.device) -> None:
    """Writes what the fold's best checkpoint says of its validation images, unless that is there already."""
    file = folders.models / OUT_OF_FOLD_FILE
    if process_group.is_main_process() and not file.exists():
        predictor = Predictor.from_checkpoint(find_checkpoint(folders.models), device)
        arguments = predictor.config["data_loader"].get("args", {})
        if arguments.get("on_bad_image") == "skip":  # those that training passed over are passed over again
            remembered = folders.save_dir / CHECKED_IMAGES_FILE
            bad = set(check_images([record.path for record in records], remembered, "skip"))
            records = [record for record in records if record.path not in bad]
        probabilities = predictor.judge(records)
        header, values = ["id", "person", "fold"], []
        for head, table in probabilities.by_head.items():
            header += [f"{head} {name}" for name in predictor.labels.heads[head].class_names]
            values.append(table)
        rows = [
            [record.name, record.person, folders.fold, *(f"{value:.9g}" for value in row)]  # exact for a float32
            for record, row in zip(records, torch.cat(values, dim=1).tolist(), strict=True)
        ]
        write_csv(file, header, rows)
    process_group.barrier()


def join_folds(run: RunFolders, num_folds: int, labels: LabelSpace, records: Sequence[Record]) -> FoldScores:
    """Puts the folds' files together to the run's, in order of folds, and scores them against what the records know.

    Raises DataError for a file that is not what `predict_fold` writes for these records."""
    header: list[str] = []
    rows: list[list[str]] = []
    for fold in range(num_folds):
        header, of_fold = _read(run.of_fold(fold).models / OUT_OF_FOLD_FILE)
        rows += of_fold
    if process_group.is_main_process():
        write_csv(run.models / OUT_OF_FOLD_FILE, header, rows)
    process_group.barrier()
    by_key = {(record.name, record.person): record for record in records}
    try:
        judged = [by_key[row[0], row[1]] for row in rows]
    except KeyError as error:
        raise DataError(f"{run.models}: an {OUT_OF_FOLD_FILE} names {error}, which the data does not have") from None
    known = labels.known_targets([record.attributes for record in judged])
    answers, said = _classes(labels, rows)
    persons = [record.person for record in judged]
    fold_of = torch.tensor([int(row[2]) for row in rows])
    return FoldScores(
        [_scores(labels, answers, said, known, persons, fold_of == fold) for fold in range(num_folds)],
        _scores(labels, answers, said, known, persons, torch.ones_like(fold_of, dtype=torch.bool)),
    )


def _classes(labels: LabelSpace, rows: Sequence[Sequence[str]]) -> tuple[Tensor, dict[str, Tensor]]:
    """The combined answer and each attribute's class that the rows' probabilities say."""
    table = torch.tensor([[float(value) for value in row[3:]] for row in rows])
    parts = table.split(list(labels.num_classes.values()), dim=1)
    by_head = dict(zip(labels.heads, parts, strict=True))
    said = {name: values.argmax(dim=1) for name, values in labels.attribute_probabilities(by_head).items()}
    return labels.answer_probabilities(by_head).argmax(dim=1), said


def _scores(
    labels: LabelSpace,
    answers: Tensor,
    said: dict[str, Tensor],
    known: dict[str, Tensor],
    persons: Sequence[str],
    chosen: Tensor,
) -> list[SetScores]:
    truth = {name: target[chosen] for name, target in known.items()}
    if all((target == UNKNOWN).all() for target in truth.values()):
        return []
    own = [person for person, here in zip(persons, chosen.tolist(), strict=True) if here]
    return evaluate_classes(labels, answers[chosen], {name: s[chosen] for name, s in said.items()}, truth, own)


def _read(path: Path) -> tuple[list[str], list[list[str]]]:
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    return header, rows
