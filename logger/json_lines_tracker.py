"""The record that every run has: metrics.jsonl and times.jsonl, one line an epoch."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from logger.tracker import TIMES, Tracker
from utils.files import write_atomically

METRICS_FILE = "metrics.jsonl"
TIMES_FILE = "times.jsonl"


class JsonLinesTracker(Tracker):
    """One line of strict JSON an epoch, {"epoch": 3, "train/loss": 0.25, ...}.

    After "epoch" the keys are in alphabetical order; floats are written so that they read back exactly, NaN and the
    infinities as null. A line is on the disk when `log_metrics` returns. The same numbers give the same bytes.

    of_times: the numbers that are kept: the times, which are not the same in another run, or all others
    resume_after_epoch: whole lines up to and including this epoch are kept; None: the file begins empty

    Raises OSError.
    """

    name = "jsonl"
    optional = False

    def __init__(self, path: Path, resume_after_epoch: int | None = None, *, of_times: bool = False) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        stored = path.read_bytes() if path.exists() else b""
        kept = b"" if resume_after_epoch is None else _lines_up_to(stored, resume_after_epoch)
        if kept != stored:
            write_atomically(path, kept)
        self._path, self._of_times = path, of_times
        self._file = path.open("ab", buffering=0)
        self._size = len(kept)
        self._unwritten = b""

    def log_metrics(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Raises OSError, which names the file, when the disk is full; the file then ends with its last whole line,
        and the line that did not fit is written before the next one."""
        numbers = {name: float(metrics[name]) for name in sorted(metrics) if name.startswith(TIMES) == self._of_times}
        line = {"epoch": epoch} | {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        self._unwritten += json.dumps(line, allow_nan=False).encode() + b"\n"
        try:
            written = 0
            while written < len(self._unwritten):
                written += self._file.write(self._unwritten[written:])
            os.fsync(self._file.fileno())
        except OSError as error:
            self._file.truncate(self._size)
            raise OSError(error.errno, error.strerror, str(self._path)) from error
        self._size += written
        self._unwritten = b""

    def close(self, exit_code: int) -> None:  # noqa: ARG002
        self._file.close()


def read_metrics(log_folder: Path, name: str = METRICS_FILE) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl (or times.jsonl), a dict an epoch; a last one that is being written is left
    out."""
    try:
        text = (log_folder / name).read_text(encoding="utf-8")
    except OSError:
        return []
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def _lines_up_to(stored: bytes, last_epoch: int) -> bytes:
    kept = []
    for line in stored.splitlines(keepends=True):
        try:
            if line.endswith(b"\n") and json.loads(line)["epoch"] <= last_epoch:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue  # torn by a kill
    return b"".join(kept)
