"""Where a run goes on: the checkpoint that `--resume` names, or the newest run of the same config."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.checkpoint import candidates, read_resumable
from utils.errors import CheckpointError, DataError, StopSignal
from utils.run_folders import CONFIG_FILE, RunFolders, fold_number, folds_in, read_kept_config, runs_with_config

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
read: another batch size counts other batches, another learning rate would be passed over for the saved one, other data
or another split would validate on people who have trained."""

CACHE = "data_loader.args.cache"
"""An earlier version's "device" augmented with other random numbers: see `refuse_other_augmentation`."""

MAY_MOVE = re.compile(r"data\.\d+\.args\.(root|path)|label_fixes")
"""The same data, and its corrections, may lie elsewhere, where a run is named (`refuse_other_data` looks at what they
say); `--resume auto` takes them for others."""


@dataclass(frozen=True)
class ResumePoint:
    """A run to go on with: its folders, and the checkpoint's content."""

    folders: RunFolders
    content: dict[str, Any]
    path: Path


def resume_from(path: Path) -> tuple[ResumePoint | RunFolders, dict[str, Any]]:
    """What `--resume path` goes on with, and the config that it was trained by: the run that a checkpoint file or a
    folder belongs to, or the folders of a run of folds. Raises CheckpointError."""
    kept = read_kept_config(path) if path.is_dir() else None
    if kept is not None and is_run_of_folds(kept):
        return _folders_of(path, path, kept["name"], path.resolve().name), kept
    if kept is None and path.is_dir() and folds_in(path):
        raise CheckpointError(
            f"{path / CONFIG_FILE}: is missing or damaged, and a run of folds goes on by it; put it back, or name one "
            f"fold, such as {next(iter(folds_in(path).values()))}"
        )
    point = resume_point(path)
    return point, point.content["config"]


def resume_point(path: Path) -> ResumePoint:
    """The run that a checkpoint file or a run folder belongs to. Raises CheckpointError."""
    file, content = read_resumable(path, logger)
    if "imported_from" in content:
        raise CheckpointError(
            f"{file}: was imported from {content['imported_from']}, without an optimizer's state to go on with; "
            "test.py --resume answers with it"
        )
    folder = path if path.is_dir() else path.parent
    return ResumePoint(_folders_of(folder, path, content["config"]["name"], content["run_name"]), content, file)


def refuse_other_data(resume: ResumePoint, split_digest: str) -> None:
    """Raises DataError where the images, their labels or their sides are no longer those that the run began with."""
    if resume.content.get("split_digest", split_digest) != split_digest:
        raise DataError(
            f"{resume.path}: was trained on other data: images, labels or the sides of the split have changed since "
            "(the sources, their tables, or label_fixes); put them back to go on, or begin a new run"
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
    return config["data_loader"].get("args", {}).get("cache")


def resume_point_of_fold(run: RunFolders, fold: int) -> ResumePoint | None:
    """Where a fold of a run goes on; None if it has not begun. Raises CheckpointError."""
    folders = run.of_fold(fold)
    if not folders.models.is_dir() or not any(candidate.exists() for candidate in candidates(folders.models)):
        return None
    file, content = read_resumable(folders.models, logger)
    return ResumePoint(folders, content, file)


@contextmanager
def stopping_tells_how_to_go_on(begun: RunFolders | None) -> Iterator[None]:
    """For work before and after the training, of which nothing is to be saved. begun: the run's folders, or a fold's,
    if there are any."""
    try:
        yield
    except StopSignal as signal:
        if begun is None:
            raise
        raise type(signal)(f"{signal}; go on with --resume {begun.of_run().models}") from None


def _folders_of(folder: Path, named: Path, name: str, run: str) -> RunFolders:
    """The run folders of which `folder` is the one of checkpoints; `named` is what errors name.

    Raises CheckpointError if it lies elsewhere."""
    models, fold = folder.resolve(), fold_number(folder.resolve().name)
    if fold is not None:
        models = models.parent
    if models.parts[-3:] != ("models", name, run):
        raise CheckpointError(f"{named}: lies outside its run's folder models/{name}/{run}; put it back there to go on")
    save_dir = models.parents[2]
    if save_dir.is_relative_to(Path.cwd()):
        save_dir = save_dir.relative_to(Path.cwd())
    return RunFolders(save_dir, name, run, fold)


def newest_run(save_dir: Path, config: dict[str, Any]) -> ResumePoint | RunFolders | None:
    """The newest run of this config that has a checkpoint: what `--resume auto` goes on with, if there is one."""
    for folders, kept_config in runs_with_config(save_dir, config["name"]):
        if cache_of(kept_config) == "device" and cache_of(config) != "device":
            continue
        if any(not _may_change(place) for place, _, _ in _differences(kept_config, config, "")):
            continue
        if is_run_of_folds(config):
            return folders
        if any(candidate.exists() for candidate in candidates(folders.models)):
            file, content = read_resumable(folders.models, logger)
            return ResumePoint(folders, content, file)
    return None


def is_run_of_folds(config: Mapping[str, Any]) -> bool:
    """True for a config that trains all folds of its split in turn, each a model of its own."""
    split = config["split"]
    return split["type"] == "KFoldSplit" and split.get("args", {}).get("fold") is None


def with_all_folds(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of the run that a fold with this config belongs to."""
    arguments = {key: value for key, value in config["split"]["args"].items() if key != "fold"}
    return {**config, "split": {**config["split"], "args": arguments}}


def forbidden_changes(trained: dict[str, Any], config: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """What a config changes that may not change in a run: each dotted place, what stood there, and what does now."""
    return [
        (place, before, now)
        for place, before, now in _differences(trained, config, "")
        if not _may_change(place) and not MAY_MOVE.fullmatch(place)
    ]


def _may_change(place: str) -> bool:
    return any(place == free or place.startswith(f"{free}.") for free in MAY_CHANGE)


def _differences(before: Any, now: Any, place: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in {**before, **now}:
            yield from _differences(before.get(key), now.get(key), f"{place}.{key}" if place else key)
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now) and place not in MAY_CHANGE:
        for number, (one, other) in enumerate(zip(before, now, strict=True)):
            yield from _differences(one, other, f"{place}.{number}")
    elif before != now:
        yield place, before, now
