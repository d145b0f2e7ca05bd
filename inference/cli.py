"""The command line of test.py, with SageMaker's variables as defaults. Imports no torch: what is mistyped or missing is
reported at once."""

from __future__ import annotations

import logging
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from inference.tta import PRESETS
from utils import environment
from utils.command_line import CommandLine
from utils.config.plugins import FLAG
from utils.environment import environment_default
from utils.errors import CheckpointError, ConfigError, DataError
from utils.run_folders import refuse_missing

logger = logging.getLogger(__name__)


def parse_arguments(argv: Sequence[str] | None = None) -> Namespace:
    """The command line, of this process where `argv` is None, with defaults from the environment.

    Raises ConfigError; CheckpointError, DataError for what does not exist."""
    parser = CommandLine(
        several_processes=True,
        description="Predicts images with trained models, and scores them where the truth is known.",
    )
    add = parser.add_argument
    add("-r", "--resume", nargs="+", help="run folders or checkpoints; several: an ensemble")
    add("-d", "--device", help="cpu, cuda, cuda:1 (default: the GPU if there is one)")
    add("--checkpoint", default="best", help="of a run folder: best (default), last, best_f1, ...")
    add("--weights", nargs="+", type=float, help="of several models: the weight of each")
    add("--vote", choices=("soft", "hard"), default="soft", help="of several: mean of probabilities, or most votes")
    add("--decision", help="of the same runs: a tuned decision, as scripts.tune writes it")
    add("--parts", action="store_true", help="also write each model's own answers")
    add("--tta", "--views", choices=PRESETS, help="test-time augmentation (default: the config's views)")
    add("--info-dir", help="a folder with info.csv and images/ (default: the config's info_dir)")
    add("--split", choices=("train", "validation", "test"), help="predict a side of the run's own split")
    add("--answers", help="a CSV with the true answers: ImageID, then ans or the attributes, and perhaps person")
    add("--output", help="the CSV to write (default: <submit_dir>/<name>_<run>.csv)")
    add("--probabilities", action="store_true", help="also write each class's probability")
    add("--bs", type=int, help="images to a batch (default: the config's)")
    add("--num-workers", type=_num_workers, help="processes that read images (default: the config's)")
    add(FLAG, action="store_true", help="use a plug-in though it has changed since the training")
    arguments = parser.parse(argv)
    if arguments.bs is not None and arguments.bs < 1:
        raise ConfigError(f"--bs {arguments.bs}: must be at least 1")
    if arguments.decision is not None and (arguments.weights is not None or arguments.vote != "soft"):
        raise ConfigError(f"--decision {arguments.decision}: brings its own weights; leave out --weights and --vote")
    _fill_in_from_environment(arguments)
    for path in arguments.resume:
        refuse_missing(Path(path))
    return arguments


def _num_workers(text: str) -> int | Literal["auto"]:
    if text == "auto":
        return "auto"
    if not text.isdecimal():
        raise ConfigError(f'--num-workers {text}: must be a whole number of at least 0, or "auto"')
    return int(text)


def _fill_in_from_environment(arguments: Namespace) -> None:
    """Sets `resume`, `info_dir`, `answers` and `submit_dir` where the command line does not, each with a line in the
    log. The evaluation's images and answers are not those of --split."""
    if arguments.resume is None:
        has_model = environment_default(environment.CHANNEL_MODEL)
        variable = environment.CHANNEL_MODEL if has_model else environment.MODEL_DIR
        folder = _logged_default(variable)
        if folder is None:
            raise ConfigError("test.py: -r/--resume is required: a run folder or a checkpoint (or SM_CHANNEL_MODEL)")
        arguments.resume = [str(_newest_run(Path(folder), variable))]
    if arguments.split is None:
        arguments.info_dir = arguments.info_dir or _logged_default(environment.CHANNEL_EVAL)
        if arguments.answers is None and (folder := _logged_default(environment.GROUND_TRUTH_DIR)):
            arguments.answers = str(_answers_in(Path(folder)))
    arguments.submit_dir = _logged_default(environment.OUTPUT_DATA_DIR) if arguments.output is None else None


def _logged_default(variable: str) -> str | None:
    value = environment_default(variable)
    if value is not None:
        logger.info("environment variable %s: %s", variable, value)
    return value


def _newest_run(folder: Path, variable: str) -> Path:
    """`folder`, if it is a run or a file, or the newest of folder/models/<name>/<run>, whose names sort by time."""
    if not folder.is_dir() or any(folder.glob("*.pth")) or any(folder.glob("fold_*/*.pth")):
        return folder
    runs = {path.parent for path in folder.glob("models/*/*/*.pth")}
    runs |= {path.parents[1] for path in folder.glob("models/*/*/fold_*/*.pth")}
    if not runs:
        raise CheckpointError(f"{folder} ({variable}): holds no checkpoint; name a run folder with --resume")
    newest = max(runs, key=lambda run: run.name)
    logger.info("the newest run there: %s", newest)
    return newest


def _answers_in(folder: Path) -> Path:
    """The table of true answers: answers.csv, info.csv, or the only CSV."""
    tables = sorted(folder.glob("*.csv"))
    named = [folder / name for name in ("answers.csv", "info.csv") if folder / name in tables]
    if not named and len(tables) != 1:
        holds = ", ".join(path.name for path in tables) or "no CSV"
        raise DataError(
            f"{folder} ({environment.GROUND_TRUTH_DIR}): should hold answers.csv; it holds {holds}; see --answers"
        )
    return (named or tables)[0]
