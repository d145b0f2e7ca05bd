"""Trains the model that a JSON config describes: python train.py --config config.json"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from base.base_trainer import TrainerSettings
from base.label_space import LabelSpace
from data_loader.records.records import Record
from data_loader.splits import Split
from experiment.builders import (
    build_data_loader,
    build_learner,
    build_model,
    build_trackers,
    describe_run,
    divide_records,
)
from experiment.checks import check_config
from experiment.cli import config_of_fold, configure
from experiment.devices import notes_of_devices
from experiment.monitored import refuse_unusable_split
from experiment.schema import RunSettings, metric_functions
from inference.out_of_fold import OUT_OF_FOLD_FILE, FoldScores, join_folds, predict_fold
from logger.log import LOG_NAME, close_log, open_log
from parse_config import ConfigParser, parse_arguments
from trainer.checkpoint import LAST, Checkpoints
from trainer.epoch_metrics import describe
from trainer.resume import (
    ResumePoint,
    is_run_of_folds,
    refuse_other_augmentation,
    refuse_other_data,
    resume_point_of_fold,
    stopping_tells_how_to_go_on,
    with_all_folds,
)
from trainer.trainer import Trainer
from utils import distributed
from utils.allocator import keep_freed_memory
from utils.device import choose_device
from utils.errors import DataError, UserError, run_command
from utils.run_folders import RunFolders, new_run, read_kept_config
from utils.signals import StopSignals


@dataclass(frozen=True)
class RunResult:
    """What a run has come to: where it lies (None: nowhere, it was a dry run), how far it went, and the best value of
    each monitor; of a run of folds the scores out of fold, once all folds are done."""

    folders: RunFolders | None
    completed_epochs: int = 0
    best: dict[str, float | None] = field(default_factory=dict)
    out_of_fold: FoldScores | None = None


@dataclass(frozen=True)
class Session:
    """What all folds of a run share. only_fold: the one fold to train, None for all of them."""

    labels: LabelSpace
    device: torch.device
    dry_run: bool = False
    only_fold: int | None = None


def train(
    config: ConfigParser,
    resume: ResumePoint | RunFolders | None = None,
    device_name: str | None = None,
    dry_run: bool = False,
    only_fold: int | None = None,
) -> RunResult:
    """Trains a checked config to its end, from the beginning or from `resume` (RunFolders: those of a run of folds).

    Raises a UserError for whatever is wrong with the config, the data or the checkpoint; StopSignal if it was asked to
    stop, with all saved."""
    labels = check_config(config)
    run_settings: RunSettings = config.extra()
    device = choose_device(device_name, run_settings.n_gpu)
    distributed.start(device)
    log = open_log(None, verbosity_of(config), distributed.rank())
    for note in [*config.notes, *notes_of_devices(run_settings, device)]:
        log.info("%s", note)
    session = Session(labels, device, dry_run, only_fold)
    try:
        if is_run_of_folds(config.resolved):
            return train_folds(config, session, resume if isinstance(resume, RunFolders) else None)
        split = divide_records(config, labels)
        refuse_unusable_split(config, labels, split)
        return train_run(config, session, split, resume if isinstance(resume, ResumePoint) else None)
    finally:
        close_log()
        distributed.stop()


def train_folds(config: ConfigParser, session: Session, run: RunFolders | None) -> RunResult:
    """Trains the folds in turn, each in its own folder of the run, from where it stopped; then what the folds say of
    the images that they did not train on is put together and scored."""
    configs = {fold: config_of_fold(config, fold) for fold in range(config.build("split").folds)}
    splits = {fold: divide_records(configs[fold], session.labels) for fold in configs}
    for fold, split in splits.items():  # all of them, before hours go into the first
        refuse_unusable_split(configs[fold], session.labels, split)
    judged: dict[int, list[Record]] = {}
    for fold in configs if session.only_fold is None else [session.only_fold]:
        resume = resume_point_of_fold(run, fold) if run is not None else None
        result = train_run(configs[fold], session, splits[fold], resume, fold, run)
        if result.folders is None:  # a dry run: the others would say the same
            return result
        if session.dry_run:  # this one is finished
            continue
        run = result.folders.of_run()
        judged[fold] = judge_fold(result.folders, session, splits[fold])
        open_log(None, verbosity_of(config), distributed.rank())  # what is said from here on is not this fold's
    if session.dry_run:
        return RunResult(None)
    assert run is not None
    if not all((run.of_fold(fold).models / OUT_OF_FOLD_FILE).exists() for fold in configs):
        return RunResult(run)
    for fold in configs.keys() - judged.keys():  # trained by others, or before
        judged[fold] = judge_fold(run.of_fold(fold), session, splits[fold])
    log = open_log(run.log / "info.log", verbosity_of(config), distributed.rank())
    kept = {
        fold: read_kept_config(run.of_fold(fold).models) or fold_config.resolved
        for fold, fold_config in configs.items()
    }
    planned = {fold: fold_config["trainer"]["epochs"] for fold, fold_config in kept.items()}
    if len(set(planned.values())) > 1:
        log.warning("the folds were trained for different numbers of epochs, by fold: %s", planned)
    scores = join_folds(run, session.labels, [judged[fold] for fold in configs])
    for line in scores.lines():
        log.info("%s", line)
    return RunResult(run, out_of_fold=scores)


def judge_fold(folders: RunFolders, session: Session, split: Split) -> list[Record]:
    """What the fold's model says of its validation images is kept, if it is not yet; returns these images."""
    with stopping_tells_how_to_go_on(folders):
        return predict_fold(folders, split.validation, session.labels, session.device)


def train_run(
    config: ConfigParser,
    session: Session,
    split: Split,
    resume: ResumePoint | None,
    fold: int | None = None,
    run: RunFolders | None = None,
) -> RunResult:
    """Trains one model to its end. fold: it is that fold of a run, whose folders are `run` if it has begun."""
    settings: TrainerSettings = config.build("trainer")
    labels, device = session.labels, session.device
    log = logging.getLogger(LOG_NAME)
    split_digest = split.digest(labels)
    if resume is not None:
        refuse_other_data(resume, split_digest)
    with stopping_tells_how_to_go_on(run if resume is None else resume.folders):
        model = build_model(config, labels, resume).to(device)
        data_loader = build_data_loader(config, labels, split, model, device, settings)
        learner = build_learner(config, labels, settings, model, data_loader, device, resume)
    folders = choose_folders(config, settings, resume, session.dry_run, fold, run)
    with StopSignals() as stop:
        trainer = Trainer(
            settings,
            learner=learner,
            data_loader=data_loader,
            labels=labels,
            metrics=metric_functions(config),
            checkpoints=Checkpoints(folders.models, folders.of_run().models),
            stop=stop,
            log=log,
            run={
                "run_name": folders.run,
                "config": config.resolved,
                "labels": labels.to_config(),
                "preprocessing": data_loader.preprocessing.to_config(),
                "split_digest": split_digest,
            },
            mixings=config.build("mixing", label_space=labels),
            visualize=config.extra().visualize,
        )
        if resume is not None:  # before anything is written
            trainer.load_state_dict(resume.content, resume.path)
            if not trainer.finished:
                refuse_other_augmentation(resume, config.resolved)
        is_tried = session.dry_run and not trainer.finished
        if trainer.finished:  # a schedule has no step left to try, either
            log.info("%s is finished%s; nothing was changed", folders.models, _how_to_extend(trainer))
        elif is_tried:
            log.info("dry run: everything was built and one batch went through: %s", describe(trainer.dry_run()))
        else:
            begin_run(config, settings, folders, trainer, resume)
            for line in describe_run(split, labels, data_loader, settings, learner):
                log.info("%s", line)
            run_to_the_end(trainer)
        return RunResult(None if is_tried else folders, trainer.completed_epochs, trainer.best)


def choose_folders(
    config: ConfigParser,
    settings: TrainerSettings,
    resume: ResumePoint | None,
    dry_run: bool,
    fold: int | None,
    run: RunFolders | None,
) -> RunFolders:
    """The run's folders: the resumed run's, or new ones, which the main process makes and tells the others."""
    if resume is not None:
        return resume.folders
    if run is None and dry_run:
        run = RunFolders(Path(settings.save_dir), config["name"], "")
    elif run is None and distributed.is_main_process():
        run = new_run(Path(settings.save_dir), config["name"])
        distributed.broadcast_text(run.run)
    elif run is None:
        run = RunFolders(Path(settings.save_dir), config["name"], distributed.broadcast_text(""))
    return run if fold is None else run.of_fold(fold)


def begin_run(
    config: ConfigParser, settings: TrainerSettings, folders: RunFolders, trainer: Trainer, resume: ResumePoint | None
) -> None:
    """From here on files are written: the resolved config, the log, what the trackers keep."""
    open_log(folders.log / "info.log", settings.verbosity, distributed.rank())
    if distributed.is_main_process():
        folders.write_config(config.resolved)
        if folders.fold is not None:
            folders.of_run().write_config(with_all_folds(config.resolved))
            for of_a_shorter_run in (folders, folders.of_run()):
                (of_a_shorter_run.models / OUT_OF_FOLD_FILE).unlink(missing_ok=True)
    if resume is not None:
        trainer.log.info("going on from %s, %d epochs done", resume.path, trainer.completed_epochs)
        if resume.path.name != LAST:  # what came after it is given up: last.pth must not be ahead of the metrics
            trainer.save()
    trainer.trackers = build_trackers(config, settings, folders, resume)


def verbosity_of(config: ConfigParser) -> int:
    return config["trainer"].get("verbosity", TrainerSettings.verbosity)


def _how_to_extend(trainer: Trainer) -> str:
    if trainer.stopped_early:
        return f" (it stopped early, after {trainer.completed_epochs} epochs)"
    return f" (after {trainer.completed_epochs} epochs; --set trainer.epochs=... extends it)"


def run_to_the_end(trainer: Trainer) -> None:
    """Trains what is left, and ends the trackers with the run's exit code."""
    exit_code = 1
    try:
        trainer.train()
        exit_code = 0
    except UserError as error:
        trainer.log.debug("the run ends: %s", error)
        exit_code = error.exit_code
        if isinstance(error, DataError) and trainer.checkpoints.has_last():  # a photograph is gone, or a worker
            run = trainer.checkpoints.run_folder
            raise DataError(f"{error}\nwhat was trained before is saved: --resume {run} goes on from there") from error
        raise
    finally:
        trainer.trackers.close(exit_code)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    arguments = parse_arguments(argv)
    keep_freed_memory()
    open_log(None, 0, distributed.rank())  # a damaged checkpoint is warned of before the config is known
    try:
        config, resume = configure(arguments)
        if arguments.print_config:
            check_config(config)
            print(json.dumps(config.resolved, indent=4, ensure_ascii=False))
            return
        result = train(config, resume, arguments.device, arguments.dry_run, arguments.fold)
    finally:
        close_log()
    if result.folders is None or not distributed.is_main_process():
        return
    print(f"{result.folders.models}: ", end="")
    if is_run_of_folds(config.resolved):
        print(result.out_of_fold or f"other folds are still to be trained: train.py --resume {result.folders.models}")
    else:
        print(f"{result.completed_epochs} epochs", end="")
        print("".join(f", best {name} {value:.4f}" for name, value in result.best.items() if value is not None))


if __name__ == "__main__":
    sys.exit(run_command(main))
