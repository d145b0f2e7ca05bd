"""The images that are judged, and what is known of them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from base.label_space import LabelSpace
from data_loader import splits
from data_loader.records import sources
from data_loader.records.image_check import CHECKED_IMAGES_FILE, check_images
from data_loader.records.records import Record, read_records
from data_loader.records.sources import read_evaluation_folder
from inference.members import Part
from inference.out_of_fold import OUT_OF_FOLD_FILE
from inference.predictor import Predictor
from inference.submission import Answers, align, read_answers
from parse_config import listed
from utils.errors import CheckpointError, ConfigError, DataError

logger = logging.getLogger(__name__)

EVALUATION_TABLE, TRAINING_TABLE = "info.csv", "train.csv"


def choose_records(parts: Sequence[Part], info_dir: str | None, side: str | None) -> list[Record]:
    """The evaluation folder `info_dir`, or that of the first config that names one; or the `side` ("train", ...) of the
    split that the models' runs have made. All images are sound.

    Raises ConfigError where the runs' sides differ: some model has trained on what another is validated with."""
    predictor = parts[0].predictor
    folder = evaluation_folder(parts, info_dir) if side is None else None
    if folder is not None:
        logger.info("images to judge: %s", folder)
        return _sound(predictor, read_evaluation_folder(folder), asked=True)
    asked, side = side is None, side or "test"
    _refuse_folds(parts, side)
    for part in parts:
        if lacking := {"data", "split"} - part.predictor.config.keys():
            raise CheckpointError(f"{part.path}: its config lacks {', '.join(sorted(lacking))}; name --info-dir")
    records = _side(predictor, side)
    for part in parts[1:]:
        if _paths(_side(part.predictor, side)) != _paths(records):
            raise ConfigError(
                f"--split {side}: {parts[0].path} and {part.path} divided their images otherwise, so one may have "
                "trained on what the other is scored with; name --info-dir, or one of them"
            )
    return _sound(predictor, records, asked)


def evaluation_folder(parts: Sequence[Part], info_dir: str | None) -> str | None:
    """`info_dir`, or the folder that the first config names which names one."""
    configured = (part.predictor.config.get("info_dir") for part in parts)
    return info_dir or next((folder for folder in configured if folder), None)


def files_read(parts: Sequence[Part], info_dir: str | None, side: str | None, answers: str | None) -> list[Path]:
    """The files that an answer is made of, which no answer may be written over: the checkpoints, and the tables of the
    images, of the data that they were trained with, and of the true answers."""
    folder = evaluation_folder(parts, info_dir) if side is None else None
    tables = [Path(folder) / EVALUATION_TABLE] if folder is not None else []
    if answers is not None:
        tables.append(Path(answers))
    for part in parts:
        for source in part.predictor.config.get("data", []):
            arguments = source.get("args", {})
            table, root = arguments.get("path"), arguments.get("root")
            tables += [Path(table)] if table else []
            tables += [Path(root) / TRAINING_TABLE] if root else []
        fixes = part.predictor.config.get("label_fixes")
        tables += [Path(fixes)] if fixes else []
    return [*tables, *(part.path for part in parts)]


def read_truth(answers: str | None, labels: LabelSpace, records: Sequence[Record]) -> Answers | None:
    """What the table `answers` says of the records, in their order. Raises DataError."""
    if answers is None:
        return None
    path = Path(answers)
    return align(read_answers(path, labels.num_joint_classes), [record.name for record in records], path)


def known_classes(labels: LabelSpace, records: Sequence[Record], truth: Answers | None) -> dict[str, Tensor]:
    """By attribute, the true classes (N,): what the table says, or what the records know themselves; -1 = unknown."""
    if truth is not None:
        return labels.attribute_classes(truth.answers)
    return labels.known_targets([record.attributes for record in records])


def persons_of(records: Sequence[Record], truth: Answers | None) -> list[str]:
    """Whose images they are, as far as it is told; else each stands alone."""
    return [record.person for record in records] if truth is None else truth.persons or truth.ids


def _side(predictor: Predictor, side: str) -> list[Record]:
    """Raises DataError where the data no longer divides as it did when the model was trained."""
    config, labels = predictor.config, predictor.labels
    built = [listed(sources)[spec["type"]](**spec.get("args", {})) for spec in config["data"]]
    rule = listed(splits)[config["split"]["type"]](**config["split"].get("args", {}))
    if isinstance(rule, splits.KFoldSplit) and rule.fold is None:
        raise ConfigError(
            f"--split {side}: the model's split has {rule.folds} folds, and it is of none of them; name --info-dir"
        )
    fixes = config.get("label_fixes")
    known = read_records(built, labels, Path(fixes) if fixes else None)
    divided = rule.divide(known, labels, config.get("seed", 42))
    if predictor.split_digest is None:
        logger.warning("--split %s: nothing tells which images the model was trained on; it may know these", side)
    elif predictor.split_digest != divided.digest(labels):
        raise DataError(
            f"--split {side}: the images, their labels or the sides of the split are not those that the model was "
            "trained with (the sources, their tables, or label_fixes have changed since); put them back, or name "
            "--info-dir"
        )
    records: list[Record] = getattr(divided, side)
    if not records:
        raise ConfigError(f"--split {side}: the run's data has no {side} images; name --info-dir or another --split")
    return records


def _paths(records: Sequence[Record]) -> set[Path]:
    return {record.path.absolute() for record in records}


def _refuse_folds(parts: Sequence[Part], side: str) -> None:
    for part in parts:
        if part.run_of_folds is not None and side == "validation":
            run = part.run_of_folds
            raise ConfigError(
                f"--split validation: {run} is a run of folds, and each of its images has trained all folds but one; "
                f"what the one fold says that did not see them is in {run / OUT_OF_FOLD_FILE}; or name one fold: "
                f"--resume {part.path.parent}"
            )


def _sound(predictor: Predictor, records: list[Record], asked: bool) -> list[Record]:
    """All records, every image of them sound. Those that training left out are left out of its split again; where an
    answer is asked for each image, a bad one is an error."""
    remembered = None if predictor.save_dir is None else predictor.save_dir / CHECKED_IMAGES_FILE
    paths = [record.path for record in records]
    if asked:
        check_images(paths, remembered, remedy="repair them: every image must have an answer")
        return records
    policy = predictor.config.get("data_loader", {}).get("args", {}).get("on_bad_image", "refuse")
    bad = set(check_images(paths, remembered, policy))
    return [record for record in records if record.path not in bad]
