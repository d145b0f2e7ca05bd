"""A command in a process of its own, forked from one that has imported torch: it starts in milliseconds, and is killed
where the harness says."""

from __future__ import annotations

import contextlib
import importlib
import math
import mmap
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import test
import train
from data_loader.cache import arrays
from experiment.search.results import best_line
from experiment.search.study import Sweep
from experiment.search.worker import Worker
from logger.log import close_log, open_log
from scripts import sweep
from trainer.learner import Learner
from utils.errors import run_command
from utils.files import write_output
from utils.signals import StopSignals

TIMEOUT_SECONDS = 300
WRITING = ("w", "a", "x", "+")
CHECKPOINTS = (".pth", ".pending")
CACHE, TRIALS_FILE, STOPS_FILE = "image_cache", "trials.txt", "stops.txt"
KINDS = ("checkpoint", "file", "cache", "update")
IMPORTED_LATE = (
    "experiment.run", "experiment.report", "inference.inputs", "inference.run", "inference.scoring.scores", "jinja2",
    "matplotlib.pyplot", "optuna", "pandas", "scipy.optimize", "tensorboard", "torch.utils.tensorboard",
)  # fmt: skip
"""By the commands, which would take seconds of each process."""


@dataclass(frozen=True)
class Point:
    """Where a process is stopped.

    kind: "checkpoint", "cache" (prepared images) and "file" (any other): at a step of writing one (open, flush, rename,
        link, remove; a row of the cache); "update": after an update of the weights; "seconds": at any time
    at: the number of the step or the update, from 1; or seconds
    number: the signal
    """

    kind: str
    at: float
    number: signal.Signals = signal.SIGKILL

    def __str__(self) -> str:
        return f"{self.number.name} at {self.kind} {self.at:g}"


class Steps:
    """Counts the steps of writing files in a folder, and those of an update, until the point is reached. The processes
    that this one forks count with it: a search trains in one of them.

    point: None: everything is counted
    """

    def __init__(self, folder: Path, point: Point | None) -> None:
        self.folder, self.point, self.leader = folder.resolve(), point, os.getpid()
        self._counts = np.frombuffer(mmap.mmap(-1, 8 * len(KINDS)), np.int64)  # shared
        self._stops = os.open(folder / STOPS_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        self._flushed: dict[str, int] = {}

    @property
    def counts(self) -> dict[str, int]:
        return dict(zip(KINDS, self._counts.tolist(), strict=True))

    def watch(self) -> None:
        """From here on."""
        fsync, update, write_row = os.fsync, Learner.update, arrays.ArrayBuild.write_row

        def fsync_and_count(file: Any) -> None:
            descriptor = file if isinstance(file, int) else file.fileno()
            path = str(Path(f"/proc/self/fd/{descriptor}").readlink())
            is_due = self._count(path)
            if is_due and self.point is not None and self.point.at % 2 and Path(path).is_file():
                flushed = self._flushed.get(path, 0)
                size = os.fstat(descriptor).st_size
                os.ftruncate(descriptor, max(0, flushed + (size - flushed) // 2))  # what was not flushed is lost
            self._stop(is_due, path)
            fsync(descriptor)
            self._flushed[path] = os.fstat(descriptor).st_size
            self._stop(self._count(path), path)

        def update_and_count(learner: Learner, *arguments: Any) -> bool:
            result = update(learner, *arguments)
            self._stop(self._counted("update"), "update")
            return result

        def write_row_and_count(build: arrays.ArrayBuild, path: str, image: np.ndarray) -> None:
            write_row(build, path, image)
            self._stop(self._counted("cache"), f"{CACHE}/row")

        def audited(event: str, arguments: tuple[Any, ...]) -> None:
            if event in ("os.rename", "os.link", "os.remove") or (
                event == "open" and isinstance(arguments[1], str) and any(each in arguments[1] for each in WRITING)
            ):
                path = str(arguments[0])
                if event == "open" and "a" in arguments[1] and Path(path).is_file():
                    self._flushed.setdefault(os.path.realpath(path), Path(path).stat().st_size)
                self._stop(self._count(path), path)

        for owner, name, counting in (
            (os, "fsync", fsync_and_count),
            (Learner, "update", update_and_count),
            (arrays.ArrayBuild, "write_row", write_row_and_count),
        ):
            setattr(owner, name, counting)
        sys.addaudithook(audited)

    def _count(self, path: str) -> bool:
        absolute = Path(os.path.abspath(path))  # noqa: PTH100 - links are not followed
        if not absolute.is_relative_to(self.folder):
            return False
        if CACHE in absolute.parts:
            return self._counted("cache")
        return self._counted("checkpoint" if any(each in path for each in CHECKPOINTS) else "file")

    def _counted(self, kind: str) -> bool:
        number = KINDS.index(kind)
        self._counts[number] += 1
        return self.point is not None and self.point.kind == kind and self._counts[number] == self.point.at

    def _stop(self, is_due: bool, path: str) -> None:
        """In a search the training's process dies with its worker, or (every third time) is left to notice it."""
        if not is_due or self.point is None:
            return
        os.write(self._stops, f"{self.point.kind} {os.path.relpath(path, self.folder)}\n".encode())
        os.kill(self.leader, self.point.number)
        if os.getpid() != self.leader and self.point.number == signal.SIGKILL and self.point.at % 3:
            os.kill(os.getpid(), self.point.number)


def import_all() -> None:
    """What the commands import, once for all that are forked."""
    for name in IMPORTED_LATE:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def search(arguments: Sequence[str]) -> None:
    """scripts.sweep with one worker, without its server of processes, and without pictures. The trials are written to
    trials.txt, without their times."""
    given = sweep.parse(arguments)
    open_log(None, verbosity=1)
    try:
        searched = Sweep(given.config, given.set, given.storage)
        searched.check_space()
        with StopSignals() as stop:
            Worker(searched, None, stop).work(given.trials, math.inf)
        study = searched.study()
        trials = [
            (each.number, each.state.name, each.value, each.params, each.intermediate_values) for each in study.trials
        ]
        write_output(Path(TRIALS_FILE), "\n".join([*map(str, trials), best_line(searched, study)]))
    finally:
        close_log()


def run_forked(
    main: Callable[[Sequence[str]], object],
    arguments: Sequence[str],
    folder: Path,
    point: Point | None = None,
    plant: Callable[[], None] | None = None,
) -> tuple[int, dict[str, int]]:
    """Runs a command in `folder` as its script would. What it prints goes to folder/output.txt.

    main: of train.py or test.py, or `search`
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
                with (folder / STOPS_FILE).open("a") as stops:
                    stops.write("seconds at any time\n")
                os.kill(started, point.number)
                point = None
            if passed > TIMEOUT_SECONDS:
                os.killpg(started, signal.SIGKILL)
                os.waitpid(started, 0)
                raise TimeoutError(f"{' '.join(arguments)}: hangs; see {folder / 'output.txt'}")
            time.sleep(0.005)
        with os.fdopen(reader) as counted:
            if not select.select([reader], [], [], TIMEOUT_SECONDS)[0]:  # the end of all that hold the other end
                raise TimeoutError(f"{' '.join(arguments)}: what it started outlives it by {TIMEOUT_SECONDS} s")
            counts = [int(each) for each in counted.read().split()]
        time.sleep(0.02)  # a process is dead a moment after it has closed its end
    finally:
        _end_group(started)
    return os.waitstatus_to_exitcode(status), dict(zip(KINDS, counts, strict=False))


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
        sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115 - not pytest's
        sys.argv = ["command", *arguments]
        steps = Steps(Path(), point)
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
