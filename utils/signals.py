"""SIGTERM, SIGUSR1 and Ctrl-C stop a run between two steps. A second one ends it at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

from utils.errors import SIGNALS, KeyboardStop, StopSignal


class StopSignals:
    """As a context, the signals only set `received`; afterwards they act as before, also the one that came last, unless
    it was answered.

    Long work checks `requested` between its steps, saves its state and raises `error()`."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._previous: dict[signal.Signals, object] = {}

    @property
    def requested(self) -> bool:
        return self.received is not None

    def error(self, saved: str = "") -> StopSignal:
        """The error to raise once all is saved, with exit code 130 for Ctrl-C and 75 for the others."""
        number = self.received or signal.SIGTERM
        text = f"stopped by {number.name}" + (f"; {saved}" if saved else "")
        return KeyboardStop(text) if number == signal.SIGINT else StopSignal(text)

    def raise_if_requested(self) -> None:
        if self.requested:
            raise self.error()

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self.requested:
            os._exit(KeyboardStop.exit_code if number == signal.SIGINT else StopSignal.exit_code)
        self.received = signal.Signals(number)

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._previous.clear()
        if kind is None and self.received is not None:  # it came after the last question
            signal.raise_signal(self.received)


@contextmanager
def blocked() -> Iterator[None]:
    """A process that is forked while it is entered gets no signal before it calls `unblock`."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        unblock()


def unblock() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
