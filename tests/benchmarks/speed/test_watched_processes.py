"""Commands in processes of their own: the memory of children of known size, and what is told in time."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from benchmarks.speed.processes import run_watched, seconds_to_line

MIB = 2**20
CHILD = """
import os, sys, time
held = bytearray(os.urandom({own} * 2**20))
if os.fork() == 0:
    more = bytearray(os.urandom({child} * 2**20))
    time.sleep(0.6)
    os._exit(0)
os.wait()
print("done")
"""


def test_the_memory_of_a_process_and_its_child_counts_once() -> None:
    watched = run_watched([sys.executable, "-c", CHILD.format(own=60, child=40)])
    assert watched.output == "done\n"
    assert watched.seconds >= 0.6
    # What both share, the parent's 60 MiB, must not count twice: that would be 160 and more.
    assert 100 * MIB <= watched.peak_own <= 140 * MIB
    assert watched.peak.whole >= watched.peak.anonymous + watched.peak.shared


def test_a_command_that_fails_is_told() -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        run_watched([sys.executable, "-c", "print('so it goes'); raise SystemExit(3)"])
    assert caught.value.returncode == 3
    assert caught.value.output == "so it goes\n"


SLOW_LINES = "import time; print('a word', flush=True); time.sleep(0.5); print('done: 1', flush=True); time.sleep(1)"


def test_seconds_are_to_the_first_such_line() -> None:
    began = time.perf_counter()
    seconds = seconds_to_line([sys.executable, "-c", SLOW_LINES], "done")
    assert 0.5 <= seconds <= time.perf_counter() - began - 1


@pytest.mark.parametrize("code", ["print('so it goes')", "print('done'); print('so it goes'); raise SystemExit(3)"])
def test_a_command_without_the_line_and_one_that_fails_show_what_they_said(code: str) -> None:
    with pytest.raises(subprocess.CalledProcessError) as failure:
        seconds_to_line([sys.executable, "-c", code], "done")
    assert "so it goes" in failure.value.output
