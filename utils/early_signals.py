"""Answers a signal while the libraries are being imported, which takes seconds: one line, and the right exit code.

Meanwhile nobody looks for garbage among the million objects that imports leave for good, which would take one of these
seconds. The entry points import this first; it does nothing for anybody else. `run_command` ends both."""

from __future__ import annotations

import gc
import os
import signal
import sys
from pathlib import Path
from types import FrameType

ENTRY_POINTS = ("train.py", "test.py")
EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 75, signal.SIGUSR1: 75}


def _leave(number: int, _frame: FrameType | None) -> None:
    os.write(2, f"stopped by {signal.Signals(number).name}\n".encode())
    os._exit(EXIT_CODES[signal.Signals(number)])


if Path(getattr(sys.modules["__main__"], "__file__", None) or "").name in ENTRY_POINTS:
    for _number in EXIT_CODES:
        signal.signal(_number, _leave)
    gc.disable()
