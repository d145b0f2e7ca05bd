"""One run: its config, where it resumes, its training, and what it reports."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from base.base_trainer import TrainerSettings
from base.label_space import LabelSpace
from data_loader.records import LabelTable
from data_loader.records.image_check import CHECKED_IMAGES_FILE, check_images
from data_loader.records.sources import read_evaluation_folder
from experiment.builders import (
    build_data_loader,
    build_learner,
    build_model,
    build_trackers,
    describe_run,
)
from experiment.checks import check_config, cross_checks
from experiment.cli import Arguments
from experiment.devices import notes_of_devices
from experiment.folds import Fold, is_run_of_folds, refuse_impossible_fold, score_folds, with_all_folds
from experiment.resume import (
    ResumePoint,
    newest_run,
    refuse_another_run,
    refuse_other_augmentation,
    refuse_other_data,
    replace_device_cache,
    resume_from,
    resume_point_in,
    stopping_says_how_to_resume,
)
from experiment.schema import SECTIONS, RunSettings, metric_functions
from inference.out_of_fold import OUT_OF_FOLD_FILE, FoldScores, predict_fold
from logger.log import LOG_NAME, open_log
from parse_config import ConfigParser
from trainer.checkpoint import LAST, Checkpoints
from trainer.epoch_metrics import describe
from trainer.trainer import Trainer
from utils import distributed
from utils.config.layers import Layers
from utils.device import choose_device
from utils.errors import DataError, UserError
from utils.run_folders import RunFolders, new_run
from utils.signals import StopSignals


@dataclass(frozen=True)
class RunResult:
    """What a run, or a fold of it, has come to.

    folders: None of a dry run, which has none
    completed_epochs: of its one model
    best: the best value of each monitor, by metric
    out_of_fold: the scores of a run of folds, once all are trained"""

    folders: RunFolders | None
    completed_epochs: int = 0
    best: dict[str, float | None] = field(default_factory=dict)
    out_of_fold: FoldScores | None = None


@dataclass
class Session:
    """What all folds of a run share.

    resume: where a run of one model resumes
    run: the folders of the run, once it has begun
    predicted: by fold, the images that its model has predicted, and did not train on"""

    config: ConfigParser
    arguments: Arguments
    labels: LabelSpace
    device: torch.device
    resume: ResumePoint | None
    run: RunFolders | None
    predicted: dict[int, LabelTable] = field(default_factory=dict)

    @property
    def log(self) -> logging.Logger:
        return logging.getLogger(LOG_NAME)

    def open_log(self, file: Path | None = None) -> None:
        """What is logged from here on goes to `file`, too; None: to the console alone."""
        verbosity = self.config["trainer"]["verbosity"]
        open_log(file, verbosity, distributed.rank())


def configure(arguments: Arguments, layers: Layers | None) -> tuple[ConfigParser, ResumePoint | RunFolders | None]:
    """The config that the command line means, and the run to resume if it names one: a checkpoint, or the folders of a
    run of folds.

    layers: the config's files; None: a resumed run's own config is taken. Beside --resume they replace it where nothing
    differs that the run depends on."""
    named = arguments.run_to_resume
    resume, trained = resume_from(named) if named is not None else (None, {})
    if layers is None:
        config = ConfigParser.from_dict(trained, SECTIONS, f"run {named}", arguments.overrides, environment=True)
    else:
        config = ConfigParser(layers, SECTIONS, arguments.overrides, cross_checks)
    if arguments.fold is not None:
        refuse_impossible_fold(config, arguments.fold)
    if resume is not None:
        refuse_another_run(config, trained)
    elif arguments.resume == "auto":
        resume = newest_run(config)
    replace_device_cache(config, resume)
    return config, resume


def print_config(config: ConfigParser, resume: ResumePoint | RunFolders | None, short: bool) -> None:
    """The checked config, on stdout, as it would be kept with a run; short: only what differs from the defaults."""
    check_config(config, begins=resume is None)
    print(json.dumps(config.short if short else config.resolved, indent=4, ensure_ascii=False))


@contextmanager
def open_session(
    config: ConfigParser, resume: ResumePoint | RunFolders | None, arguments: Arguments
) -> Iterator[Session]:
    """Chooses the device, checks the config, and joins the other processes while it is entered."""
    settings: RunSettings = config.extra()
    device = choose_device(arguments.device, settings.n_gpu)
    labels = check_config(config, begins=resume is None)
    point = resume if isinstance(resume, ResumePoint) else None
    run = point.folders.of_run() if point is not None else resume
    assert not isinstance(run, ResumePoint)
    session = Session(config, arguments, labels, device, point, run)
    distributed.start(device)
    session.open_log()
    for note in [*config.notes, *notes_of_devices(settings, device)]:
        session.log.info("%s", note)
    try:
        yield session
    finally:
        distributed.stop()


def warn_of_bad_test_images(session: Session, test: LabelTable) -> None:
    """Looks at the images that training does not need before hours go into it: the test side's, and info_dir's."""
    if session.run is not None or not distributed.is_main_process():  # a resumed run has looked at them
        return
    config = session.config
    settings: TrainerSettings = config.build("trainer")
    info_dir = config.extra().info_dir
    records = [*test.records]
    if info_dir is not None and Path(info_dir).is_dir():
        try:
            records += read_evaluation_folder(info_dir)
        except DataError as error:
            logging.getLogger(LOG_NAME).warning("info_dir = %s, which test.py will refuse: %s", info_dir, error)
    check_images(
        [record.path for record in records],
        Path(settings.save_dir) / CHECKED_IMAGES_FILE,
        "warn",
        config["data_loader"]["args"]["bits_used_of_16"],
        settings.verbosity > 0,
        "training does not need them, but test.py does: repair them",
    )


def folds_to_train(folds: Sequence[Fold], arguments: Arguments) -> Sequence[Fold]:
    """All of them, or the one that --fold names."""
    return folds if arguments.fold is None else [folds[arguments.fold]]


def train_fold(session: Session, fold: Fold) -> RunResult:
    """Trains one model to its end, from the beginning or where it was stopped; a fold's model then predicts the images
    that it did not train on.

    Raises a UserError for whatever is wrong with the data or the checkpoint; StopSignal if it was asked to stop, with
    all saved."""
    result = _train(session, fold)
    if fold.number is None or result.folders is None or session.arguments.dry_run:
        return result
    session.run = result.folders.of_run()
    _predict(session, fold)
    session.open_log()  # what is logged from here on is not this fold's
    return result


def _train(session: Session, fold: Fold) -> RunResult:
    config, labels, log = fold.config, session.labels, session.log
    resume = session.resume
    if fold.number is not None and session.run is not None:
        resume = resume_point_in(session.run.of_fold(fold.number))
    settings: TrainerSettings = config.build("trainer")
    split_digest = fold.split.digest()
    if resume is not None:
        refuse_other_data(resume, split_digest)
    with stopping_says_how_to_resume(session.run):
        model = build_model(config, labels, resume).to(session.device)
        data_loader = build_data_loader(config, fold.split, model, session.device, settings)
        learner = build_learner(config, labels, settings, model, data_loader, session.device, resume)
    folders = resume.folders if resume is not None else _new_folders(session, fold)
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
        if trainer.finished:  # a schedule has no step left to try, either
            log.info("%s is finished%s; nothing was changed", folders.models, _how_to_extend(trainer))
        elif session.arguments.dry_run:
            log.info("dry run: everything was built and one batch went through: %s", describe(trainer.dry_run()))
            return RunResult(None)
        else:
            _begin(session, fold, folders, trainer, resume)
            for line in describe_run(fold.split, labels, data_loader, settings, learner):
                log.info("%s", line)
            _train_to_the_end(trainer)
        return RunResult(folders, trainer.completed_epochs, trainer.best)


def _new_folders(session: Session, fold: Fold) -> RunFolders:
    """The fold's folders in the run, which the main process makes, if there is none, and names to the others."""
    run, name = session.run, session.config["name"]
    save_dir = Path(fold.config.build("trainer").save_dir)
    if run is None and session.arguments.dry_run:
        run = RunFolders.in_save_dir(save_dir, name, "")
    elif run is None and distributed.is_main_process():
        run = new_run(save_dir, name)
        distributed.broadcast_text(run.run)
    elif run is None:
        run = RunFolders.in_save_dir(save_dir, name, distributed.broadcast_text(""))
    return run if fold.number is None else run.of_fold(fold.number)


def _begin(session: Session, fold: Fold, folders: RunFolders, trainer: Trainer, resume: ResumePoint | None) -> None:
    """From here on files are written: the resolved config, the log, what the trackers keep."""
    session.open_log(folders.log / "info.log")
    trainer.log.info("run folder: %s (log: %s)", folders.models, folders.log)
    trainer.log.info("command: %s", session.arguments.command)
    if distributed.is_main_process():
        folders.write_config(fold.config.resolved)
        if folders.fold is not None:
            folders.of_run().write_config(with_all_folds(fold.config.resolved))
            for of_a_shorter_run in (folders, folders.of_run()):
                (of_a_shorter_run.models / OUT_OF_FOLD_FILE).unlink(missing_ok=True)
    if resume is not None:
        trainer.log.info("resuming from %s, %d epochs done", resume.path, trainer.completed_epochs)
        if resume.path.name != LAST:  # what came after it is given up: last.pth must not be ahead of the metrics
            trainer.save()
    trainer.trackers = build_trackers(fold.config, trainer.settings, folders, resume)


def _how_to_extend(trainer: Trainer) -> str:
    if trainer.stopped_early:
        return f" (it stopped early, after {trainer.completed_epochs} epochs)"
    return f" (after {trainer.completed_epochs} epochs; --set trainer.epochs=... extends it)"


def _train_to_the_end(trainer: Trainer) -> None:
    """Trains what is left, and ends the trackers with the run's exit code."""
    exit_code = 1
    try:
        trainer.train()
        exit_code = 0
    except UserError as error:
        trainer.log.debug("the run ends: %s", error)
        exit_code = error.exit_code
        if isinstance(error, DataError) and trainer.checkpoints.has_last():  # an image is gone, or a worker
            run = trainer.checkpoints.run_folder
            raise DataError(f"{error}\nwhat was trained before is saved: --resume {run} resumes it") from error
        raise
    finally:
        trainer.trackers.close(exit_code)


def _predict(session: Session, fold: Fold) -> None:
    """Keeps what the fold's model predicts of its validation images, if that is not kept yet."""
    assert session.run is not None
    assert fold.number is not None
    with stopping_says_how_to_resume(session.run):
        session.predicted[fold.number] = predict_fold(
            session.run.of_fold(fold.number), fold.split.validation, session.device
        )


def report(session: Session, folds: Sequence[Fold], last: RunResult) -> RunResult:
    """Says what the run has come to, of a run of folds by what all of them predict once all are trained.

    last: of the model that was trained last"""
    if last.folders is None or (session.arguments.dry_run and is_run_of_folds(session.config.resolved)):
        return RunResult(None)
    if not is_run_of_folds(session.config.resolved):
        _print(f"{last.folders.models}: {last.completed_epochs} epochs{_best(last)}")
        return last
    run = last.folders.of_run()
    files = [run.of_fold(number).models / OUT_OF_FOLD_FILE for number in range(len(folds))]
    scores = None
    if all(file.exists() for file in files):
        for fold in folds:
            if fold.number not in session.predicted:  # trained by others, or before
                _predict(session, fold)
        session.open_log(run.log / "info.log")
        scores = score_folds(run, folds, [session.predicted[number] for number in range(len(folds))])
    _print(f"{run.models}: {scores or f'other folds are still to be trained: train.py --resume {run.models}'}")
    return RunResult(run, out_of_fold=scores)


def _best(result: RunResult) -> str:
    return "".join(f", best {name} {value:.4f}" for name, value in result.best.items() if value is not None)


def _print(line: str) -> None:
    if distributed.is_main_process():
        print(line)
