"""Which checkpoints of a run are kept, and which one a stopped run resumes from."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from utils.checkpoint.checkpoint_file import read_checkpoint, write_checkpoint
from utils.errors import CheckpointError
from utils.files import link_or_copy

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
        pending = self.folder / ".pending"
        try:
            write_checkpoint(pending, state)
            for name in (*also_as, LAST):
                link_or_copy(pending, self.folder / name)
        finally:
            pending.unlink(missing_ok=True)
        return self.folder / LAST


def resumable_files(folder: Path) -> list[Path]:
    """The checkpoints that a run folder may be resumed from, the newest first."""
    periodic = sorted(folder.glob("checkpoint-epoch*.pth"), key=lambda path: (len(path.name), path.name), reverse=True)
    return [path for path in (folder / LAST, *periodic, folder / BEST) if path.exists()]


def read_resumable(path: Path) -> tuple[Path, dict[str, Any]]:
    """The checkpoint `path`, or the newest sound one of the run folder `path`; a damaged one is skipped with a warning.

    Returns its file and its content. Raises CheckpointError if there is none."""
    if not path.is_dir():
        return path, read_checkpoint(path)
    reasons = []
    for file in resumable_files(path):
        try:
            content = read_checkpoint(file)
        except CheckpointError as error:
            reasons.append(str(error))
            continue
        for reason in reasons:
            logger.warning("%s", reason)
        return file, content
    raise CheckpointError("\n".join(reasons) or f"{path}: holds no checkpoint; name a run folder or a checkpoint file")
