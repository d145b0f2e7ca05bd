"""Where a run goes on: the checkpoint that `--resume` names, or the newest run of the same config."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.checkpoint import candidates, read_resumable
from utils.errors import CheckpointError
from utils.run_folders import RunFolders, runs_with_config

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
    "data_loader.args.num_workers",
    "data_loader.args.valid_batch_size",
)
"""What may differ between two configs of one run. All else decides what was computed, or how the saved state is to be
read: another batch size counts other batches, another learning rate would be passed over for the saved one, other data
or another split would validate on people who have trained."""

MAY_MOVE = re.compile(r"data\.\d+\.args\.(root|path)")
"""The same data may lie elsewhere, where a run is named; `--resume auto` takes it for other data."""


@dataclass(frozen=True)
class ResumePoint:
    """A run to go on with: its folders, and the checkpoint's content."""

    folders: RunFolders
    content: dict[str, Any]
    path: Path


def resume_point(path: Path) -> ResumePoint:
    """The run that a checkpoint file or a run folder belongs to. Raises CheckpointError."""
    file, content = read_resumable(path, logger)
    models = (path if path.is_dir() else path.parent).resolve()
    name, run = content["config"]["name"], content["run_name"]
    if models.parts[-3:] != ("models", name, run):
        raise CheckpointError(f"{path}: lies outside its run's folder models/{name}/{run}; put it back there to go on")
    save_dir = models.parents[2]
    if save_dir.is_relative_to(Path.cwd()):
        save_dir = save_dir.relative_to(Path.cwd())
    return ResumePoint(RunFolders(save_dir, name, run), content, file)


def newest_run(save_dir: Path, config: dict[str, Any]) -> ResumePoint | None:
    """The newest run of this config that has a checkpoint: what `--resume auto` goes on with, if there is one."""
    for folders, kept_config in runs_with_config(save_dir, config["name"]):
        same = all(place in MAY_CHANGE for place, _, _ in _differences(kept_config, config, ""))
        if same and any(candidate.exists() for candidate in candidates(folders.models)):
            file, content = read_resumable(folders.models, logger)
            return ResumePoint(folders, content, file)
    return None


def forbidden_changes(trained: dict[str, Any], config: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """What a config changes that may not change in a run: each dotted place, what stood there, and what does now."""
    return [
        (place, before, now)
        for place, before, now in _differences(trained, config, "")
        if place not in MAY_CHANGE and not MAY_MOVE.fullmatch(place)
    ]


def _differences(before: Any, now: Any, place: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in {**before, **now}:
            yield from _differences(before.get(key), now.get(key), f"{place}.{key}" if place else key)
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now) and place not in MAY_CHANGE:
        for number, (one, other) in enumerate(zip(before, now, strict=True)):
            yield from _differences(one, other, f"{place}.{number}")
    elif before != now:
        yield place, before, now
