"""The record that every run has: metrics.jsonl and times.jsonl, one line an epoch."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from logger.log import LOG_NAME
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
    saved: these lines as the checkpoint has them, see `state`: a file that lacks some, or has others, is written again

    Raises OSError.
    """

    name = "jsonl"
    optional = False

    def __init__(
        self, path: Path, resume_after_epoch: int | None = None, saved: str | None = None, *, of_times: bool = False
    ) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        stored = path.read_bytes() if path.exists() else b""
        kept = b"" if resume_after_epoch is None else _lines_up_to(stored, resume_after_epoch)
        if saved is not None and saved.encode() != kept:
            if stored:
                lacks = "does not have all epochs as they were logged; it is written again from the checkpoint"
                logging.getLogger(LOG_NAME).warning("%s: %s", path, lacks)
            kept = saved.encode()
        if kept != stored:
            write_atomically(path, kept)
        self._path, self._of_times = path, of_times
        self._file = path.open("ab", buffering=0)
        self._logged = kept
        self._size = len(kept)  # of what is on the disk

    def log_metrics(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Raises OSError, which names the file, when the disk is full; the file then ends with its last whole line,
        and the line that did not fit is written before the next one."""
        numbers = {name: float(metrics[name]) for name in sorted(metrics) if name.startswith(TIMES) == self._of_times}
        line = {"epoch": epoch} | {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        self._logged += json.dumps(line, allow_nan=False).encode() + b"\n"
        try:
            written = self._size
            while written < len(self._logged):
                written += self._file.write(self._logged[written:])
            os.fsync(self._file.fileno())
        except OSError as error:
            self._file.truncate(self._size)
            raise OSError(error.errno, error.strerror, str(self._path)) from error
        self._size = written

    def state(self) -> dict[str, Any]:
        """All lines, also those that a full disk did not take; of times nothing: equal runs have equal checkpoints."""
        return {} if self._of_times else {"lines": self._logged.decode()}

    def close(self, exit_code: int) -> None:  # noqa: ARG002
        self._file.close()


def read_metrics(log_folder: Path, name: str = METRICS_FILE) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl (or times.jsonl), a dict an epoch; a last one that is being written is left
    out, a damaged one with a warning."""
    try:
        lines = (log_folder / name).read_bytes().splitlines(keepends=True)
    except OSError:
        return []
    rows = [_epoch_of(line) for line in lines if line.endswith(b"\n")]
    if damaged := [str(number) for number, row in enumerate(rows, start=1) if row is None]:
        text = "%s: line %s is damaged and left out"
        logging.getLogger(LOG_NAME).warning(text, log_folder / name, ", ".join(damaged))
    return [row for row in rows if row is not None]


def _lines_up_to(stored: bytes, last_epoch: int) -> bytes:
    lines = [line for line in stored.splitlines(keepends=True) if line.endswith(b"\n")]  # one may be torn by a kill
    return b"".join(line for line in lines if (row := _epoch_of(line)) is not None and row["epoch"] <= last_epoch)


def _epoch_of(line: bytes) -> dict[str, Any] | None:
    """None for a damaged one."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("epoch"), int) else None
