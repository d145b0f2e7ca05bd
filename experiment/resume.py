"""Where a run resumes: the checkpoint that `--resume` names, or the newest run of the same config."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiment.folds import is_run_of_folds
from parse_config import ConfigParser
from trainer.checkpoint import candidates, read_resumable
from utils.config.former_defaults import upgraded
from utils.errors import CheckpointError, ConfigError, DataError, StopSignal
from utils.run_folders import CONFIG_FILE, RunFolders, fold_number, folds_in, read_kept_config, runs_with_config
from utils.wording import format_value

logger = logging.getLogger(__name__)

MAY_CHANGE = (
    "n_gpu",
    "wandb",
    "visualize",
    "submit_dir",
    "info_dir",
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

CACHE = "data_loader.args.cache"
"""An earlier version's "device" augmented with other random numbers: see `refuse_other_augmentation`."""

MAY_MOVE = re.compile(r"data\.\d+\.args\.(root|path)|label_fixes")
"""The same data, and its corrections, may be elsewhere, where a run is named (`refuse_other_data` looks at what they
say); `--resume auto` takes them for others."""


@dataclass(frozen=True)
class ResumePoint:
    """A run to resume: its folders, the checkpoint's content, and its file."""

    folders: RunFolders
    content: dict[str, Any]
    path: Path


def resume_from(path: Path) -> tuple[ResumePoint | RunFolders, dict[str, Any]]:
    """What `--resume path` resumes, and the config that it was trained by: the run that a checkpoint file or a folder
    belongs to, or the folders of a run of folds. Raises CheckpointError."""
    kept = read_kept_config(path) if path.is_dir() else None
    if kept is not None and is_run_of_folds(kept):
        return _folders_of(path, kept["name"], None), kept
    if kept is None and path.is_dir() and folds_in(path):
        raise CheckpointError(
            f"{path / CONFIG_FILE}: is missing or damaged, and a run of folds resumes by it; put it back, or name one "
            f"fold, such as {next(iter(folds_in(path).values()))}"
        )
    file, content = _read(path)
    if "imported_from" in content:
        raise CheckpointError(
            f"{file}: was imported from {content['imported_from']}, without an optimizer's state to resume with; "
            "test.py --resume answers with it"
        )
    if Path(content["run_name"]).name != content["run_name"]:
        raise CheckpointError(
            f"{file}: run_name = {content['run_name']!r} is not a folder's name; do not use this file"
        )
    folders = _folders_of(path if path.is_dir() else path.parent, content["config"]["name"], content["run_name"])
    return ResumePoint(folders, content, file), content["config"]


def _read(path: Path) -> tuple[Path, dict[str, Any]]:
    """As `read_resumable`, with the config in this version's form."""
    file, content = read_resumable(path, logger)
    return file, {**content, "config": upgraded(content["config"])}


def refuse_other_data(resume: ResumePoint, split_digest: str) -> None:
    """Raises DataError where the images, their labels or their sides are no longer those that the run began with."""
    if resume.content.get("split_digest", split_digest) != split_digest:
        raise DataError(
            f"{resume.path}: was trained on other data: images, labels or the sides of the split have changed since "
            "(the sources, their tables, or label_fixes); put them back to resume it, or begin a new run"
        )


def refuse_other_augmentation(resume: ResumePoint, config: Mapping[str, Any]) -> None:
    """Raises CheckpointError where the run was augmented on the device, which no version does any more, unless the
    config says by another `cache` that other random numbers will do. For a run that is to train on."""
    if cache_of(config) == cache_of(resume.content["config"]) == "device":
        raise CheckpointError(
            f'{resume.path}: was trained with {CACHE} = "device", whose random augmentations were taken out; test.py '
            f"answers with it; --set {CACHE}=disk resumes with other random numbers, or begin a new run"
        )


def cache_of(config: Mapping[str, Any]) -> str | None:
    """data_loader.args.cache, None where the config does not give it."""
    return config["data_loader"]["args"].get("cache")


def replace_device_cache(config: ConfigParser, resume: ResumePoint | RunFolders | None) -> None:
    """An earlier version's cache "device" becomes "disk", but in a run that was trained with it."""
    trained: Mapping[str, Any] | None = None
    if resume is not None:
        trained = resume.content["config"] if isinstance(resume, ResumePoint) else read_kept_config(resume.models)
    if cache_of(config.resolved) == "device" and (not trained or cache_of(trained) != "device"):
        config["data_loader"]["args"]["cache"] = "disk"
        config.notes.append(
            f'{config.origin(CACHE)}: {CACHE} = "device" is no longer supported; "disk" is used instead'
        )


def resume_point_in(folders: RunFolders) -> ResumePoint | None:
    """Where the run or the fold in these folders resumes; None if it has saved nothing. Raises CheckpointError."""
    if not folders.models.is_dir() or not any(candidate.exists() for candidate in candidates(folders.models)):
        return None
    file, content = _read(folders.models)
    return ResumePoint(folders, content, file)


@contextmanager
def stopping_says_how_to_resume(run: RunFolders | None) -> Iterator[None]:
    """For work before and after the training, of which nothing is to be saved. run: None where it has not begun."""
    try:
        yield
    except StopSignal as signal:
        if run is None:
            raise
        raise type(signal)(f"{signal}; resume it with --resume {run.models}") from None


def _folders_of(folder: Path, name: str, run: str | None) -> RunFolders:
    """The run folders of which `folder` is the one of checkpoints, or a fold's; run: None is the folder's own name.

    A run that was moved resumes where it is; its log continues where that was moved to beside it, or begins anew."""
    models = folder.resolve()
    fold = fold_number(models.name)
    if fold is not None and (models.parent.name == run or read_kept_config(models.parent) is not None):
        models = models.parent
    else:
        fold = None
    run = run or models.name
    logs = [models / "log"]
    if len(models.parts) > 3 and models.parts[-3] == "models":
        logs = [models.parents[2] / "log" / each for each in (Path(*models.parts[-2:]), Path(name, run))]
    log = next((each for each in logs if each.is_dir()), logs[0])
    folders = RunFolders(_from_here(models), _from_here(log), run, fold)
    if not log.is_dir():
        logger.warning(
            "%s: the log of its earlier epochs, log/%s/%s, is not beside it; a new one begins in %s",
            folders.run_models,
            name,
            run,
            folders.run_log,
        )
    elif models.parts[-3:] != ("models", name, run):
        logger.info("%s: was moved; its log continues in %s", folders.run_models, folders.run_log)
    return folders


def _from_here(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def newest_run(config: ConfigParser) -> ResumePoint | RunFolders | None:
    """The newest run of this config that has a checkpoint: what `--resume auto` resumes, if there is one."""
    for folders, kept_config in runs_with_config(Path(config["trainer"]["save_dir"]), config["name"]):
        if cache_of(kept_config) == "device" != cache_of(config.resolved):
            continue
        changes = differences(config.completed(kept_config), config.resolved)
        if any(not _may_change(key_path) for key_path, _, _ in changes):
            continue
        if is_run_of_folds(config.resolved):
            return folders
        if (point := resume_point_in(folders)) is not None:
            return point
    return None


def refuse_another_run(config: ConfigParser, trained: dict[str, Any]) -> None:
    """Raises ConfigError for what a config changes of a run that has begun, and that the run depends on."""
    lines = []
    for key_path, before, now in forbidden_changes(config.completed(trained), config.resolved):
        earlier = "without it" if before is None else f"with {format_value(before)}"
        lines.append(f"{config.origin(key_path)}: {key_path} = {format_value(now)}, and the run was trained {earlier}")
    if lines:
        raise ConfigError("\n".join([*lines, "resume without these changes, or begin a new run (without --resume)"]))


def forbidden_changes(trained: dict[str, Any], config: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """What a config changes that may not change in a run: each dotted key path, its value before, and now."""
    return [
        (key_path, before, now)
        for key_path, before, now in differences(trained, config)
        if not _may_change(key_path) and not MAY_MOVE.fullmatch(key_path)
    ]


def _may_change(key_path: str) -> bool:
    return any(key_path == free or key_path.startswith(f"{free}.") for free in MAY_CHANGE)


def differences(before: Any, now: Any, key_path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two configs differ: each dotted key path, its value in the first (None: absent), and in the second."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in {**before, **now}:
            yield from differences(before.get(key), now.get(key), f"{key_path}.{key}" if key_path else key)
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now) and key_path not in MAY_CHANGE:
        for number, (one, other) in enumerate(zip(before, now, strict=True)):
            yield from differences(one, other, f"{key_path}.{number}")
    elif before != now:
        yield key_path, before, now
