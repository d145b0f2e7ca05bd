"""The models that a config trains: one, or one for each fold, with a config and a split of its own."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from data_loader.records import LabelTable
from data_loader.splits import Split
from experiment.monitored import refuse_unusable_split
from experiment.schema import SECTIONS
from inference.out_of_fold import FoldScores, join_folds, predict_validation
from parse_config import ConfigParser
from utils.config.layers import Override
from utils.errors import ConfigError
from utils.run_folders import RunFolders, read_kept_config

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fold:
    """One model of a run: its number (None: the run has no folds), its config and its split."""

    number: int | None
    config: ConfigParser
    split: Split


def is_run_of_folds(config: Mapping[str, Any]) -> bool:
    """True for a config that trains all folds of its split in turn, each a model of its own."""
    split = config["split"]
    return split["type"] == "KFoldSplit" and split["args"].get("fold") is None


def with_all_folds(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of the run that a fold with this config belongs to."""
    split = config["split"]
    return {**config, "split": {**split, "args": {**split["args"], "fold": None}}}


def splits_of(config: ConfigParser, table: LabelTable) -> list[Fold]:
    """The models that a config trains, one or one for each fold; all are divided before the first is trained.

    Raises DataError where a split cannot be used."""
    numbers = range(config.shared("split").folds) if is_run_of_folds(config.resolved) else [None]
    folds = []
    for number in numbers:
        own = config if number is None else _config_of_fold(config, number)
        split = own.build("split").divide(table, own.extra().seed)
        refuse_unusable_split(own, split)
        folds.append(Fold(number, own, split))
    return folds


def _config_of_fold(config: ConfigParser, fold: int) -> ConfigParser:
    values, origin = copy.deepcopy(config.resolved), f"fold {fold} of {config['name']}"
    return ConfigParser.from_dict(values, SECTIONS, origin, [Override("split.args.fold", str(fold))])


def refuse_impossible_fold(config: ConfigParser, fold: int) -> None:
    """Raises ConfigError where `--fold` names a fold that the config's split does not have."""
    if not is_run_of_folds(config.resolved):
        raise config.error([config.problem("split", f"has no folds for --fold {fold}; use a KFoldSplit without fold")])
    folds = config.shared("split").folds
    if not 0 <= fold < folds:
        raise ConfigError(f"--fold {fold}: the split has the folds 0 to {folds - 1}")


def score_folds(run: RunFolders, folds: Sequence[Fold], device: torch.device) -> FoldScores:
    """Joins the folds' predictions in one file, scores them, and logs the scores."""
    numbered = {fold.number: fold for fold in folds if fold.number is not None}
    kept = {number: read_kept_config(run.of_fold(number).models) or fold.config for number, fold in numbered.items()}
    epochs = {number: config["trainer"]["epochs"] for number, config in kept.items()}
    if len(set(epochs.values())) > 1:
        logger.warning("the folds were trained for different numbers of epochs, by fold: %s", epochs)
    tables = [
        predict_validation(run.of_fold(number), fold.split.validation, device) for number, fold in numbered.items()
    ]
    scores = join_folds(run, tables)
    for line in scores.lines():
        logger.info("%s", line)
    return scores
