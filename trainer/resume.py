"""Where a run goes on: the checkpoint that `--resume` names, or the newest run of the same config."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.checkpoint import read_resumable
from utils.errors import CheckpointError
from utils.run_folders import RunFolders, runs_with_config

logger = logging.getLogger(__name__)

MAY_CHANGE = (
    ("n_gpu",),
    ("wandb",),
    ("visualize",),
    ("submit_dir",),
    ("info_dir",),
    ("trainer", "epochs"),
    ("trainer", "verbosity"),
    ("trainer", "tensorboard"),
    ("data_loader", "args", "num_workers"),
    ("data_loader", "args", "valid_batch_size"),
)
"""What may differ between two configs of one run: it changes nothing that was computed so far."""

FIXED_IN_A_RUN = ("labels", "arch", "split", "seed", "optimizer", "lr_scheduler")
"""What may never: weights are of one model; the learning rate and the moments are in the saved state, which would pass
over another value in silence; and another split would validate on people who have trained."""


@dataclass(frozen=True)
class ResumePoint:
    """A run to go on with: its folders, and the checkpoint's content."""

    folders: RunFolders
    content: dict[str, Any]
    path: Path


def resume_point(path: Path) -> ResumePoint:
    """The run that a checkpoint file or a run folder belongs to. Raises CheckpointError."""
    file, content = read_resumable(path, logger)
    models = path if path.is_dir() else path.parent
    parents = models.resolve().parents
    name, save_dir = content["config"]["name"], models.parents[2] if len(models.parents) > 2 else Path()
    if len(parents) < 3 or (models.resolve().name, parents[0].name, parents[1].name) != (
        content["run_name"],
        name,
        "models",
    ):
        raise CheckpointError(
            f"{path}: lies outside its run's folder models/{name}/{content['run_name']}; put it back there to go on"
        )
    return ResumePoint(RunFolders(save_dir, name, content["run_name"]), content, file)


def newest_run(save_dir: Path, config: dict[str, Any]) -> ResumePoint | None:
    """The newest run of this config that has a checkpoint: what `--resume auto` goes on with, if there is one."""
    for folders, kept_config in runs_with_config(save_dir, config["name"]):
        if _comparable(kept_config) == _comparable(config) and any(folders.models.glob("*.pth")):
            file, content = read_resumable(folders.models, logger)
            return ResumePoint(folders, content, file)
    return None


def _comparable(config: dict[str, Any]) -> dict[str, Any]:
    config = copy.deepcopy(config)
    for *place, key in MAY_CHANGE:
        part = config
        for step in place:
            part = part.get(step, {})
        part.pop(key, None)
    return config


def forbidden_changes(trained: dict[str, Any], config: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """What a config changes that may not change in a run: each dotted place, what stood there, and what does now."""
    return [
        (place, before, now)
        for place, before, now in _differences(trained, config, "")
        if any(f"{place}.".startswith(f"{fixed}.") for fixed in FIXED_IN_A_RUN)
    ]


def _differences(before: Any, now: Any, place: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in {**before, **now}:
            yield from _differences(before.get(key), now.get(key), f"{place}.{key}" if place else key)
    elif before != now:
        yield place, before, now
