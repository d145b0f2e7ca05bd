"""Which checkpoints of a run are kept, and which one a stopped run is resumed from."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from utils.checkpoint.checkpoint_file import read_checkpoint, write_checkpoint
from utils.errors import CheckpointError
from utils.files import link_or_copy

LAST = "last.pth"
BEST = "model_best.pth"
_PERIODIC = re.compile(r"checkpoint-epoch(\d+)\.pth$")


class Checkpoints:
    """The checkpoint files of one run.

    folder: where they are
    run_folder: what --resume is given, which holds the folds
    """

    def __init__(self, folder: Path, run_folder: Path | None = None) -> None:
        self.folder = folder
        self.run_folder = run_folder or folder

    def save(self, state: dict[str, Any], also_as: Sequence[str] = ()) -> Path:
        """Writes `state` as last.pth, and under the other names. Raises OSError; then the earlier files remain.

        last.pth comes last: a run killed before it resumes from the one before and makes the others again, equal."""
        pending = self.folder / ".pending.pth"
        try:
            write_checkpoint(pending, state)
            for name in also_as:
                link_or_copy(pending, self.folder / name)
            link_or_copy(pending, self.folder / LAST)
        finally:
            pending.unlink(missing_ok=True)
        return self.folder / LAST

    def has_last(self) -> bool:
        """Whether the run can be resumed from here."""
        return (self.folder / LAST).exists()

    @staticmethod
    def periodic_name(epoch: int) -> str:
        return f"checkpoint-epoch{epoch}.pth"


def candidates(folder: Path) -> Iterator[Path]:
    """What a run folder may be resumed from, the newest first."""
    yield folder / LAST
    periodic = [(int(match[1]), path) for path in folder.iterdir() if (match := _PERIODIC.match(path.name))]
    yield from (path for _, path in sorted(periodic, reverse=True))
    yield folder / BEST


def read_resumable(path: Path, log: logging.Logger) -> tuple[Path, dict[str, Any]]:
    """The checkpoint at `path`, or the newest sound one of the run folder `path`: a damaged one is skipped with a
    warning. Returns its file and its content.

    Raises CheckpointError if there is none."""
    if not path.is_dir():
        return path, read_checkpoint(path)
    reasons = []
    for candidate in candidates(path):
        if candidate.exists():
            try:
                content = read_checkpoint(candidate)
            except CheckpointError as error:
                reasons.append(str(error))
                continue
            for reason in reasons:
                log.warning("%s", reason)
            return candidate, content
    raise CheckpointError("\n".join(reasons) or f"{path}: holds no checkpoint; name a run folder or a checkpoint file")
