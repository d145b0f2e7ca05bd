"""The workers of a machine: processes that are replaced when they are killed."""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from experiment.search.study import Sweep
from experiment.search.worker import POLL_SECONDS, Worker, stop_with_parent
from logger.log import LOG_NAME, open_log
from utils.errors import UserError
from utils.signals import StopSignals

MOST_KILLS = 20
"""So many workers are replaced."""

log = logging.getLogger(LOG_NAME)
_SERVER = multiprocessing.get_context("forkserver")


def supervise(
    config_file: Path,
    overrides: Sequence[str],
    storage: str | None,
    devices: Sequence[str | None],
    trials: int,
    deadline: float,
    stop: StopSignals,
) -> None:
    """Runs workers, one a device, until the study has so many trials or the time is over. One that is killed is
    replaced: its trial is resumed.

    Workers and trials are forked from a process that has imported torch and done nothing with it: importing it takes
    seconds, and a process that has used a GPU cannot be forked.

    Raises StopSignal once all have saved what they do; a UserError where one of them fails."""

    errors, of_worker = _SERVER.Pipe(duplex=False)

    def start(device: str | None) -> ForkServerProcess:
        seconds = None if deadline == math.inf else max(deadline - time.monotonic(), 0)
        given = (config_file, overrides, storage, device, trials, seconds, of_worker)
        process = _SERVER.Process(target=_work, args=given)
        process.start()
        return process

    _SERVER.set_forkserver_preload([_work.__module__, "experiment.run", "optuna"])
    workers = [start(device) for device in devices]
    is_stopped, kills = False, 0
    while running := [worker for worker in workers if worker.exitcode is None]:
        wait([worker.sentinel for worker in running], POLL_SECONDS)
        if stop.requested and not is_stopped:
            is_stopped = True
            for worker in running:
                worker.terminate()
        for number, worker in enumerate(workers):
            exit_code = worker.exitcode or 0
            if exit_code < 0 and not stop.requested and kills < MOST_KILLS:
                kills += 1
                log.warning("worker %d was killed by signal %d; another takes its place", number, -exit_code)
                workers[number] = start(devices[number])
    stop.raise_if_requested()
    if errors.poll():
        raise errors.recv()
    if any(worker.exitcode for worker in workers):
        raise UserError("a worker failed, see above; the same command resumes the sweep")


def _work(
    config_file: Path,
    overrides: Sequence[str],
    storage: str | None,
    device: str | None,
    trials: int,
    seconds: float | None,
    errors: Connection,
) -> None:
    os.setsid()  # Ctrl-C reaches it once, through its supervisor
    stop_with_parent()
    open_log(None, verbosity=1)
    deadline = math.inf if seconds is None else time.monotonic() + seconds
    try:
        with StopSignals() as stop:
            Worker(Sweep(config_file, overrides, storage), device, stop).work(trials, deadline)
    except UserError as error:
        errors.send(error)
        sys.exit(error.exit_code)
