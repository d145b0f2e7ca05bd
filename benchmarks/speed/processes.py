"""Commands in processes of their own: how long they take, and the memory of all that they start."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import PROJECT

SAMPLE_SECONDS = 0.2
KIB = 1024
_PARTS = {"Pss": "whole", "Pss_Anon": "anonymous", "Pss_Shmem": "shared", "Pss_File": "files"}


@dataclass
class Memory:
    """Bytes of all processes together; shared memory counts once (proportional set size, /proc/*/smaps_rollup).

    whole: all
    anonymous: freed only at the end of the processes
    shared: likewise
    files: pages of files, such as programs and the cache on disk, which the system may drop
    """

    whole: int = 0
    anonymous: int = 0
    shared: int = 0
    files: int = 0

    @property
    def own(self) -> int:
        return self.anonymous + self.shared


@dataclass
class Watched:
    """The result of a command.

    seconds: from its start to its end
    peak: its memory when `whole` was highest
    peak_own: the highest `own`, which may be at another moment
    output: what it printed
    """

    seconds: float
    peak: Memory
    peak_own: int
    output: str


def seconds_to_line(command: Sequence[str], beginning: str) -> float:
    """From the call of a command, in the project's folder, until it prints a line that begins so; it runs to its end.

    Raises CalledProcessError if it fails, or ends without such a line."""
    begin, seconds, lines = time.perf_counter(), None, []
    with _started(command) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if seconds is None and line.startswith(beginning):
                seconds = time.perf_counter() - begin
            lines.append(line)
    if process.returncode or seconds is None:
        raise _failure(process, "".join(lines))
    return seconds


def run_watched(command: Sequence[str]) -> Watched:
    """Runs a command in the project's folder to its end, and looks at its memory meanwhile.

    Raises CalledProcessError if it fails."""
    begin = time.perf_counter()
    process = _started(command)
    lines: list[str] = []
    assert process.stdout is not None
    reader = threading.Thread(target=lines.extend, args=(process.stdout,))
    reader.start()
    peak, peak_own = Memory(), 0
    while process.poll() is None:
        now = memory_of_tree(process.pid)
        peak = max(peak, now, key=lambda memory: memory.whole)
        peak_own = max(peak_own, now.own)
        time.sleep(SAMPLE_SECONDS)
    reader.join()
    output = "".join(lines)
    if process.returncode:
        raise _failure(process, output)
    return Watched(time.perf_counter() - begin, peak, peak_own, output)


def _started(command: Sequence[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _failure(process: subprocess.Popen[str], output: str) -> subprocess.CalledProcessError:
    error = subprocess.CalledProcessError(process.returncode, process.args, output)
    error.add_note(output)
    return error


def memory_of_tree(pid: int) -> Memory:
    """Of a process and its descendants; of those that end meanwhile nothing."""
    memory = Memory()
    for each in descendants(pid):
        try:
            text = Path(f"/proc/{each}/smaps_rollup").read_text(encoding="ascii")
        except OSError:
            continue
        for line in text.splitlines():
            name, _, value = line.partition(":")
            if name in _PARTS:
                part = _PARTS[name]
                setattr(memory, part, getattr(memory, part) + int(value.split()[0]) * KIB)
    return memory


def descendants(pid: int) -> list[int]:
    """`pid` itself, and all processes that it or they have started."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                # The name, in brackets, may hold blanks and brackets itself.
                parent = int(
                    (folder / "stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[1]
                )
            except (OSError, IndexError):
                continue
            children.setdefault(parent, []).append(int(folder.name))
    found, open_ends = [], [pid]
    while open_ends:
        each = open_ends.pop()
        found.append(each)
        open_ends += children.get(each, [])
    return found
