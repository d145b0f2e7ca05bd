"""Which checkpoints of a run are kept, and which one a stopped run resumes from."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from trainer.monitor import Monitor
from utils.checkpoint.checkpoint_file import read_checkpoint, write_checkpoint
from utils.errors import CheckpointError
from utils.files import link_or_copy, move

logger = logging.getLogger(__name__)

LAST = "last.pth"
BEST = "model_best.pth"


class Checkpoints:
    """The checkpoint files of one run, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, state: dict[str, Any], also_as: Sequence[str] = ()) -> Path:
        """Writes `state` as last.pth, and under the other names. Raises OSError; then the earlier files remain.

        last.pth comes last: a run killed before it resumes from the one before and writes the others again, equal. In
        its first save it resumes from one of the others, which are then written again, too."""
        if not self.folder.is_dir():
            logger.warning("%s: was moved or removed while it is trained; it is made again", self.folder)
        pending = self.folder / ".pending"
        try:
            write_checkpoint(pending, state)
            for name in also_as:
                link_or_copy(pending, self.folder / name)
            move(pending, self.folder / LAST)
        finally:
            pending.unlink(missing_ok=True)  # it is still there after a failure
        return self.folder / LAST


def resumable_files(folder: Path) -> list[Path]:
    """The checkpoints that a run folder may be resumed from: last.pth, and the others in no order of time."""
    return [path for name in (LAST, "checkpoint-epoch*.pth", BEST, "best_*.pth") for path in sorted(folder.glob(name))]


def read_newest(folder: Path, *, warn: bool = True) -> tuple[Path, dict[str, Any]]:
    """The file and the content of a run folder's newest sound checkpoint; a damaged one is skipped with a warning.

    Raises CheckpointError if there is none."""
    damaged: dict[Path, str] = {}
    newest = _newest(folder, damaged)
    if warn:
        _warn(damaged)
    return newest


class Resumable(NamedTuple):
    """The file and the content of a checkpoint to resume from, and the files that were found damaged."""

    file: Path
    content: dict[str, Any]
    damaged: tuple[Path, ...]


def read_resumable(path: Path) -> Resumable:
    """The checkpoint `path`, or the one from which the run folder `path` resumes: the newest sound one. Where a best
    checkpoint is damaged, the newest that is of no later time: the run writes it again.

    A damaged file is skipped with a warning. Raises CheckpointError if there is no such checkpoint."""
    if not path.is_dir():
        return Resumable(path, read_checkpoint(path), ())
    damaged: dict[Path, str] = {}
    file, content = _newest(path, damaged)
    lost = {best: epoch for best, epoch in _best_files(path, content).items() if not _is_sound(best, file, damaged)}
    if lost:
        earlier = _newest_of(resumable_files(path), damaged, (min(lost.values()), 0))
        if earlier is None:
            best = min(lost, key=lambda each: lost[each])
            why = f"and no checkpoint up to epoch {lost[best]} is left, to resume from and write it again"
            raise CheckpointError(f"{damaged[best]}; {why}: remove it, to resume without it from {file.name}")
        file, content = earlier
    _warn(damaged)
    return Resumable(file, content, tuple(damaged))


def _warn(damaged: dict[Path, str]) -> None:
    for reason in damaged.values():
        logger.warning("%s", reason)


def _newest(folder: Path, damaged: dict[Path, str]) -> tuple[Path, dict[str, Any]]:
    """last.pth, whatever else a kill within a save left; where it is damaged, the newest of the others."""
    files = resumable_files(folder)
    last = [file for file in files if file.name == LAST]
    newest = _newest_of(last, damaged) or _newest_of(files, damaged)
    if newest is None:
        missing = f"{folder}: holds no checkpoint; name a run folder or a checkpoint file"
        raise CheckpointError("\n".join(damaged.values()) or missing)
    return newest


def _newest_of(
    files: Sequence[Path], damaged: dict[Path, str], latest: tuple[float, int] = (math.inf, 0)
) -> tuple[Path, dict[str, Any]] | None:
    """Of the sound ones among `files`; why others are refused goes to `damaged`. One after another is read, and two are
    kept in memory.

    latest: completed epochs and batches that it may have at most"""
    newest: tuple[Path, dict[str, Any]] | None = None
    for file in files:
        if file in damaged:
            continue
        try:
            content = read_checkpoint(file)
        except CheckpointError as error:
            damaged[file] = str(error)
            continue
        if _progress(content) <= latest and (newest is None or _progress(content) > _progress(newest[1])):
            newest = file, content
    return newest


def _progress(content: dict[str, Any]) -> tuple[int, int]:
    """Completed epochs, and batches of the next; none of a file with a right checksum and odd content, which is named
    where it is used."""
    epochs, batches = content.get("completed_epochs"), content.get("batches_done")
    return epochs if isinstance(epochs, int) else 0, batches if isinstance(batches, int) else 0


def _best_files(folder: Path, content: dict[str, Any]) -> dict[Path, int]:
    """The best checkpoints that a checkpoint knows of and that exist, and their epochs."""
    monitors = content.get("monitors")
    found = {}
    for number, saved in enumerate(monitors if isinstance(monitors, list) else []):
        name = BEST if number == 0 else Monitor(f"{saved['mode']} {saved['metric']}").file_name
        if saved["best_epoch"] is not None and (folder / name).exists():
            found[folder / name] = saved["best_epoch"]
    return found


def _is_sound(file: Path, sound: Path, damaged: dict[Path, str]) -> bool:
    """sound: one that is known to be; several names of one file are not read twice."""
    return file not in damaged and (file.samefile(sound) or _newest_of([file], damaged) is not None)
