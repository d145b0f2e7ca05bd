"""How a command ends."""

from __future__ import annotations

import subprocess
import sys

from utils.errors import ConfigError
from utils.wording import LONGEST_LINE

PROGRAM = """
from utils.errors import run_and_exit

def command():
    for number in range(100_000):
        print("line", number)

run_and_exit(command)
"""


def test_a_reader_that_has_seen_enough_ends_a_command_in_silence() -> None:
    """As in `python -m scripts.runs | head -1`."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "line 0\n"
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=20) == 0


def test_of_a_line_that_a_value_has_made_too_long_the_middle_is_left_out() -> None:
    long = f"x.json: name = {'a' * 5000} is too long; take another"
    error = ConfigError(f"{long}\nx.json: seed = -1")
    first, second = str(error).splitlines()
    assert len(first) == LONGEST_LINE
    assert first.startswith("x.json: name = aaa")
    assert first.endswith("; take another")
    assert second == "x.json: seed = -1"
