"""Where a run resumes: the checkpoint that `--resume` names, or the newest run of the same config."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_loader.data_loaders import AUTO
from experiment.folds import is_run_of_folds, with_all_folds
from experiment.run_record import read_record
from parse_config import ConfigParser
from trainer.checkpoint import Resumable, read_newest, read_resumable, resumable_files
from utils import distributed
from utils.config.former_defaults import upgraded
from utils.config.plugins import FLAG, KEY, changes_accepted
from utils.errors import CheckpointError, ConfigError, DataError
from utils.run_folders import CONFIG_FILE, RunFolders, fold_number, folds_in, read_kept_config, runs_named
from utils.wording import format_value

logger = logging.getLogger(__name__)

MAY_CHANGE = (
    "n_gpu",
    "wandb",
    "mlflow",
    "trackers",
    "sweep",
    "visualize",
    "submit_dir",
    "info_dir",
    "duplicates",
    "trainer.epochs",
    "trainer.save_dir",
    "trainer.save_period",
    "trainer.save_best",
    "trainer.monitor",
    "trainer.early_stop",
    "trainer.verbosity",
    "trainer.tensorboard",
    "views",
    "data_loader.args.num_workers",
    "data_loader.args.valid_batch_size",
    "data_loader.args.cache",
    "data_loader.args.cache_budget_gib",
)
"""What may differ between two configs of one run. All else decides what was computed, or how the saved state is to be
read: another batch size counts other batches, the saved learning rate would win over another, other data or another
split would validate on people who have trained."""

MAY_MOVE = re.compile(
    r"data\.\d+\.args\.(root|path)|label_fixes|preparation\.\d+\.args\.weights_file|plugins\.\d+\.path"
)
"""The data, its corrections, plug-ins and the networks that prepare pictures may have moved when a run is named (their
content is compared: `refuse_other_data`, `refuse_other_networks`, PLUGIN_CONTENT); `--resume auto` takes them for
others."""

BATCH_SIZE = "data_loader.args.batch_size"
"""Of each process: what must stay is the product with their number (`refuse_another_global_batch`)."""

IN_EVERY_CHECKPOINT = ("config", "run_name")
"""Keys that imported weights and soups have, too."""

TO_RESUME = (
    *("completed_epochs", "batches_done", "updates", "world_size", "monitors", "epochs_without_better"),
    *("stopped_early", "trackers", "model", "preprocessing", "schedule", "scaler"),
)
"""Further keys of every checkpoint that has an optimizer's state."""

PLUGIN_CONTENT = re.compile(r"plugins\.\d+\.sha256")


@dataclass(frozen=True)
class ResumePoint:
    """A model to resume.

    folders: of its run
    content: the checkpoint's
    path: of the checkpoint's file
    modified_ns: that file's time of change
    damaged: checkpoints of the run that are to be written again
    """

    folders: RunFolders
    content: dict[str, Any]
    path: Path
    modified_ns: int
    damaged: tuple[Path, ...] = ()

    @property
    def run(self) -> RunFolders:
        """The whole run's folders."""
        return self.folders.of_run()

    def batches(self, config: ConfigParser) -> tuple[int, int]:
        """The batch size and the number of processes that it was trained with at last."""
        trained = config.sections.with_defaults(self.content["config"])
        return trained["data_loader"]["args"]["batch_size"], self.content["world_size"]

    def begins_a_model(self, config: ConfigParser, fold: int | None) -> bool:  # noqa: ARG002
        """Whether some model that is trained now begins with its initial weights."""
        return False

    def __str__(self) -> str:
        return f"{self.path} of {self.content['completed_epochs']} epochs and {self.content['updates']} updates"


@dataclass(frozen=True)
class RunOfFolds:
    """A run of folds to resume: each of its models has a ResumePoint of its own, or is still to be begun.

    run: its folders
    """

    run: RunFolders

    def batches(self, config: ConfigParser) -> tuple[int, int]:
        """The batch size and the number of processes that the last of its models was trained with."""
        trained = config.sections.with_defaults(_find_config(self.run.models)[0] or config.resolved)
        records = [read_record(folder) for folder in folds_in(self.run.models).values()]
        sessions = [session for record in records for session in record.get("sessions", [])]
        last: dict[str, Any] = max(sessions, key=lambda session: session.get("began", ""), default={})
        return trained["data_loader"]["args"]["batch_size"], last.get("processes", distributed.world_size())

    def begins_a_model(self, config: ConfigParser, fold: int | None) -> bool:
        """Whether some model that is trained now begins with its initial weights: of a fold that has saved nothing yet.

        fold: the only one that is trained; None: all"""
        folds = range(config.shared("split").folds) if fold is None else [fold]
        return not all(resumable_files(self.run.of_fold(number).models) for number in folds)

    def __str__(self) -> str:
        return str(self.run.models)


def resume_from(path: Path) -> tuple[ResumePoint | RunOfFolds, dict[str, Any]]:
    """What `--resume path` resumes, and the config that it was trained with: the run of a checkpoint file or a folder,
    or the folders of a run of folds. Raises CheckpointError."""
    if path.is_dir() and (folds_in(path) or read_kept_config(path) is not None):
        kept = kept_config(path)
        if kept is None:
            raise CheckpointError(f"{path / CONFIG_FILE}: is missing or damaged, and no fold has one: restore it")
        if is_run_of_folds(kept):
            return RunOfFolds(run_folders_of(path)), kept
    (file, content, damaged), modified_ns = _read(path)
    if "optimizer" not in content:
        raise CheckpointError(f"{file}: was imported, or is a soup: no optimizer's state to resume with; use --from")
    if Path(content["run_name"]).name != content["run_name"]:
        raise CheckpointError(f"{file}: run_name = {content['run_name']!r} is no folder's name; do not use this file")
    folders = run_folders_of(path if path.is_dir() else path.parent)
    return ResumePoint(folders, content, file, modified_ns, damaged), content["config"]


def _read(path: Path) -> tuple[Resumable, int]:
    """As `read_resumable`, with the config in this version's form; and the file's time of change before it was read.

    Raises CheckpointError, also where a key is missing that a resumed run needs."""
    files = path.glob("*.pth") if path.is_dir() else [path]
    modified_ns = {file: file.stat().st_mtime_ns for file in files if file.exists()}
    found = read_resumable(path)
    needed = IN_EVERY_CHECKPOINT + (TO_RESUME if "optimizer" in found.content else ())
    if missing := [name for name in needed if name not in found.content]:
        wrong = f"lacks {', '.join(missing)}, which every checkpoint of this program has"
        raise CheckpointError(f"{found.file}: {wrong}; use an earlier checkpoint")
    content = {**found.content, "config": upgraded(found.content["config"])}
    if found.file not in modified_ns:
        raise CheckpointError(f"{found.file}: another process has saved it meanwhile; give the same command again")
    return found._replace(content=content), modified_ns[found.file]


def resume_point_in(folders: RunFolders) -> ResumePoint | None:
    """Where the run or the fold in these folders resumes; None if it has saved nothing to resume from.

    Raises CheckpointError."""
    if not resumable_files(folders.models):
        return None
    (file, content, damaged), modified_ns = _read(folders.models)
    if "optimizer" not in content:  # it was imported, or is a soup
        return None
    return ResumePoint(folders, content, file, modified_ns, damaged)


def run_folders_of(folder: Path) -> RunFolders:
    """The run folders of which `folder` is the one of checkpoints, or a fold's. A run that was moved resumes where it
    is; its log continues, or begins, beside it."""
    models = folder.resolve()
    fold = fold_number(models.name) if (models.parent / CONFIG_FILE).exists() else None
    if fold is not None:
        models = models.parent
    is_in_save_dir = len(models.parts) > 3 and models.parts[-3] == "models"
    log = models.parents[2].joinpath("log", *models.parts[-2:]) if is_in_save_dir else models / "log"
    folders = RunFolders(_relative_to_here(models), _relative_to_here(log), models.name, fold)
    if not log.is_dir():
        text = "%s: its log was not moved with it; one with all its numbers begins in %s"
        logger.warning(text, folder, folders.run_log)
    return folders


def _relative_to_here(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def kept_config(folder: Path) -> dict[str, Any] | None:
    """The config that a run keeps in its folder. Where it is damaged, that of its checkpoint, or its first fold's, with
    a warning. None for a run that has saved nothing.

    Raises CheckpointError where the checkpoints are damaged, too."""
    config, found = _find_config(folder)
    if config is not None and found.name != CONFIG_FILE:
        logger.warning("%s: is missing or damaged; the config of %s is used", folder / CONFIG_FILE, found)
    return config


def _find_config(folder: Path) -> tuple[dict[str, Any] | None, Path]:
    """As `kept_config`, and the file or the fold that has it."""
    config = read_kept_config(folder)
    if config is not None and all(isinstance(config.get(name), dict) for name in ("split", "data_loader", "arch")):
        return config, folder / CONFIG_FILE
    if resumable_files(folder):
        file, content = read_newest(folder, warn=False)  # they are warned of where the run is resumed
        return upgraded(content["config"]), file
    for fold in folds_in(folder).values():
        config, _ = _find_config(fold)
        if config is not None:
            return with_all_folds(config), fold
    return None, folder


def newest_run(config: ConfigParser) -> ResumePoint | RunOfFolds | None:
    """The newest run of this config that has a checkpoint: what `--resume auto` resumes, if there is one.

    Raises ConfigError where another number of processes would change its global batch."""
    runs = runs_named(Path(config["trainer"]["save_dir"]), config["name"])
    for folders in sorted(runs, key=_began, reverse=True):
        kept = kept_config(folders.models)
        if kept is None:
            continue
        changes = differences(config.sections.with_defaults(kept), config.resolved)
        changed = {key_path for key_path, _, now in changes if not _may_change(key_path, now)}
        if changed - {BATCH_SIZE}:
            continue
        resume = RunOfFolds(folders) if is_run_of_folds(config.resolved) else resume_point_in(folders)
        if resume is None:
            continue
        keep_batch_size(config, resume)
        problem = another_global_batch(config, resume)
        if problem is None:
            return resume
        if resume.batches(config)[1] != distributed.world_size():
            raise ConfigError(problem)
    return None


def _began(run: RunFolders) -> tuple[str, str]:
    """When a run began, which sorts by time: as its record has it, or else its name."""
    records = [read_record(folder) for folder in (run.models, *folds_in(run.models).values())]
    times = [str(record["sessions"][0].get("began", "")) for record in records if record.get("sessions")]
    return re.sub(r"\D", "", min(times, default=run.run))[:14], run.run


def refuse_another_global_batch(config: ConfigParser, resume: ResumePoint | RunOfFolds) -> None:
    """Raises ConfigError where the images of a step, over all processes, would not be those that the run began with.

    For one global batch the stream of images is the same for any number of processes, so a run may resume with another
    number where batch_size makes up for it."""
    if problem := another_global_batch(config, resume):
        raise ConfigError(problem)


def another_global_batch(config: ConfigParser, resume: ResumePoint | RunOfFolds) -> str | None:
    """What is wrong, with its remedy; None where the global batch stays."""
    own, now = config["data_loader"]["args"]["batch_size"], distributed.world_size()
    batch_size, processes = resume.batches(config)
    total = batch_size * processes
    if own * now == total:
        return None
    origin = config.origin(BATCH_SIZE)
    if now == processes:
        wrong = f"{BATCH_SIZE} = {own}, and the run was trained with {batch_size}"
        return f"{origin}: {wrong}; resume without this change, or begin a new run (without --resume)"
    wrong = f"{BATCH_SIZE} = {own} on {_processes(now)}, and the run was trained with {batch_size} on {processes}"
    if total % now:
        fits = [str(number) for number in range(1, total + 1) if total % number == 0]
        remedy = f"the number of processes must be one of {', '.join(fits)}"
    else:
        remedy = f"--bs {total // now} keeps the global batch of {total}"
    return f"{origin}: {wrong}; {remedy}, or begin a new run (without --resume)"


def _processes(number: int) -> str:
    return "1 process" if number == 1 else f"{number} processes"


def refuse_other_data(resume: ResumePoint, split_digest: str) -> None:
    """Raises DataError where the images, their labels or their sides are no longer those that the run began with."""
    if resume.content.get("split_digest", split_digest) != split_digest:
        wrong = "images, labels (pseudo-labels, too), label_fixes or the split have changed since"
        raise DataError(f"{resume.path}: {wrong}; put them back, or begin a new run")


def warn_of_other_augmentation(resume: ResumePoint) -> None:
    """Some earlier versions augmented on the GPU, with other random numbers."""
    if resume.content["config"]["data_loader"]["args"].get("cache") == "device":
        note = 'was trained with data_loader.args.cache = "device"; it resumes with "disk" and other random numbers'
        logger.warning("%s: %s", resume.path, note)


def refuse_another_run(config: ConfigParser, trained: dict[str, Any]) -> None:
    """Raises ConfigError for what a config changes of a run that has begun, and that the run depends on."""
    lines = []
    for key_path, before, now in forbidden_changes(config.sections.with_defaults(trained), config.resolved):
        if key_path == BATCH_SIZE:
            continue  # refuse_another_global_batch
        if PLUGIN_CONTENT.fullmatch(key_path):
            path = config[KEY][int(key_path.split(".")[1])]["path"]
            remedy = f"put it back, or take it as it is with {FLAG}"
            lines.append(f"{config.origin(key_path)}: {path} has changed since the run was trained; {remedy}")
            continue
        earlier = "without it" if before is None else f"with {format_value(before)}"
        lines.append(f"{config.origin(key_path)}: {key_path} = {format_value(now)}, and the run was trained {earlier}")
    if lines:
        raise ConfigError("\n".join([*lines, "resume without these changes, or begin a new run (without --resume)"]))


def refuse_edited_config(config: ConfigParser, resume: RunOfFolds) -> None:
    """Raises ConfigError where the config.json of a run of folds is no longer what its folds have been trained with."""
    begun = [fold for fold in folds_in(resume.run.models).values() if resumable_files(fold)]
    if begun:
        _, content = read_newest(begun[0], warn=False)
        refuse_another_run(config, with_all_folds(upgraded(content["config"])))


def warn_of_edited_config(config: ConfigParser, resume: ResumePoint) -> None:
    """The config of a checkpoint is used, whatever the config.json beside it says."""
    kept = read_kept_config(resume.folders.models)
    with_defaults = config.sections.with_defaults
    trained = with_defaults(resume.content["config"])
    edited = [] if kept is None else [name for name, _, _ in forbidden_changes(trained, with_defaults(kept))]
    if edited:
        file, names = resume.folders.models / CONFIG_FILE, ", ".join(edited)
        logger.warning("%s: was edited (%s), which changes nothing: %s has the config", file, names, resume.path.name)


def forbidden_changes(trained: Mapping[str, Any], config: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """What a config changes that may not change in a run: each dotted key path, its value before, and now."""
    return [
        (key_path, before, now)
        for key_path, before, now in differences(trained, config)
        if not _may_change(key_path, now) and not MAY_MOVE.fullmatch(key_path)
        if not (changes_accepted() and PLUGIN_CONTENT.fullmatch(key_path))
    ]


def keep_batch_size(config: ConfigParser, resume: ResumePoint | RunOfFolds) -> None:
    """A run that is resumed keeps the global batch that it began with, where the config asks for "auto"."""
    arguments = config["data_loader"]["args"]
    if arguments["batch_size"] == AUTO:
        batch_size, processes = resume.batches(config)
        total, now = batch_size * processes, distributed.world_size()
        arguments["batch_size"] = batch_size if total % now else total // now  # the former is refused


def _may_change(key_path: str, now: Any) -> bool:
    if key_path == BATCH_SIZE and now == AUTO:
        return True
    return any(key_path == free or key_path.startswith(f"{free}.") for free in MAY_CHANGE)


def differences(before: Any, now: Any, key_path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two configs differ: each dotted key path, its value in the first (None: absent), and in the second."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in {**before, **now}:
            yield from differences(before.get(key), now.get(key), f"{key_path}.{key}" if key_path else key)
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for number, (one, other) in enumerate(zip(before, now, strict=True)):
            yield from differences(one, other, f"{key_path}.{number}")
    elif before != now:
        yield key_path, before, now
