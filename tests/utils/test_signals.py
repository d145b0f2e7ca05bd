"""Signals ask to stop; afterwards they act as before."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from utils.errors import KeyboardStop, StopSignal, run_command
from utils.signals import StopSignals, blocked, unblock


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


def test_a_signal_that_nobody_asks_for_any_more_acts_as_before() -> None:
    """Of work that ended meanwhile: the work around it stops."""
    with StopSignals() as outer:
        with StopSignals() as inner:
            os.kill(os.getpid(), signal.SIGTERM)
            assert (inner.received, outer.received) == (signal.SIGTERM, None)
        assert outer.received == signal.SIGTERM
        with suppress(StopSignal), StopSignals() as answering:
            os.kill(os.getpid(), signal.SIGUSR1)
            answering.raise_if_requested()
        assert outer.received == signal.SIGTERM
        outer.received = None


def test_a_process_that_is_forked_without_signals_unblocks_them_itself() -> None:
    with blocked():
        child = os.fork()
        if not child:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.signal(signal.SIGTERM, lambda *_: os._exit(7))
            unblock()
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())


PROGRAM = """
import atexit, os, signal, sys, time
from utils.errors import UserError, run_and_exit
from utils.signals import StopSignals

def send(name):
    os.kill(os.getpid(), getattr(signal, name))

def nothing_to_save():
    try:
        send("SIGTERM")
        time.sleep(30)
    finally:
        send("SIGINT")
        time.sleep(30)  # as a library that waits for its threads

def saved():
    atexit.register(lambda: (send("SIGINT"), time.sleep(30)))
    with StopSignals() as stop:
        send("SIGUSR1")
        raise stop.error("saved")

def printed():
    print("a" * 10)

run_and_exit(globals()[sys.argv[1]])
"""


@pytest.mark.parametrize(
    ("command", "exit_code", "errors"),
    [
        ("nothing_to_save", 130, ""),
        ("saved", 75, "stopped by SIGUSR1; saved\n"),
        ("printed", 74, "standard output: could not be written (No space left on device)\n"),
    ],
)
def test_a_script_ends_at_once_with_its_exit_code(command: str, exit_code: int, errors: str) -> None:
    """A second signal does not wait; one that comes when all is done changes nothing."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with Path("/dev/full").open("wb") as full:
        finished = subprocess.run(
            [sys.executable, "-c", PROGRAM, command],
            cwd=Path(__file__).parents[2], timeout=20, env=environment, stdout=full, stderr=subprocess.PIPE,
            text=True, check=False,
        )  # fmt: skip
    assert (finished.returncode, finished.stderr) == (exit_code, errors)


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_70_a_second_signal_leaves_at_once(number: signal.Signals, exit_code: int) -> None:
    program = f"""
import os, signal, time
from utils.signals import StopSignals, blocked, unblock
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


def test_a_full_gpu_is_one_line_whichever_command(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nmore")

    assert run_command(work) == 1
    assert re.fullmatch(r"the GPU's memory is full .*20\.00 MiB.*--bs.*\n", capsys.readouterr().err)


def test_a_full_disk_is_one_line_whoever_writes(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        raise OSError(28, "No space left on device", "some/file")

    assert run_command(work) == 74
    assert capsys.readouterr().err == "some/file: could not be written (No space left on device); free some space\n"
