"""The errors a user may meet: each is one line (place, value, remedy) and one exit code."""

from __future__ import annotations

import gc
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class UserError(Exception):
    """An error of the input or of the surroundings, not of this program: shown as one line, without a traceback."""

    exit_code = 1


class ConfigError(UserError):
    """The config or the command line is wrong. One problem a line, where several were found."""

    exit_code = 2


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
    """The final state could not be written."""

    exit_code = 74


class StopSignal(UserError):
    """The run was asked to stop (SIGTERM, SIGUSR1); its state was saved and it can be resumed."""

    exit_code = 75


class KeyboardStop(StopSignal):
    """The run was asked to stop with Ctrl-C; its state was saved and it can be resumed."""

    exit_code = 130


def run_command(command: Callable[[], object]) -> int:
    """Runs an entry point and returns its exit code: a user's mistake is told on stderr, never as a traceback.

    SIGTERM and SIGUSR1 end it wherever it is, as Ctrl-C does; long work that has something to save answers them itself
    (utils/signals.py)."""
    gc.freeze()  # what was imported stays for good: to search it for garbage takes longer than to read the tables
    try:
        with _signals_raise():
            command()
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped by SIGINT", file=sys.stderr)
        return KeyboardStop.exit_code
    finally:
        gc.unfreeze()  # libraries tell of what is left when Python ends
    return 0


@contextmanager
def _signals_raise() -> Iterator[None]:
    def stop(number: int, _frame: FrameType | None) -> None:
        raise StopSignal(f"stopped by {signal.Signals(number).name}")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {signal.SIGTERM: stop, signal.SIGUSR1: stop, signal.SIGINT: signal.default_int_handler}
    earlier = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
