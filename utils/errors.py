"""The errors of a user's making: each is one line (where, value, remedy) and one exit code.

    UserError             1
      ConfigError         2    the config or the command line
      DataError           3    a table, a folder or an image
      CheckpointError     4    a checkpoint
      DivergenceError     5    the loss or the weights are no longer finite
      StorageFullError   74    the final state could not be written
      StopSignal         75    stopped by SIGTERM or SIGUSR1, and resumable
        KeyboardStop    130    stopped by Ctrl-C, and resumable

`run_command` prints them, and `run_and_exit` is a script's last line. Constructors raise ValueError, or InvalidConfig
for several problems; the config's parser makes a ConfigError of both.
"""

from __future__ import annotations

import errno
import gc
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

from utils.first_report import claim_report
from utils.wording import first_line, shortened

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The error numbers of a full disk, an exceeded quota, and a file that is too large."""

_OF_A_PATH = (
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO),
)
"""Those of a path that a user has named, or of a disk: no fault of the program."""

_LONGEST_PATH = 300
"""How much of a path is printed."""

KeyPath = tuple[str | int, ...]
"""Where a value is in a config: ("data", 0, "args", "root")."""


@dataclass(frozen=True)
class Problem:
    """What is wrong with a value of a config.

    key_path: of the value; () for the whole
    text: follows the key path: "= -1 must be at least 0", "lacks \"type\""
    """

    key_path: KeyPath
    text: str

    def __str__(self) -> str:
        return f"{dotted(self.key_path)} {self.text}" if self.key_path else self.text

    def under(self, key_path: KeyPath) -> Problem:
        """The same problem where the values are at `key_path` of a larger whole."""
        return Problem((*key_path, *self.key_path), self.text)


class InvalidConfig(ValueError):
    """A constructor's arguments are wrong in several ways, or deep inside; for one problem of one argument a plain
    ValueError does. The config's parser adds the absolute key path and the file.

    problems: their key paths are relative to the constructor's arguments
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = list(problems)


def dotted(key_path: KeyPath) -> str:
    """("data", 0, "args") -> "data.0.args"."""
    return ".".join(map(str, key_path))


class UserError(Exception):
    """An error of the input or of the machine, not of this program: printed as one line, without a traceback. Of a line
    that a value has made too long, the middle is left out."""

    exit_code = 1

    def __str__(self) -> str:
        return "\n".join(map(shortened, super().__str__().split("\n")))


class ConfigError(UserError):
    """The config or the command line is wrong; one line a problem.

    problems: those of a config, with absolute key paths
    """

    exit_code = 2

    def __init__(self, message: str, problems: Sequence[Problem] = ()) -> None:
        super().__init__(message)
        self.problems = list(problems)


class DataError(UserError):
    """A table, a folder or an image is wrong."""

    exit_code = 3


class CheckpointError(UserError):
    """A checkpoint is missing, damaged, hostile or made for something else."""

    exit_code = 4


class DivergenceError(UserError):
    """The loss or the weights are no longer finite."""

    exit_code = 5


class StorageFullError(UserError):
    """The final state could not be written: the disk is full, or does not take it."""

    exit_code = 74


def write_error(what: object, error: OSError, remedy: str = "name another folder") -> UserError:
    """The error of a command that cannot write its results: StorageFullError where the disk is full, else ConfigError.

    what: the file or folder, or the flag that names it
    remedy: where the disk is not full"""
    kind, instead = (StorageFullError, "free some space") if error.errno in FULL else (ConfigError, remedy)
    return kind(f"{what}: could not be written ({error.strerror or error}); {instead}")


class StopSignal(UserError):
    """The run was asked to stop (SIGTERM, SIGUSR1); its state was saved and it can be resumed."""

    exit_code = 75


class KeyboardStop(StopSignal):
    """The run was asked to stop with Ctrl-C; its state was saved and it can be resumed."""

    exit_code = 130


WAITS_OUTSIDE_PYTHON = "waits outside Python"
"""The name of a thread that nobody waits for any more: Python aborts if such a thread comes back as it ends."""

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
"""Those that ask a command to stop."""


class Interrupted(KeyboardInterrupt):
    """SIGTERM, SIGUSR1 or Ctrl-C where there is nothing to save. It is no Exception: whoever reports what a library
    raises would take it for a failure of that library.

    kind: the error with its exit code"""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(f"stopped by {number.name}")
        self.kind = KeyboardStop if number == signal.SIGINT else StopSignal


def run_and_exit(command: Callable[[], object]) -> NoReturn:
    """Runs an entry point, and ends this process with its exit code, which no later signal changes."""
    _repair_standard_streams()
    exit_code = run_command(command)

    def leave(*_: object) -> None:
        os._exit(exit_code)

    for number in SIGNALS:
        signal.signal(number, leave)
    try:
        sys.stdout.flush()
    except OSError as error:  # Python would try again as it ends, and complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno in FULL:
            print(f"standard output: could not be written ({error.strerror})", file=sys.stderr)
            exit_code = exit_code or StorageFullError.exit_code
    if any(thread.name == WAITS_OUTSIDE_PYTHON for thread in threading.enumerate()):
        os._exit(exit_code)
    sys.exit(exit_code)


def _repair_standard_streams() -> None:
    """A closed one leads nowhere, and no file that is opened gets its number; what one cannot encode is escaped."""
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: PTH123, SIM115
        elif name != "stdin" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def run_command(command: Callable[[], object]) -> int:
    """Runs an entry point and returns its exit code: a user's mistake is one line on stderr, never a traceback, and so
    is a full disk, or memory of a GPU.

    SIGTERM and SIGUSR1 end it at once, as Ctrl-C does; long work that has something to save handles them itself
    (utils/signals.py). A second signal does not wait for what the first one ends. Of several processes the first that
    fails prints its line."""
    try:
        with _signals_raise():
            command()
    except UserError as error:
        return _report(error, error.exit_code)
    except Interrupted as stop:
        return _report(stop, stop.kind.exit_code)
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads_the_output():
            return 0
        if error.errno in FULL:
            full = write_error(error.filename or "the output", error)
            return _report(full, full.exit_code)
        if error.filename is None or error.errno not in _OF_A_PATH:
            raise
        return _report(f"{str(error.filename)[:_LONGEST_PATH]}: {error.strerror}", ConfigError.exit_code)
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's: it may not be imported
            raise
        remedy = "take smaller batches: --bs, data_loader.args.valid_batch_size, data_loader.args.batch_size"
        return _report(f"the GPU's memory is full ({first_line(error)}); {remedy}", UserError.exit_code)
    finally:
        gc.unfreeze()  # what `importing` froze: libraries complain of what is left when Python ends
    return 0


def _report(error: object, exit_code: int) -> int:
    if claim_report():
        print(error, file=sys.stderr)
    return exit_code


def _nobody_reads_the_output() -> bool:
    """Whether standard output leads to a command that has ended, such as `head`: what it wanted, it has."""
    try:
        output = sys.stdout.fileno()
    except (OSError, ValueError):  # it is no file
        return False
    poll = select.poll()
    poll.register(output, select.POLLERR)
    return any(event & select.POLLERR for _, event in poll.poll(0))


@contextmanager
def importing() -> Iterator[None]:
    """Around a command's first imports of torch and the like: their objects stay, and are not searched for garbage,
    which would take a quarter of the time. timm would import wandb for a summary that is never written."""
    is_first = "torch" not in sys.modules
    without_wandb = "wandb" not in sys.modules
    if without_wandb:
        sys.modules["wandb"] = None  # type: ignore[assignment]
    gc.disable()
    try:
        yield
    finally:
        if without_wandb:
            del sys.modules["wandb"]
        if is_first:
            gc.freeze()
        gc.enable()


@contextmanager
def _signals_raise() -> Iterator[None]:
    def stop(number: int, _frame: FrameType | None) -> None:
        interrupted = Interrupted(signal.Signals(number))
        for each in SIGNALS:
            signal.signal(each, leave)
        raise interrupted

    def leave(number: int, _frame: FrameType | None) -> None:
        os._exit(Interrupted(signal.Signals(number)).kind.exit_code)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    earlier = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
