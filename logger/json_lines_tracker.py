"""The record that every run has: metrics.jsonl, one line an epoch."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

from logger.tracker import Tracker
from utils.files import write_atomically


class JsonLinesTracker(Tracker):
    """One line of strict JSON an epoch, {"epoch": 3, "train/loss": 0.25, ...}.

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
