"""A command in a process of its own, forked from one that has imported torch: it starts in milliseconds, and is killed
where the harness says."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import test
import train
from trainer.learner import Learner
from utils.errors import run_command

TIMEOUT_SECONDS = 600
WRITING = ("w", "a", "x", "+")
CHECKPOINTS = (".pth", ".pending")


@dataclass(frozen=True)
class Point:
    """Where a process is stopped.

    kind: "checkpoint" and "file": at a step of writing one (open, flush, rename, link, remove); "update": after an
        update of the weights; "seconds": at any time
    at: the number of the step or the update, from 1; or seconds
    number: the signal
    """

    kind: str
    at: float
    number: signal.Signals = signal.SIGKILL

    def __str__(self) -> str:
        return f"{self.number.name} at {self.kind} {self.at:g}"


class Steps:
    """Counts the steps of writing files in a folder, and those of an update, until the point is reached.

    point: None: everything is counted
    """

    def __init__(self, folder: Path, point: Point | None) -> None:
        self.folder, self.point, self.process = str(folder.resolve()), point, os.getpid()
        self.counts = {"checkpoint": 0, "file": 0, "update": 0}

    def watch(self) -> None:
        """From here on, in this process alone: its workers write nothing."""
        fsync, update = os.fsync, Learner.update

        def fsync_and_count(file: Any) -> None:
            descriptor = file if isinstance(file, int) else file.fileno()
            path = str(Path(f"/proc/self/fd/{descriptor}").readlink())
            is_due = self._count(path)
            if is_due and self.point is not None and self.point.at % 2 and Path(path).is_file():
                os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)  # what was not flushed is lost
            self._stop(is_due)
            fsync(descriptor)
            self._stop(self._count(path))

        def update_and_count(learner: Learner, *arguments: Any) -> bool:
            result = update(learner, *arguments)
            self._stop(self._counted("update"))
            return result

        def audited(event: str, arguments: tuple[Any, ...]) -> None:
            if event in ("os.rename", "os.link", "os.remove") or (
                event == "open" and isinstance(arguments[1], str) and any(each in arguments[1] for each in WRITING)
            ):
                self._stop(self._count(str(arguments[0])))

        for owner, name, counting in ((os, "fsync", fsync_and_count), (Learner, "update", update_and_count)):
            setattr(owner, name, counting)
        sys.addaudithook(audited)

    def _count(self, path: str) -> bool:
        if os.getpid() != self.process or not os.path.abspath(path).startswith(self.folder):  # noqa: PTH100
            return False
        return self._counted("checkpoint" if any(each in path for each in CHECKPOINTS) else "file")

    def _counted(self, kind: str) -> bool:
        self.counts[kind] += 1
        return self.point is not None and self.point.kind == kind and self.counts[kind] == self.point.at

    def _stop(self, is_due: bool) -> None:
        if is_due and self.point is not None:
            os.kill(os.getpid(), self.point.number)


def run_forked(
    main: Callable[[Sequence[str]], object],
    arguments: Sequence[str],
    folder: Path,
    point: Point | None = None,
    plant: Callable[[], None] | None = None,
) -> tuple[int, dict[str, int]]:
    """Runs a command in `folder` as its script would. What it prints goes to folder/output.txt.

    main: of train.py or test.py
    plant: is called in the new process, before

    Returns its exit code, negative for a signal, and how often it came past each kind of point. Raises TimeoutError
    where it hangs."""
    reader, writer = os.pipe()
    started = os.fork()
    if not started:
        _be_the_command(main, arguments, folder, point, plant, writer)
    os.close(writer)
    begin = time.monotonic()
    try:
        while True:
            ended, status = os.waitpid(started, os.WNOHANG)
            if ended:
                break
            passed = time.monotonic() - begin
            if point is not None and point.kind == "seconds" and passed > point.at:
                os.kill(started, point.number)
                point = None
            if passed > TIMEOUT_SECONDS:
                os.killpg(started, signal.SIGKILL)
                os.waitpid(started, 0)
                raise TimeoutError(f"{' '.join(arguments)}: hangs; see {folder / 'output.txt'}")
            time.sleep(0.005)
        with os.fdopen(reader) as counted:
            counts = [int(each) for each in counted.read().split()]
    finally:
        _end_group(started)
    return os.waitstatus_to_exitcode(status), dict(zip(("checkpoint", "file", "update"), counts, strict=False))


def _be_the_command(
    main: Callable[[Sequence[str]], object],
    arguments: Sequence[str],
    folder: Path,
    point: Point | None,
    plant: Callable[[], None] | None,
    counted: int,
) -> None:
    code = 1
    try:
        os.setpgid(0, 0)
        os.chdir(folder)
        output = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.argv = ["command", *arguments]
        steps = Steps(folder, point)
        steps.watch()
        if plant is not None:
            plant()
        code = run_command(lambda: main(arguments))
        os.write(counted, " ".join(map(str, steps.counts.values())).encode())
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _end_group(leader: int) -> None:
    """Workers of a killed command end by themselves; what is left after a test must not disturb the next."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


TRAIN, TEST = train.main, test.main
