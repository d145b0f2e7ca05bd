"""Makes one run of several, whose weights are the mean of theirs:

python -m scripts.soup RUN RUN [RUN ...]               # uniform: all of them
python -m scripts.soup RUN RUN [RUN ...] --greedy      # those that help, chosen on their common validation people
"""

from __future__ import annotations

import itertools
import logging
import shlex
import shutil
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import torch
from torch import Tensor

from data_loader.data_loaders import AttributeDataLoader
from data_loader.splits import Split
from experiment import builders
from experiment.checks import check_config
from experiment.run_record import RunRecord
from experiment.schema import SECTIONS
from experiment.soup import Ingredient, Soups, refuse_unlike, warn_of_other_beginnings
from inference.inputs import folds_with_checkpoints
from inference.out_of_fold import OUT_OF_FOLD_FILE, PredictionTable
from inference.predictor import CHECKPOINT_NAMES, EXPORTED_FILE, Predictor, find_checkpoint
from inference.scoring.evaluation import SetScores
from inference.tta import PRESETS
from logger.log import LOG_NAME, close_log, open_log
from parse_config import ConfigParser
from utils.checkpoint.checkpoint_file import write_checkpoint
from utils.command_line import CommandLine
from utils.config.layers import Override
from utils.config.plugins import COPIES, FLAG, accept_changes
from utils.device import choose_device
from utils.errors import CheckpointError, ConfigError, DataError, run_and_exit, write_error
from utils.run_folders import RunFolders, new_run, obstacle_to_writing, refuse_missing
from utils.wording import counted

log = logging.getLogger(LOG_NAME)

MOST_IMAGES = 2000
"""So many training images measure the batch norms, unless --images says otherwise."""


def make_soup(arguments: Namespace) -> Path:
    """Makes the run that the command line describes, and returns its folder.

    Raises ConfigError, CheckpointError, DataError, StorageFullError."""
    open_log(None, 1)
    try:
        accept_changes(arguments.accept_changed_plugins)
        runs = read_runs(arguments)
        refuse_unlike(runs)
        warn_of_other_beginnings(runs)
        config = config_of(runs[0])
        data_loader, split, is_shared = read_data(config, runs)
        if arguments.greedy and not is_shared:
            raise ConfigError(
                "--greedy: the runs were divided differently (folds?), so that some have trained on people whom the "
                "others validate on; leave --greedy out, or name runs of one split"
            )
        predictor = runs[0].predictor

        images: list[Tensor] = []  # uint8, drawn once for all soups

        def training_batches() -> Iterator[Tensor]:
            if not images:
                number = -(-arguments.images // data_loader.batch_size)
                epoch = data_loader.epoch_of_full_size
                with closing(data_loader.train_batches(epoch)) as batches:  # type: ignore[type-var]
                    images.extend(batch.images.clone() for batch in itertools.islice(batches, number))
            for each in images:
                yield predictor.preprocessing.normalise(each.to(predictor.device), memory_format=torch.channels_last)

        validation = data_loader.validation if is_shared and len(data_loader.validation) else None
        soups = Soups(runs, validation, training_batches)
        if soups.has_batch_norm:
            number = min(len(data_loader.train), arguments.images)
            log.info("batch norms: their running statistics are measured anew on %d training images", number)
        chosen = soups.choose() if arguments.greedy else soups.all
        table = log_scores(soups, chosen, arguments.greedy)
        folders = write_run(soups, chosen, config, split, table, arguments)
        log.info(
            "%s: a soup of %s; python test.py --resume %s", folders.models, counted(len(chosen), "run"), folders.models
        )
        return folders.models
    finally:
        close_log()


def read_runs(arguments: Namespace) -> list[Ingredient]:
    """The models of the runs; a run of folds stands for its folds. Raises ConfigError, CheckpointError."""
    device, files = choose_device(arguments.device), []
    for path in arguments.runs:
        refuse_missing(path)
        for folder in folds_with_checkpoints(path).values() or [path]:
            file = find_checkpoint(folder, arguments.checkpoint)
            if file.name == EXPORTED_FILE:
                raise CheckpointError(f"{path}: is exported; name the run")
            files.append(file)
    for number, file in enumerate(files):
        if same := [other for other in files[:number] if other.samefile(file)]:
            named = "is named twice" if same[0] == file else f"is the same file as {same[0]}"
            raise ConfigError(f"{file}: {named}; name each model once")
    if len(files) < 2:
        raise ConfigError(f"{files[0]}: alone makes no soup; name another run")
    return [Ingredient(file, Predictor.from_checkpoint(file, device, PRESETS["none"])) for file in files]


def config_of(run: Ingredient) -> ConfigParser:
    """The first run's, under another name: a soup is not resumed as a run of that config."""
    values = run.predictor.config
    name = Override("name", f"{values['name']}_soup", "scripts.soup")
    config = ConfigParser.from_dict(values, SECTIONS, f"run {run.path}", [name], True, run.path.parent)
    check_config(config, begins=False)
    return config


def read_data(config: ConfigParser, runs: Sequence[Ingredient]) -> tuple[AttributeDataLoader, Split, bool]:
    """The images of the first run, and whether they validate all runs. Raises DataError."""
    predictor = runs[0].predictor
    labels = config.shared("labels")
    split: Split = config.build("split").divide(builders.read_label_table(config, labels), config.extra().seed)
    if predictor.split_digest not in (None, split.digest()):
        wrong = "images, labels (pseudo-labels, too), label_fixes or the split have changed since; put them back"
        raise DataError(f"{runs[0].path}: {wrong}")
    own = (split.digest(), split.validation_digest())
    is_shared = all(run.predictor.validation_digest == own[1] or run.predictor.split_digest == own[0] for run in runs)
    if not is_shared:
        log.warning(
            "the runs were divided differently, or do not tell how: some have trained on people who validate others; "
            "what the soup is worth only other photographs can tell"
        )
    return builders.build_data_loader(config, split, predictor.model, predictor.device), split, is_shared


def log_scores(soups: Soups, chosen: frozenset[int], greedy: bool) -> PredictionTable | None:
    """The scores of each run and of the soup on the validation people; returns what the soup predicts of them, in the
    nested estimate of a greedy one. None where nothing validates all runs."""
    if soups.validation is None:
        return None
    for number, run in enumerate(soups.runs):
        part = ", in the soup" if greedy and number in chosen else ""
        log_table(f"{run.path}{part}:", soups.table(frozenset([number])))
    if not greedy:
        log_table(f"the soup of all {len(chosen)}:", soups.table(chosen))
        return soups.table(chosen)
    log_table(
        f"the greedy soup of {len(chosen)}, fitted: it was chosen on these very people, and promises too much:",
        soups.table(chosen),
    )
    log_table("its nested estimate: each person's images by the soup that is chosen without them:", soups.nested)
    return soups.nested


def log_table(title: str, table: PredictionTable) -> None:
    log.info("%s", title)
    rows: list[SetScores] = table.scores()
    for row in rows:
        log.info("  %s", row)


def write_run(
    soups: Soups,
    chosen: frozenset[int],
    config: ConfigParser,
    split: Split,
    table: PredictionTable | None,
    arguments: Namespace,
) -> RunFolders:
    """A run folder that other commands take: checkpoint, config, run.json, and out_of_fold.csv where there is a table.

    Raises ConfigError, StorageFullError."""
    folder: Path | None = arguments.output
    if folder is None:
        folders = new_run(Path(config["trainer"]["save_dir"]), config["name"])
    else:
        folders = RunFolders(folder, folder / "log", folder.name)
    predictor = soups.predictor
    digests = {"split": split.digest(), "validation": split.validation_digest()}
    digests = digests if soups.validation is not None else {}
    content = {
        "model": {name: each.cpu() for name, each in soups.weights(chosen).items()},
        "config": config.resolved,
        "labels": predictor.labels.to_config(),
        "preprocessing": predictor.preprocessing.to_config(),
        "run_name": folders.run,
        "completed_epochs": max(soups.runs[number].predictor.completed_epochs for number in chosen),
        "soup": [str(soups.runs[number].path) for number in sorted(chosen)],
        "greedy": bool(arguments.greedy),
        **{f"{side}_digest": digest for side, digest in digests.items()},
    }
    command = shlex.join(["scripts.soup", *arguments.argv])
    try:
        write_checkpoint(folders.models / CHECKPOINT_NAMES["best"], content)
        plugins = soups.runs[0].path.parent / COPIES
        if plugins.is_dir():
            shutil.copytree(plugins, folders.models / COPIES)
    except OSError as error:
        raise write_error(folders.models, error) from None
    folders.write_config(config.resolved)
    record = RunRecord(folders.models)
    record.begin(folders, config, command, digests)
    record.end("finished")
    if table is not None:
        table.write(folders.models / OUT_OF_FOLD_FILE)
    return folders


def parse(argv: Sequence[str] | None) -> Namespace:
    """The command line. Raises ConfigError."""
    parser = CommandLine(prog="scripts.soup", description="Makes one run of several, with the mean of their weights.")
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN", help="run folders or checkpoints of one architecture")
    add("--greedy", action="store_true", help="only the runs that help, chosen on their common validation people")
    add("--checkpoint", default="best", help="of a run folder: best (default), last, best_f1, ...")
    add("--images", type=int, default=MOST_IMAGES, help="training images that measure batch norms (default: 2000)")
    add("--output", type=Path, help="the run folder to make (default: a new one in save_dir, <name>_soup)")
    add("-d", "--device", help="cpu, cuda, cuda:1 (default: the GPU if there is one)")
    add(FLAG, action="store_true", help="use a plug-in though it has changed since the training")
    argv = sys.argv[1:] if argv is None else argv
    arguments = parser.parse(argv)
    arguments.argv = argv
    if arguments.images < 1:
        raise ConfigError(f"--images {arguments.images}: must be at least 1")
    if (folder := arguments.output) is not None:
        obstacle = "is not empty; name a new folder" if folder.is_dir() and any(folder.iterdir()) else None
        if obstacle := obstacle or ("is a file" if folder.is_file() else obstacle_to_writing(folder)):
            raise ConfigError(f"--output {folder}: {obstacle}")
    return arguments


def main(argv: Sequence[str] | None = None) -> Path:
    """The command line of this process, or `argv`."""
    return make_soup(parse(argv))


if __name__ == "__main__":
    run_and_exit(main)
