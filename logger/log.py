"""The text log of a run: lines on the console, and all of them with their times in a file."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Set
from pathlib import Path

from tqdm import tqdm

LOG_NAME = "training"
"""The project's logger: `logging.getLogger(LOG_NAME)` is what `open_log` has prepared."""

PACKAGES = ("base", "data_loader", "experiment", "inference", "model", "trainer", "utils")
"""Their modules log to `logging.getLogger(__name__)`, which says the same things in the same places."""

_CONSOLE_LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)


def open_log(path: Path | None, verbosity: int, rank: int = 0) -> logging.Logger:
    """The project's logger: to stdout as `verbosity` asks, and to the end of the file `path` with everything.

    verbosity: 0 warnings only, 1 also a line an epoch (INFO), 2 all (DEBUG). A process with a `rank` above 0 writes no
    file, and on the console only warnings, with its rank. Opening again replaces what the earlier call set up. Raises
    OSError where the file cannot be opened.
    """
    consoles = [handler for handler in logging.getLogger(LOG_NAME).handlers if isinstance(handler, _ConsoleHandler)]
    earlier = [record for console in consoles for record in console.unfiled or []]
    warned = {text for console in consoles for text in (*console.warned_before, *console.warned)}
    close_log()
    console = _ConsoleHandler(rank, warned)
    console.setLevel(_CONSOLE_LEVELS[max(0, min(verbosity, 2))])
    handlers: list[logging.Handler] = [console]
    if path is not None and rank == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(_RunFileHandler(path))
        for record in earlier:  # a run says things before it has a folder
            handlers[-1].handle(record)
        console.unfiled = None
    else:
        console.unfiled = earlier
    for name in (LOG_NAME, *PACKAGES):
        logger = logging.getLogger(name)
        logger.setLevel(logging.DEBUG if rank == 0 else logging.WARNING)
        logger.propagate = False  # what other packages do to the root logger is not to double the lines
        for handler in handlers:
            logger.addHandler(handler)
    return logging.getLogger(LOG_NAME)


def close_log() -> None:
    """Flushes and closes what `open_log` opened; the logger stays usable and says warnings on stderr."""
    for name in (LOG_NAME, *PACKAGES):
        logger = logging.getLogger(name)
        for handler in list(logger.handlers):
            if isinstance(handler, _ConsoleHandler | _RunFileHandler):
                logger.removeHandler(handler)
                handler.close()
        logger.propagate = True
        logger.setLevel(logging.NOTSET)


class _ConsoleHandler(logging.Handler):
    """Lines on stdout that go above a progress bar instead of through it.

    warned_before: what other folds of the run have warned of already, which is not repeated here"""

    def __init__(self, rank: int, warned_before: Set[str] = frozenset()) -> None:
        super().__init__()
        self._rank = rank
        self.warned_before, self.warned = warned_before, set[str]()
        self.unfiled: list[logging.LogRecord] | None = []  # what was logged since the log was opened without a file

    def emit(self, record: logging.LogRecord) -> None:
        if self.unfiled is not None:
            self.unfiled.append(record)
        if record.levelno >= logging.WARNING:
            self.warned.add(record.getMessage())
            if record.getMessage() in self.warned_before:
                return
        try:
            origin = f"[rank {self._rank}] " if self._rank else ""
            level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
            tqdm.write(f"{origin}{level}{self.format(record)}", file=sys.stdout)
            sys.stdout.flush()
        except BrokenPipeError:
            pass  # `train.py | head`: nobody reads on, and training is not to end for it
        except Exception:
            self.handleError(record)


class _RunFileHandler(logging.FileHandler):
    """Every line with its time; a full disk is reported once, in one line, and never stops a run."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8", errors="backslashreplace")
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self._told = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._told:
            self._told = True
            print(f"warning: {self.baseFilename}: cannot be written ({error.strerror or error})", file=sys.stderr)

    def close(self) -> None:
        with contextlib.suppress(OSError):  # the last lines did not fit either, which was reported
            super().close()
