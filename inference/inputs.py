"""What test.py works on: the models that answer together, the images, and what is known of them."""

from __future__ import annotations

import logging
import re
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from base.label_space import LabelSpace
from data_loader import splits
from data_loader.records import LabelTable, Record, read_records, sources
from data_loader.records.sources import BaseSource, PseudoLabels, read_evaluation_folder
from data_loader.splits import BaseSplit
from inference.export.exported import load_predictor
from inference.out_of_fold import OUT_OF_FOLD_FILE
from inference.predictor import Predictor, find_checkpoint
from inference.submission import align, read_answers
from inference.tta import PRESETS
from utils.config.sections import exported
from utils.device import choose_device
from utils.errors import CheckpointError, ConfigError, DataError
from utils.run_folders import fold_name, fold_number, folds_in
from utils.wording import counted

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EnsembleMember:
    """One model of an ensemble.

    path: its checkpoint
    weight: in the vote
    run_of_folds: the run that it is a fold of, where --resume names the whole run
    """

    path: Path
    predictor: Predictor
    weight: float
    run_of_folds: Path | None = None

    def describe(self) -> dict[str, Any]:
        """Plain data, for the file beside a submission."""
        return {
            "checkpoint": str(self.path),
            "run": self.predictor.run_name,
            "weight": self.weight,
            "validation_digest": self.predictor.validation_digest,
        }

    @property
    def run(self) -> str:
        """<name>/<run>; of one fold alone with its name."""
        folder = self.path.resolve().parent.name
        fold = f"/{folder}" if self.run_of_folds is None and fold_number(folder) is not None else ""
        return f"{self.predictor.name}/{self.predictor.run_name}{fold}"

    @property
    def title(self) -> str:
        """<name>_<run>, with the fold where one is named alone; safe as a file name, whoever made the checkpoint."""
        folder = self.path.resolve().parent.name
        fold = f"-{folder}" if self.run_of_folds is None and fold_number(folder) is not None else ""
        return re.sub(r"[/\\\x00]", "_", f"{self.predictor.name}_{self.predictor.run_name}{fold}").lstrip(".")


def load_models(arguments: Namespace) -> list[EnsembleMember]:
    """The models that --resume names, each with a line in the log; a run of folds stands for all its folds, which
    share its weight.

    Raises ConfigError, CheckpointError."""
    tta, device = PRESETS.get(arguments.tta), choose_device(arguments.device)
    paths = [Path(path) for path in arguments.resume]
    members = []
    for path, weight in zip(paths, checked_weights(arguments.weights, len(paths)), strict=True):
        folds = folds_with_checkpoints(path)
        for folder in folds.values() or [path]:
            file = find_checkpoint(folder, arguments.checkpoint)
            model = load_predictor(file, device, tta)
            members.append(EnsembleMember(file, model, weight / max(1, len(folds)), path if folds else None))
            epochs, views = counted(model.completed_epochs, "epoch"), ", ".join(model.tta)
            logger.info("%s: %s, %s, views of each image: %s", file, model.name, epochs, views)
        number = model.config["split"]["args"].get("folds", 0)
        if folds and (missing := [fold_name(fold) for fold in range(number) if fold not in folds]):
            names = ", ".join(missing)
            logger.warning("%s: %s of its %d folds have no checkpoint yet; the others answer", path, names, number)
    return members


def checked_weights(weights: Sequence[float] | None, count: int) -> list[float]:
    """The weights of --weights, or equal ones. Raises ConfigError."""
    if weights is None:
        return [1.0] * count
    given = " ".join(f"{weight:g}" for weight in weights)
    if len(weights) != count:
        raise ConfigError(f"--weights {given}: names {len(weights)}, and --resume {count}; give one for each")
    if not all(1e-9 <= weight <= 1e9 for weight in weights):  # their sums and ratios are then ordinary numbers
        raise ConfigError(f"--weights {given}: every weight must be above 0 (1e-09 to 1e+09)")
    return list(weights)


def folds_with_checkpoints(path: Path) -> dict[int, Path]:
    """The folds of a run that hold a checkpoint; none where `path` is no run of folds. Raises CheckpointError."""
    folds = folds_in(path) if path.is_dir() else {}
    trained = {number: folder for number, folder in folds.items() if any(folder.glob("*.pth"))}
    if folds and not trained:
        raise CheckpointError(f"{path}: none of its {len(folds)} folds has a checkpoint yet")
    return trained


def choose_records(members: Sequence[EnsembleMember], info_dir: str | None, side: str | None) -> list[Record]:
    """The images to predict: those of an evaluation folder, or of a side of the split that the models' runs made. All
    of them can be read.

    info_dir: the evaluation folder; None: that of the models' configs
    side: "train", "validation" or "test"; None: the evaluation folder, or "test" where there is none

    Raises ConfigError where the runs' sides differ: some model has trained on what another is validated with."""
    predictor = members[0].predictor
    folder = evaluation_folder(members, info_dir) if side is None else None
    if folder is not None:
        logger.info("images to predict: %s", folder)
        allow_links = any(source["args"].get("allow_links") for source in predictor.sources)
        records = read_evaluation_folder(folder, allow_links)
        predictor.find_unreadable(records, "refuse")
        _warn_of_pseudo_labels(members, records)
        return records
    on_bad: Literal["refuse", "skip"] = predictor.loader_arguments["on_bad_image"] if side is not None else "refuse"
    side = side or "test"
    records = _side(predictor, side)
    paths = {record.path for record in records}
    for member in members[1:]:
        if {record.path for record in _side(member.predictor, side)} != paths:
            both = f"{members[0].path} and {member.path}"
            remedy = f"name one of them, or --info-dir (folds: see {OUT_OF_FOLD_FILE})"
            raise ConfigError(f"--split {side}: {both} divide their images differently; {remedy}")
    bad = predictor.find_unreadable(records, on_bad)
    return [record for record in records if record.path not in bad]


def _warn_of_pseudo_labels(members: Sequence[EnsembleMember], records: Sequence[Record]) -> None:
    """Of images whose answers the models have learnt guesses of."""
    for member in members:
        for source in member.predictor.sources:
            if source["type"] == PseudoLabels.__name__:
                root = Path(source["args"]["root"]).resolve()
                count = sum(record.path.resolve().is_relative_to(root) for record in records)
                if count:
                    wrong = "scores on them do not estimate how good it is on others"
                    logger.warning("%s: %d of these images are in the folder of its pseudo-labels: %s",
                                   member.path, count, wrong)  # fmt: skip


def evaluation_folder(members: Sequence[EnsembleMember], info_dir: str | None) -> str | None:
    """`info_dir`, or the folder that the models' configs name, if any. Raises ConfigError where they name different
    ones: the images of one data set are not what a model of another was made for."""
    if info_dir is not None:
        return info_dir
    folders = {member.path: member.predictor.config.get("info_dir") or None for member in members}
    if len(set(folders.values())) > 1:
        named = ", ".join(f"{path} {folder or 'names none'}" for path, folder in folders.items())
        raise ConfigError(f"the configs name different info_dirs ({named}); name one with --info-dir, or --split")
    return next(iter(folders.values()))


def files_read(members: Sequence[EnsembleMember], arguments: Namespace) -> list[Path]:
    """The files that the answers are made of, which must not be overwritten: the checkpoints, and the tables of the
    images, of the models' training data, and of the true answers."""
    folder = evaluation_folder(members, arguments.info_dir) if arguments.split is None else None
    files = [arguments.answers, arguments.decision, folder and f"{folder}/info.csv"]
    for member in members:
        files += [member.path, member.predictor.config.get("label_fixes")]
        for source in member.predictor.sources:
            files.append(source["args"].get("path") or f"{source['args'].get('root')}/train.csv")
    return [Path(file) for file in files if file]


def read_truth(
    answers: str | None, labels: LabelSpace, records: Sequence[Record]
) -> tuple[dict[str, Tensor], list[str]]:
    """What is known of the records: by attribute the true classes, (N,) int64, -1 = unknown; and the persons.

    answers: a table of true answers; None: what the records know themselves

    Raises DataError."""
    if answers is None:
        return LabelTable.from_records(records, labels).scoring_targets, [record.person for record in records]
    table = align(read_answers(Path(answers), labels), [record.name for record in records], "the images to predict")
    return table.classes, table.persons or table.ids


def _side(predictor: Predictor, side: str) -> list[Record]:
    """Raises DataError where the data is no longer divided as when the model was trained."""
    config, labels = predictor.config, predictor.labels
    fixes = config.get("label_fixes")
    with predictor.plugins():
        built = [exported(sources, BaseSource)[spec["type"]](**spec["args"]) for spec in predictor.sources]
        rule = exported(splits, BaseSplit)[config["split"]["type"]](**config["split"]["args"])
        table = read_records(built, labels, Path(fixes) if fixes else None, predictor.save_dir)
        divided = rule.divide(table, config.get("seed", 42))
    if predictor.split_digest is None:
        logger.warning("--split %s: the checkpoint does not hold its split; the model may have trained on these", side)
    elif predictor.split_digest != divided.digest():
        wrong = "images, labels (pseudo-labels, too), label_fixes or the split have changed since the training"
        raise DataError(f"--split {side}: {wrong}; put them back, or name --info-dir")
    records: list[Record] = getattr(divided, side).records
    if not records:
        raise ConfigError(f"--split {side}: the run's data has no {side} images; name --info-dir or another --split")
    return records
