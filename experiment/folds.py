"""The folds of a run: each a config and a split of its own, and what their models say together."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data_loader.records import LabelTable
from data_loader.splits import Split
from experiment.monitored import refuse_unusable_split
from experiment.schema import SECTIONS
from inference.out_of_fold import FoldScores, join_folds
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
    """The models that a config trains, one or a fold each, with who trains and who validates.

    All are divided before hours go into the first. Raises DataError where a split cannot be used."""
    numbers = range(config.shared("split").folds) if is_run_of_folds(config.resolved) else [None]
    folds = []
    for number in numbers:
        own = config if number is None else _config_of_fold(config, number)
        split = own.build("split").divide(table, own.extra().seed)
        refuse_unusable_split(own, split)
        folds.append(Fold(number, own, split))
    return folds


def _config_of_fold(config: ConfigParser, fold: int) -> ConfigParser:
    origin = f"fold {fold} of {config['name']}"
    override = Override("split.args.fold", str(fold))
    return ConfigParser.from_dict(copy.deepcopy(config.resolved), SECTIONS, origin, (override,))


def refuse_impossible_fold(config: ConfigParser, fold: int) -> None:
    """Raises ConfigError where `--fold` asks for what the config's split does not have."""
    if not is_run_of_folds(config.resolved):
        wrong = f"has no folds to choose from, which --fold {fold} does; it needs a KFoldSplit without fold"
        raise config.error([config.problem("split", wrong)])
    folds = config.shared("split").folds
    if not 0 <= fold < folds:
        raise ConfigError(f"--fold {fold}: the split has the folds 0 to {folds - 1}")


def score_folds(run: RunFolders, folds: Sequence[Fold], predicted: Sequence[LabelTable]) -> FoldScores:
    """Joins the folds' predictions in one file and scores them; predicted: of each fold, the images in its file."""
    epochs = {}
    for fold in folds:
        assert fold.number is not None
        kept = read_kept_config(run.of_fold(fold.number).models) or fold.config.resolved
        epochs[fold.number] = kept["trainer"]["epochs"]
    if len(set(epochs.values())) > 1:
        logger.warning("the folds were trained for different numbers of epochs, by fold: %s", epochs)
    scores = join_folds(run, predicted)
    for line in scores.lines():
        logger.info("%s", line)
    return scores
