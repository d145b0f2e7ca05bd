"""The text log of a run: lines on the console, and all of them with their times in a file."""

from __future__ import annotations

import contextlib
import logging
import sys
from pathlib import Path

from tqdm import tqdm

from utils.config.credentials import without_credentials

LOG_NAME = "training"
"""The logger of the commands: `logging.getLogger(LOG_NAME)`."""

PACKAGES = ("base", "data_loader", "experiment", "inference", "model", "trainer", "utils")
"""Their modules log to `logging.getLogger(__name__)`, which has the same handlers."""

FOR_FILE_ALONE = {"for_file_alone": True}
"""`extra` of a line that the console does not get: the error with which a command ends is printed on stderr."""

_CONSOLE_LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)


def open_log(path: Path | None, verbosity: int, rank: int = 0) -> logging.Logger:
    """Logs to stdout what `verbosity` allows, and everything to the end of the file `path`.

    verbosity: 0 warnings only, 1 also a line an epoch (INFO), 2 all (DEBUG)
    rank: above 0, the process writes no file, and on the console only warnings, with its rank

    Opening again replaces what the earlier call set up: the first file also gets the lines that came before it, and a
    warning is not repeated on the console. Raises OSError where the file cannot be opened.
    """
    consoles = [handler for handler in logging.getLogger(LOG_NAME).handlers if isinstance(handler, _ConsoleHandler)]
    close_log()
    console = _ConsoleHandler(rank, consoles[0] if consoles else None)
    console.setLevel(_CONSOLE_LEVELS[verbosity])
    handlers: list[logging.Handler] = [console]
    if path is not None and rank == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _FileHandler(path)
        for record in console.unfiled or ():
            file.handle(record)
        console.unfiled = None
        handlers.append(file)
    for name in (LOG_NAME, *PACKAGES):
        logger = logging.getLogger(name)
        logger.setLevel(logging.DEBUG if rank == 0 else logging.WARNING)
        logger.propagate = False  # handlers that other packages give the root logger would print each line again
        logger.handlers += handlers
    return logging.getLogger(LOG_NAME)


def close_log() -> None:
    """Closes what `open_log` opened; the loggers remain usable and print warnings to stderr."""
    for name in (LOG_NAME, *PACKAGES):
        logger = logging.getLogger(name)
        for handler in list(logger.handlers):
            if isinstance(handler, _ConsoleHandler | _FileHandler):
                logger.removeHandler(handler)
                handler.close()
        logger.propagate = True
        logger.setLevel(logging.NOTSET)


class _ConsoleHandler(logging.Handler):
    """Lines on stdout that go above a progress bar instead of through it; without keys and passwords."""

    def __init__(self, rank: int, earlier: _ConsoleHandler | None) -> None:
        super().__init__()
        self._rank = rank
        self._warned: set[str] = set()
        # Such as by another fold.
        self._warned_before: set[str] = earlier._warned | earlier._warned_before if earlier else set()
        self.unfiled: list[logging.LogRecord] | None = earlier.unfiled if earlier else []  # before there is a file

    def emit(self, record: logging.LogRecord) -> None:
        if self.unfiled is not None:
            self.unfiled.append(record)
        if getattr(record, "for_file_alone", False):
            return
        level = ""
        if record.levelno >= logging.WARNING:
            if record.getMessage() in self._warned_before:
                return
            self._warned.add(record.getMessage())
            level = f"{record.levelname.lower()}: "
        origin = f"[rank {self._rank}] " if self._rank else ""
        with contextlib.suppress(OSError):  # `train.py | head`, or a full disk: training does not end for it
            tqdm.write(without_credentials(f"{origin}{level}{self.format(record)}"), file=sys.stdout)
            sys.stdout.flush()


class _FileHandler(logging.FileHandler):
    """Every line with its time, without keys and passwords; a full disk is reported once, in one line, and never stops
    a run."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8", errors="backslashreplace")
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self._is_full = False

    def format(self, record: logging.LogRecord) -> str:
        return without_credentials(super().format(record))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._is_full:
            self._is_full = True
            print(f"warning: {self.baseFilename}: cannot be written ({error.strerror or error})", file=sys.stderr)

    def close(self) -> None:
        with contextlib.suppress(OSError):  # the last lines did not fit either, which was reported
            super().close()
