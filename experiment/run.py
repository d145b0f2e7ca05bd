"""The steps of train.py: the config and the run that it resumes, the training of each model, and the report."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from base.label_space import LabelSpace
from data_loader.data_loaders import AUTO
from data_loader.records import LabelTable
from data_loader.records.image_check import CHECKED_IMAGES_FILE, check_images
from experiment import builders
from experiment.batch_size import WHAT_TO_LOWER, settle_batch_size
from experiment.checks import check_config, cross_checks
from experiment.cli import Arguments
from experiment.duplicates import check_duplicates, read_evaluation_images
from experiment.folds import Fold, refuse_impossible_fold, score_folds, with_all_folds
from experiment.pseudo_labels import provenance_of_pseudo_labels, warn_of_leaks
from experiment.report import REPORT_FILE, draw_pictures, write_report
from experiment.resume import (
    ResumePoint,
    RunOfFolds,
    keep_batch_size,
    newest_run,
    refuse_another_global_batch,
    refuse_another_run,
    refuse_edited_config,
    refuse_other_data,
    resume_from,
    resume_point_in,
    warn_of_edited_config,
    warn_of_other_augmentation,
)
from experiment.run_record import RunRecord, read_record
from experiment.schema import SECTIONS, RunSettings
from inference.out_of_fold import OUT_OF_FOLD_FILE, FoldScores, predict_validation
from logger.log import FOR_FILE_ALONE, open_log
from parse_config import ConfigParser
from trainer.checkpoint import LAST
from trainer.epoch_metrics import describe
from trainer.trainer import Trainer
from utils import distributed
from utils.config.layers import Layers
from utils.config.plugins import COPIES, plugin_errors
from utils.device import choose_device, describe_device
from utils.errors import CheckpointError, DataError, Interrupted, InvalidConfig, StopSignal, UserError
from utils.files import write_output
from utils.run_folders import RunFolders, locked, new_run
from utils.signals import StopSignals
from utils.threads import number_of_cores
from utils.wording import counted

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunResult:
    """The folders of a run, and the scores of a run of folds whose folds are all trained."""

    folders: RunFolders
    out_of_fold: FoldScores | None = None


@dataclass
class Session:
    """What all models of a run share.

    resume: what is resumed
    run: the folders of the run, once it has begun
    has_trained: whether this command has trained any of them"""

    config: ConfigParser
    arguments: Arguments
    labels: LabelSpace
    device: torch.device
    resume: ResumePoint | RunOfFolds | None
    run: RunFolders | None
    has_trained: bool = False

    def open_log(self, file: Path | None = None) -> None:
        """What is logged from here on goes to `file`, too; None: to the console alone."""
        open_log(file, self.config["trainer"]["verbosity"], distributed.rank())


def configure(arguments: Arguments, layers: Layers | None) -> tuple[ConfigParser, ResumePoint | RunOfFolds | None]:
    """The config of the command line, and what --resume resumes: a checkpoint, or the folders of a run of folds.

    layers: the config's files; None: a resumed run's own config is taken. With --resume as well, they are used; what
    the run depends on must be unchanged."""
    named = arguments.run_to_resume
    resume, trained = resume_from(named) if named is not None else (None, {})
    if layers is None:
        config = ConfigParser.from_dict(
            trained, SECTIONS, f"run {named}", arguments.overrides, environment=True, run=_folder_of(named)
        )
    else:
        config = ConfigParser(layers, SECTIONS, arguments.overrides, cross_checks)
    if arguments.fold is not None:
        refuse_impossible_fold(config, arguments.fold)
    if resume is not None:
        refuse_another_run(config, trained)
        if isinstance(resume, RunOfFolds):
            refuse_edited_config(config, resume)
        else:
            warn_of_edited_config(config, resume)
        keep_batch_size(config, resume)
        refuse_another_global_batch(config, resume)
    elif arguments.resume == "auto":
        resume = newest_run(config)
    if config["data_loader"]["args"]["cache"] == "device":  # of an earlier version
        config["data_loader"]["args"]["cache"] = "disk"
        origin = config.origin("data_loader.args.cache")
        config.notes.append(f'{origin}: data_loader.args.cache = "device" no longer exists; "disk" is used')
    return config, resume


def _folder_of(named: Path | None) -> Path | None:
    """The run's folder that --resume names, itself or by a checkpoint."""
    return named if named is None or named.is_dir() else named.parent


def print_config(config: ConfigParser, resume: ResumePoint | RunOfFolds | None, arguments: Arguments) -> None:
    """Prints the checked config as it would be kept with a run, or only what differs from the defaults."""
    check_config(config, resume is None or resume.begins_a_model(config, arguments.fold))
    shown = config.short if arguments.print_config == "short" else config.resolved
    print(json.dumps(shown, indent=4, ensure_ascii=False))


@contextmanager
def open_session(
    config: ConfigParser, resume: ResumePoint | RunOfFolds | None, arguments: Arguments
) -> Iterator[Session]:
    """Chooses the device, checks the config, and joins the other processes while it is entered.

    A stop within it tells how the run is resumed."""
    settings: RunSettings = config.extra()
    device = choose_device(arguments.device, settings.n_gpu)
    labels = check_config(config, resume is None or resume.begins_a_model(config, arguments.fold))
    session = Session(config, arguments, labels, device, resume, None if resume is None else resume.run)
    with distributed.together(device):
        _refuse_unlike_processes(config, resume)
        session.open_log()
        for note in [*config.notes, *_device_notes(settings, device)]:
            logger.info("%s", note)
        is_out_of_memory = False
        try:
            yield session
        except (StopSignal, Interrupted) as stop:
            if session.run is None:
                raise
            kind = stop.kind if isinstance(stop, Interrupted) else type(stop)
            raise kind(f"{stop}; resume it with --resume {session.run.models}") from None
        except torch.OutOfMemoryError:
            is_out_of_memory = True  # there the error still holds the frames, and they hold the tensors
        if is_out_of_memory:
            images = config["data_loader"]["args"]["batch_size"]
            raise UserError(f"{device}: out of memory with batches of {images}: {WHAT_TO_LOWER}")


def _refuse_unlike_processes(config: ConfigParser, resume: ResumePoint | RunOfFolds | None) -> None:
    """Several machines may not see the same files. Raises ConfigError, in every process."""
    resolved = json.dumps(config.resolved, sort_keys=True)
    distributed.refuse_difference("config", hashlib.sha256(resolved.encode()).hexdigest()[:16])
    distributed.refuse_difference("checkpoint to resume", str(resume))


def _device_notes(settings: RunSettings, device: torch.device) -> list[str]:
    n_gpu = settings.n_gpu
    if n_gpu > 0 and device.type == "cpu":
        return [f"n_gpu = {n_gpu}, and the run is on the CPU"]
    if n_gpu > 1 and distributed.world_size() == 1:
        return [f"n_gpu = {n_gpu}: one GPU is used; for all: torchrun --nproc-per-node={n_gpu} train.py"]
    return []


def warn_of_bad_test_images(session: Session, test: LabelTable) -> None:
    """Checks the images that only test.py needs, those of the test side and of info_dir, before the training."""
    if session.run is not None or not distributed.is_main_process():  # a resumed run has checked them
        return
    config, trainer = session.config, session.config["trainer"]
    records = [*test.records]
    try:
        records += read_evaluation_images(config)
    except DataError as error:
        logger.warning("info_dir = %s, which test.py will refuse: %s", config.extra().info_dir, error)
    check_images(
        [record.path for record in records],
        Path(trainer["save_dir"]) / CHECKED_IMAGES_FILE,
        "warn",
        config["data_loader"]["args"]["bits_used_of_16"],
        trainer["verbosity"] > 0,
        "training does not need them, but test.py does: repair them",
    )


def warn_of_duplicates(session: Session, folds: Sequence[Fold]) -> None:
    """See `check_duplicates`. A resumed run was warned when it began. Raises DataError."""
    if session.run is None:
        check_duplicates(session.config, folds)


def refuse_folds_of_other_data(session: Session, folds: Sequence[Fold]) -> None:
    """Raises DataError where a fold that was begun has trained on other images, labels or sides than it would now, also
    where another fold alone is trained: folds of different data are no cross-validation."""
    if not isinstance(session.resume, RunOfFolds):
        return
    for fold in folds:
        assert fold.number is not None
        folder, digest = session.resume.run.of_fold(fold.number).models, fold.split.digest()
        if read_record(folder).get("digests", {}).get("split", digest) != digest:
            wrong = "images, labels (pseudo-labels, too), label_fixes or the split have changed since it was trained"
            raise DataError(f"{folder}: {wrong}; put them back, or begin a new run")


def train_fold(session: Session, fold: Fold) -> bool:
    """Trains one model to its end, from the beginning or where it was stopped; its best checkpoint then predicts the
    validation images. Returns False for a dry run.

    Raises a UserError for whatever is wrong with the data or the checkpoint; StopSignal if it was asked to stop, with
    all saved."""
    _settle_batch_size(session, fold)
    config, resume = fold.config, _resume_point(session, fold)
    model = builders.build_model(config, session.labels, resume).to(session.device)
    with distributed.first_of_each_machine():  # to check and prepare the images
        data_loader = builders.build_data_loader(config, fold.split, model, session.device, resume)
    learner = builders.build_learner(config, session.labels, model, data_loader, session.device, resume)
    folders = resume.folders if resume is not None else _new_folders(session, fold)
    with ExitStack() as at_the_end:
        with StopSignals() as stop:
            trainer = builders.build_trainer(config, session.labels, fold.split, learner, data_loader, folders, stop)
            at_the_end.enter_context(_tracked(trainer))
            if resume is not None:
                _load(trainer, resume, config)
            if was_finished := trainer.finished:
                if resume is not None and not session.arguments.dry_run:
                    _repair(trainer, folders, resume)
                epochs = counted(trainer.completed_epochs, "epoch")
                logger.info("%s is finished (after %s; %s)", folders.models, epochs, _why_finished(trainer))
            elif session.arguments.dry_run:
                logger.info("dry run: everything was built and one batch went through: %s", describe(trainer.dry_run()))
                return False
            else:
                if distributed.is_main_process():
                    at_the_end.enter_context(locked(folders.models))  # also while it is evaluated
                _refuse_if_trained_since(folders, resume)
                session.has_trained = True
                record = _begin(session, fold, folders, trainer, resume)
                for line in builders.describe_run(fold.split, data_loader, trainer):
                    logger.info("%s", line)
                _train_to_the_end(trainer, record)
        if not session.arguments.dry_run:
            _evaluate(session, fold, folders, trainer, was_finished)
    if fold.number is None:
        best = "".join(f", best {name} {value:.4f}" for name, value in trainer.best.items() if value is not None)
        _print(f"{folders.models}: {counted(trainer.completed_epochs, 'epoch')}{best}")
    else:
        session.open_log()  # what is logged from here on is not this fold's
    return True


def _resume_point(session: Session, fold: Fold) -> ResumePoint | None:
    """Where the fold's model resumes; None: it begins. Raises DataError, ConfigError, CheckpointError."""
    if isinstance(session.resume, ResumePoint):
        resume: ResumePoint | None = session.resume
    elif fold.number is not None and session.run is not None:
        resume = resume_point_in(session.run.of_fold(fold.number))
        _refuse_unlike_processes(fold.config, resume)
        if resume is not None:
            refuse_another_global_batch(fold.config, resume)
    else:
        resume = None
    if resume is not None:
        refuse_other_data(resume, fold.split.digest())
    return resume


def _why_finished(trainer: Trainer) -> str:
    """Why nothing is left to train, and what extends the run."""
    if trainer.stopped_early:
        return "it stopped early; --set trainer.early_stop=0 extends it"
    if trainer.completed_epochs < trainer.settings.epochs:
        return f"trainer.max_hours = {trainer.settings.max_hours:g} are over"
    return "--set trainer.epochs=... extends it"


def _repair(trainer: Trainer, folders: RunFolders, resume: ResumePoint) -> None:
    """Writes what is damaged of a finished run again."""
    is_log_damaged = builders.log_is_damaged(folders, resume)
    if resume.damaged or is_log_damaged:
        with ExitStack() as lock:
            if distributed.is_main_process():
                lock.enter_context(locked(folders.models))
            if resume.damaged:
                trainer.save(trainer.kept_as(), final=True)
            if is_log_damaged and distributed.is_main_process():
                builders.build_log(folders, resume).close(0)


def _settle_batch_size(session: Session, fold: Fold) -> None:
    """All folds have the batch size that the first one found."""
    own, of_run = (each["data_loader"]["args"] for each in (fold.config, session.config))
    if own["batch_size"] == AUTO:
        own["batch_size"] = of_run["batch_size"]
        settle_batch_size(fold.config, session.labels, fold.split, session.device)
        of_run["batch_size"] = own["batch_size"]


def _refuse_if_trained_since(folders: RunFolders, resume: ResumePoint | None) -> None:
    """Raises CheckpointError where another process has saved since this one read what it resumes."""
    path = folders.models / LAST if resume is None else resume.path
    modified_ns = path.stat().st_mtime_ns if path.exists() else None
    if modified_ns != (None if resume is None else resume.modified_ns):
        raise CheckpointError(f"{path}: another process has saved it meanwhile; give the same command again")


def _new_folders(session: Session, fold: Fold) -> RunFolders:
    """The fold's folders in the run. The main process makes those of a new run, and tells the others their name."""
    if session.run is None:
        save_dir, name = Path(session.config["trainer"]["save_dir"]), session.config["name"]
        if session.arguments.dry_run:
            return RunFolders.in_save_dir(save_dir, name, "")
        run = new_run(save_dir, name, session.arguments.run_id).run if distributed.is_main_process() else ""
        session.run = RunFolders.in_save_dir(save_dir, name, distributed.text_of_main_process(run))
    return session.run if fold.number is None else session.run.of_fold(fold.number)


def _load(trainer: Trainer, resume: ResumePoint, config: ConfigParser) -> None:
    try:
        trainer.load_state_dict(resume.content, resume.path)
    except InvalidConfig as error:
        raise config.error([problem.under(("lr_scheduler",)) for problem in error.problems]) from error
    if trainer.finished:
        return
    warn_of_other_augmentation(resume)
    before, now = resume.content["world_size"], distributed.world_size()
    if before != now:
        same = "its images keep their order; dropout and mixing are drawn by process, and sums are rounded otherwise"
        numbers = f"processes that train it: {before} before, {now} now"
        logger.info("%s: %s (%s)", resume.path, numbers, same)


def _begin(
    session: Session, fold: Fold, folders: RunFolders, trainer: Trainer, resume: ResumePoint | None
) -> RunRecord:
    """From here on files are written: the resolved config, the log, what the trackers keep."""
    session.open_log(folders.log / "info.log")
    logger.info("run folder: %s (log: %s)", folders.models, folders.log)
    logger.info("command: %s", session.arguments.command)
    record = RunRecord(folders.models)
    pseudo_labels = provenance_of_pseudo_labels(fold.config)
    if len(fold.split.validation) and resume is None:
        warn_of_leaks(pseudo_labels, fold.split.validation_digest())
    if distributed.is_main_process():
        digests = {"split": fold.split.digest(), "validation": fold.split.validation_digest()}
        arguments = session.arguments
        machine = {
            "device": describe_device(session.device),
            "cores": number_of_cores(),
            "processes": distributed.world_size(),
        }
        given = (arguments.command, digests, arguments.config_file, pseudo_labels, fold.split.sizes(), machine)
        record.begin(folders, session.config, *given)
        if folders.fold is not None:  # before its own: after a kill a fold without its run's would be damage
            folders.of_run().write_config(with_all_folds(fold.config.resolved))
        folders.write_config(fold.config.resolved)
        for plugin in fold.config.plugins.plugins:
            write_output(folders.models / COPIES / Path(plugin.path).name, plugin.source.decode("utf-8", "replace"))
        for of_a_shorter_run in (folders, folders.of_run()):
            for name in (OUT_OF_FOLD_FILE, REPORT_FILE):
                (of_a_shorter_run.models / name).unlink(missing_ok=True)
    if resume is not None:
        logger.info("resuming from %s, %s done", resume.path, counted(trainer.completed_epochs, "epoch"))
        # Later progress is discarded: last.pth must not be ahead of the metrics.
        if resume.path.name != LAST or resume.damaged:
            trainer.save(trainer.kept_as(), final=True)  # a run that was killed in its first save may lack some of them
    trainer.trackers = builders.build_trackers(fold.config, folders, resume)
    return record


@contextmanager
def _tracked(trainer: Trainer) -> Iterator[None]:
    """Ends the trackers with what came of what is done while it is entered."""
    exit_code = 1
    try:
        yield
        exit_code = 0
    except UserError as error:
        exit_code = error.exit_code
        raise
    except Interrupted as stop:
        exit_code = stop.kind.exit_code
        raise
    finally:
        trainer.trackers.close(exit_code)


def _train_to_the_end(trainer: Trainer, record: RunRecord) -> None:
    """Trains what is left, and ends the record with what came of it."""
    outcome = "failed"
    try:
        with plugin_errors():
            trainer.train()
        outcome = "finished"
    except UserError as error:
        logger.debug("the run ends: %s", error, exc_info=error.__cause__, extra=FOR_FILE_ALONE)
        outcome = type(error).__name__
        raise
    finally:
        if distributed.is_main_process():
            record.end(outcome)


def _evaluate(session: Session, fold: Fold, folders: RunFolders, trainer: Trainer, was_finished: bool) -> None:
    """Predicts the validation images by the best checkpoint, and writes the report of a run that has just been trained;
    the trackers get its pictures."""
    images = fold.split.validation
    table = predict_validation(folders, images, session.device)[1] if len(images) else None
    if not distributed.is_main_process() or (was_finished and (folders.models / REPORT_FILE).exists()):
        return
    write_report(folders.models, images.records)
    if table is not None and trainer.trackers.take_images:
        for name, pictures in draw_pictures(table).items():
            trainer.trackers.log_images(trainer.completed_epochs, name, pictures)


def report(session: Session, folds: Sequence[Fold]) -> RunResult:
    """Prints the scores of a run of folds, once all are trained."""
    run, scores = session.run, None
    assert run is not None
    if folds[0].number is None or session.arguments.dry_run:
        return RunResult(run)
    if all((run.of_fold(number).models / OUT_OF_FOLD_FILE).exists() for number in range(len(folds))):
        kept = all((run.models / name).exists() for name in (OUT_OF_FOLD_FILE, REPORT_FILE))
        is_new = session.has_trained or not kept
        if is_new:
            session.open_log(run.log / "info.log")
        scores = score_folds(run, folds, session.device)
        if is_new and distributed.is_main_process():
            write_report(run.models, [record for fold in folds for record in fold.split.validation.records])
    _print(f"{run.models}: {scores or f'other folds are still to be trained: train.py --resume {run.models}'}")
    return RunResult(run, scores)


def _print(line: str) -> None:
    if distributed.is_main_process():
        print(line)
