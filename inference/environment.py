"""What the command line of test.py leaves out, where SageMaker's variables say it; the command line wins."""

from __future__ import annotations

import logging
from argparse import Namespace
from pathlib import Path

from utils.environment import (
    CHANNEL_EVAL,
    CHANNEL_MODEL,
    GROUND_TRUTH_DIR,
    MODEL_DIR,
    OUTPUT_DATA_DIR,
    environment_default,
)
from utils.errors import CheckpointError, ConfigError, DataError

logger = logging.getLogger(__name__)


def with_environment(arguments: Namespace) -> Namespace:
    """The arguments of test.py, with `resume`, `info_dir`, `answers` and `submit_dir` from the environment where they
    are not given, each with a line in the log. `--split` asks for images that the evaluation's variables do not have.

    Raises ConfigError if there is nothing to resume; CheckpointError, DataError for a folder without what it should
    hold."""
    filled = Namespace(**vars(arguments))
    if filled.resume is None:
        variable = next((name for name in (CHANNEL_MODEL, MODEL_DIR) if environment_default(name)), None)
        if variable is None:
            raise ConfigError(
                f"test.py: -r/--resume is required: a run folder or a checkpoint (or set {CHANNEL_MODEL} to one)"
            )
        filled.resume = [str(_newest_run(Path(_taken(variable)), variable))]
    if filled.split is None:
        if filled.info_dir is None and environment_default(CHANNEL_EVAL):
            filled.info_dir = _taken(CHANNEL_EVAL)
        if filled.answers is None and environment_default(GROUND_TRUTH_DIR):
            filled.answers = str(_answers_in(Path(_taken(GROUND_TRUTH_DIR))))
    filled.submit_dir = None
    if filled.output is None and environment_default(OUTPUT_DATA_DIR):
        filled.submit_dir = _taken(OUTPUT_DATA_DIR)
    return filled


def _taken(name: str) -> str:
    value = environment_default(name)
    assert value is not None
    logger.info("environment variable %s: %s", name, value)
    return value


def _newest_run(folder: Path, variable: str) -> Path:
    """The run in `folder`: itself, or the newest in folder/models/<name>/<run>, whose names sort by time."""
    if not folder.is_dir() or any(folder.glob("*.pth")) or any(folder.glob("fold_*/*.pth")):
        return folder
    alone = {path.parent for path in folder.glob("models/*/*/*.pth")}
    of_folds = {path.parents[1] for path in folder.glob("models/*/*/fold_*/*.pth")}
    if not alone | of_folds:
        raise CheckpointError(f"{folder} ({variable}): holds no checkpoint; name a run folder with --resume")
    newest = max(alone | of_folds, key=lambda run: run.name)
    logger.info("the newest run there: %s", newest)
    return newest


def _answers_in(folder: Path) -> Path:
    """The table of true answers: answers.csv, info.csv, or the only CSV. Raises DataError."""
    tables = sorted(folder.glob("*.csv")) if folder.is_dir() else []
    named = [folder / name for name in ("answers.csv", "info.csv") if folder / name in tables]
    if not named and len(tables) != 1:
        holds = ", ".join(path.name for path in tables) or "no CSV"
        raise DataError(
            f"{folder} ({GROUND_TRUTH_DIR}): should hold answers.csv with the true answers; it holds {holds}; "
            "name the table with --answers"
        )
    return named[0] if named else tables[0]
