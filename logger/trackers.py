"""Trackers: JSON lines on disk, TensorBoard, wandb, and one that tells them all."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from logger.log import LOG_NAME
from logger.tracker import CaptionedImage, Tracker
from logger.wandb_tracker import WandbTracker
from utils.errors import ConfigError
from utils.files import write_atomically

__all__ = ["CaptionedImage", "JsonLinesTracker", "TensorBoardTracker", "Tracker", "Trackers", "WandbTracker"]


class JsonLinesTracker(Tracker):
    """One line of strict JSON an epoch, {"epoch": 3, "train/loss": 0.25, ...}: the record that every run has.

    "epoch" stands first, the other keys in alphabetical order; floats are written so that they read back exactly, and
    NaN and the infinities, which JSON has not, as null. A line is on the disk when `log_metrics` returns. The same
    numbers make the same bytes: no times, no machine.
    """

    name = "jsonl"
    optional = False

    def __init__(self, path: Path, resume_after_epoch: int | None = None) -> None:
        """Begins an empty file, or keeps the whole lines up to and including `resume_after_epoch`. Raises OSError."""
        path.parent.mkdir(parents=True, exist_ok=True)
        stored = path.read_bytes() if path.exists() else b""
        kept = b"" if resume_after_epoch is None else _lines_up_to(stored, resume_after_epoch)
        if kept != stored:
            write_atomically(path, kept)
        self._file = path.open("ab", buffering=0)
        self._size = len(kept)
        self._unwritten = b""

    def log_metrics(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Raises OSError when the disk is full; the file then ends with its last whole line, and the line that was
        refused is written before the next one."""
        line = {"epoch": epoch} | {name: _json_number(metrics[name]) for name in sorted(metrics)}
        self._unwritten += json.dumps(line, allow_nan=False).encode() + b"\n"
        try:
            written = 0
            while written < len(self._unwritten):
                written += self._file.write(self._unwritten[written:])
            os.fsync(self._file.fileno())
        except OSError:
            self._file.truncate(self._size)
            raise
        self._size += written
        self._unwritten = b""

    def close(self, exit_code: int) -> None:  # noqa: ARG002
        self._file.close()


def _json_number(value: float) -> float | None:
    if isinstance(value, int):
        return int(value)
    number = float(value)
    return number if math.isfinite(number) else None


def _lines_up_to(stored: bytes, last_epoch: int) -> bytes:
    """The lines that end, are JSON, and belong to no later epoch."""
    kept = []
    for line in stored.splitlines(keepends=True):
        try:
            if line.endswith(b"\n") and json.loads(line)["epoch"] <= last_epoch:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue  # torn by a kill
    return b"".join(kept)


class TensorBoardTracker(Tracker):
    """Scalars and pictures as TensorBoard's event files.

    Raises ConfigError where the package is not installed.
    """

    name = "tensorboard"

    def __init__(self, log_dir: Path, purge_epoch: int | None = None) -> None:
        """Events of `purge_epoch` and later that an earlier start left in `log_dir` are no longer shown."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError(
                'trainer.tensorboard = true needs the package "tensorboard": '
                'install it with "pip install tensorboard", or set it to false'
            ) from error
        self._writer = SummaryWriter(str(log_dir), purge_step=purge_epoch)

    def log_metrics(self, epoch: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def log_images(self, epoch: int, name: str, images: Sequence[CaptionedImage]) -> None:
        """The pictures as name/0, name/1, ...; the captions as a list, name/captions."""
        for index, (image, _) in enumerate(images):
            self._writer.add_image(f"{name}/{index}", image, epoch, dataformats="HWC")
        captions = "\n".join(f"{index}. {caption}" for index, (_, caption) in enumerate(images))
        self._writer.add_text(f"{name}/captions", captions, epoch)

    def close(self, exit_code: int) -> None:  # noqa: ARG002
        self._writer.close()


class Trackers(Tracker):
    """Tells all of several trackers; with none of them it is what processes other than the main one hold.

    An optional tracker that raises is dropped with one warning in the log, and training goes on. The error of any other
    (OSError of the JSON lines when the disk is full) passes, once all the rest have been told.
    """

    name = "all"

    def __init__(self, trackers: Sequence[Tracker] = ()) -> None:
        self._trackers = list(trackers)

    def log_metrics(self, epoch: int, metrics: Mapping[str, float]) -> None:
        self._tell(lambda tracker: tracker.log_metrics(epoch, metrics))

    def log_images(self, epoch: int, name: str, images: Sequence[CaptionedImage]) -> None:
        self._tell(lambda tracker: tracker.log_images(epoch, name, images))

    def close(self, exit_code: int) -> None:
        self._tell(lambda tracker: tracker.close(exit_code))
        self._trackers = []

    def state(self) -> dict[str, Any]:
        """By tracker's name, of those that have any."""
        return {tracker.name: state for tracker in self._trackers if (state := tracker.state())}

    def _tell(self, message: Callable[[Tracker], None]) -> None:
        failure: Exception | None = None
        for tracker in list(self._trackers):
            try:
                message(tracker)
            except Exception as error:
                if not tracker.optional:
                    failure = failure or error
                    continue
                self._trackers.remove(tracker)
                logging.getLogger(LOG_NAME).warning(
                    f"{tracker.name} failed ({type(error).__name__}: {error}) and is left out from here on; "
                    "metrics.jsonl keeps everything"
                )
        if failure is not None:
            raise failure
