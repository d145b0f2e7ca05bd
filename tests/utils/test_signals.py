"""Signals ask to stop; afterwards they act as before."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from utils.errors import KeyboardStop, StopSignal, run_command
from utils.signals import StopSignals


@pytest.mark.parametrize(
    ("number", "kind", "exit_code"),
    [(signal.SIGTERM, StopSignal, 75), (signal.SIGUSR1, StopSignal, 75), (signal.SIGINT, KeyboardStop, 130)],
)
def test_a_signal_is_answered_when_it_is_asked_for(
    number: signal.Signals, kind: type[StopSignal], exit_code: int
) -> None:
    before = signal.getsignal(number)

    def work() -> None:
        with StopSignals() as stop:
            stop.raise_if_requested()
            os.kill(os.getpid(), number)
            assert stop.requested
            with pytest.raises(kind, match=number.name):
                stop.raise_if_requested()
            raise stop.error("saved")

    assert run_command(work) == exit_code
    assert signal.getsignal(number) == before


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_70_a_second_signal_leaves_at_once(number: signal.Signals, exit_code: int) -> None:
    program = f"""
import os, signal, time
from utils.signals import StopSignals
with StopSignals() as stop:
    os.kill(os.getpid(), {int(number)})
    os.kill(os.getpid(), {int(number)})
    time.sleep(30)
"""
    finished = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[2], timeout=20, capture_output=True, check=False
    )
    assert finished.returncode == exit_code
    assert finished.stderr == b""


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)])
def test_a_command_that_has_nothing_to_save_ends_at_once_with_one_line(
    number: signal.Signals, exit_code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(number)

    def work() -> None:
        os.kill(os.getpid(), number)
        time.sleep(10)
        pytest.fail("the signal was not answered")

    assert run_command(work) == exit_code
    assert capsys.readouterr().err == f"stopped by {number.name}\n"
    assert signal.getsignal(number) == before
