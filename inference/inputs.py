"""The images that are predicted, and what is known of them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from base.label_space import LabelSpace
from data_loader import splits
from data_loader.records import LabelTable, Record, read_records, sources
from data_loader.records.image_check import CHECKED_IMAGES_FILE, check_images
from data_loader.records.sources import read_evaluation_folder
from inference.members import EnsembleMember
from inference.out_of_fold import OUT_OF_FOLD_FILE
from inference.predictor import Predictor
from inference.submission import align, read_answers
from utils.config.sections import exported
from utils.errors import CheckpointError, ConfigError, DataError

logger = logging.getLogger(__name__)

EVALUATION_TABLE, TRAINING_TABLE = "info.csv", "train.csv"


def choose_records(members: Sequence[EnsembleMember], info_dir: str | None, side: str | None) -> list[Record]:
    """The images to predict: those of an evaluation folder, or of a side of the split that the models' runs made. All
    of them are sound.

    info_dir: the evaluation folder; None: that of the models' configs.
    side: "train", "validation" or "test"; None: the evaluation folder, or "test" where there is none.

    Raises ConfigError where the runs' sides differ: some model has trained on what another is validated with."""
    predictor = members[0].predictor
    folder = evaluation_folder(members, info_dir) if side is None else None
    if folder is not None:
        logger.info("images to predict: %s", folder)
        return _sound(predictor, read_evaluation_folder(folder), asked=True)
    asked, side = side is None, side or "test"
    _refuse_folds(members, side)
    for member in members:
        if lacking := {"data", "split"} - member.predictor.config.keys():
            raise CheckpointError(f"{member.path}: its config lacks {', '.join(sorted(lacking))}; name --info-dir")
    records = _side(predictor, side)
    for member in members[1:]:
        if _paths(_side(member.predictor, side)) != _paths(records):
            raise ConfigError(
                f"--split {side}: {members[0].path} and {member.path} divided their images otherwise, so one may have "
                "trained on what the other is scored with; name --info-dir, or one of them"
            )
    return _sound(predictor, records, asked)


def evaluation_folder(members: Sequence[EnsembleMember], info_dir: str | None) -> str | None:
    """`info_dir`, or the folder that the configs name. Raises ConfigError where they name different ones, or not all
    name one: the images of one data set are not what a model of another was made for."""
    if info_dir is not None:
        return info_dir
    folders = {member.path: member.predictor.config.get("info_dir") or None for member in members}
    if len(set(folders.values())) > 1:
        named = ", ".join(f"{path} {folder or 'names none'}" for path, folder in folders.items())
        raise ConfigError(
            f"the models' configs name different info_dirs ({named}); say which with --info-dir or --split"
        )
    return next(iter(folders.values()))


def files_read(
    members: Sequence[EnsembleMember], info_dir: str | None, side: str | None, answers: str | None
) -> list[Path]:
    """The files that answers are made of, which nothing may be written over: the checkpoints, and the tables of the
    images, of the data that the models were trained with, and of the true answers."""
    folder = evaluation_folder(members, info_dir) if side is None else None
    tables = [Path(folder) / EVALUATION_TABLE] if folder is not None else []
    if answers is not None:
        tables.append(Path(answers))
    for member in members:
        for source in member.predictor.config.get("data", []):
            arguments = source["args"]
            table, root = arguments.get("path"), arguments.get("root")
            tables += [Path(table)] if table else []
            tables += [Path(root) / TRAINING_TABLE] if root else []
        fixes = member.predictor.config.get("label_fixes")
        tables += [Path(fixes)] if fixes else []
    return [*tables, *(member.path for member in members)]


@dataclass(frozen=True)
class Truth:
    """What is known of the images: by attribute the true classes, (N,) int64, -1 = unknown; and whose they are."""

    classes: dict[str, Tensor]
    persons: list[str]


def read_truth(answers: str | None, labels: LabelSpace, records: Sequence[Record]) -> Truth:
    """What the table `answers` tells of the records; without it, what they know themselves. Raises DataError."""
    if answers is None:
        return Truth(LabelTable.from_records(records, labels).scoring_targets, [record.person for record in records])
    table = align(read_answers(Path(answers), labels), [record.name for record in records], "the images to predict")
    return Truth(table.classes, table.persons or table.ids)


def _side(predictor: Predictor, side: str) -> list[Record]:
    """Raises DataError where the data no longer divides as it did when the model was trained."""
    config, labels = predictor.config, predictor.labels
    built = [exported(sources)[spec["type"]](**spec["args"]) for spec in config["data"]]
    rule = exported(splits)[config["split"]["type"]](**config["split"]["args"])
    if isinstance(rule, splits.KFoldSplit) and rule.fold is None:
        raise ConfigError(
            f"--split {side}: the model's split has {rule.folds} folds, and it is of none of them; name --info-dir"
        )
    fixes = config.get("label_fixes")
    known = read_records(built, labels, Path(fixes) if fixes else None)
    divided = rule.divide(known, config.get("seed", 42))
    if predictor.split_digest is None:
        logger.warning("--split %s: nothing tells which images the model was trained on; it may know these", side)
    elif predictor.split_digest != divided.digest():
        raise DataError(
            f"--split {side}: the images, their labels or the sides of the split are not those that the model was "
            "trained with (the sources, their tables, or label_fixes have changed since); put them back, or name "
            "--info-dir"
        )
    records: list[Record] = getattr(divided, side).records
    if not records:
        raise ConfigError(f"--split {side}: the run's data has no {side} images; name --info-dir or another --split")
    return records


def _paths(records: Sequence[Record]) -> set[Path]:
    return {record.path for record in records}


def _refuse_folds(members: Sequence[EnsembleMember], side: str) -> None:
    for member in members:
        if member.run_of_folds is not None and side == "validation":
            run = member.run_of_folds
            raise ConfigError(
                f"--split validation: {run} is a run of folds, and each of its images has trained all folds but one; "
                f"the predictions of the fold that did not see them are in {run / OUT_OF_FOLD_FILE}; or name one fold: "
                f"--resume {member.path.parent}"
            )


def _sound(predictor: Predictor, records: list[Record], asked: bool) -> list[Record]:
    """All records, every image of them sound. Those that training skipped are skipped again; where each image must have
    an answer, a bad one is an error."""
    remembered = None if predictor.save_dir is None else predictor.save_dir / CHECKED_IMAGES_FILE
    paths, bits = [record.path for record in records], predictor.preprocessing.bits_used_of_16
    if asked:
        remedy = "repair them: every image must have an answer"
        check_images(paths, remembered, bits_used_of_16=bits, remedy=remedy)
        return records
    policy = predictor.loader_arguments.get("on_bad_image", "refuse")
    bad = set(check_images(paths, remembered, policy, bits))
    return [record for record in records if record.path not in bad]
