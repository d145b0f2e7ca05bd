"""Searches the values of a config's "sweep" section:

python -m scripts.sweep configs/sweep.json --trials 100 --timeout 600 --workers 2
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from experiment.schema import SECTIONS
from experiment.search import POLL_SECONDS, PROJECT, Sweep
from experiment.search_results import best_line, write_results
from logger.log import LOG_NAME, close_log, open_log
from utils.command_line import CommandLine
from utils.errors import ConfigError, UserError, run_command
from utils.signals import StopSignals

log = logging.getLogger(LOG_NAME)

STORAGE_VARIABLE = "OPTUNA_STORAGE"
MOST_KILLS = 20
"""So many workers are replaced."""


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = CommandLine(prog="sweep", description="Searches the values that a config's sweep section names.")
    parser.add_argument("config", type=Path, help="a config with a sweep section, such as configs/sweep.json")
    parser.add_argument("--trials", type=int, default=100, help="trials of the whole study (default: 100)")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="begin no trial after so many seconds")
    parser.add_argument("--workers", type=int, default=1, help="trials at a time on this machine (default: 1)")
    parser.add_argument("--devices", nargs="+", help="of the workers in turn, such as cuda:0 cuda:1")
    parser.add_argument(
        "--storage",
        metavar="URL",
        default=os.environ.get(STORAGE_VARIABLE),
        help=f"an Optuna storage that several machines share: postgresql://... (default: {STORAGE_VARIABLE})",
    )
    parser.add_argument("--set", action="append", default=[], metavar="a.b.c=value", help="sets a value for all trials")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse(argv)
    for flag in ("trials", "workers"):
        if getattr(given, flag) < 1:
            raise ConfigError(f"--{flag} {getattr(given, flag)}: must be at least 1")
    devices = given.devices or [None]
    deadline = math.inf if given.timeout is None else time.monotonic() + given.timeout
    open_log(None, verbosity=1)
    try:
        sweep = Sweep(given.config, SECTIONS, given.set, given.storage, devices[0])
        with StopSignals() as stop:
            if given.worker:
                sweep.work(given.trials, deadline, stop)
                return
            sweep.check_space()
            study = sweep.study()
            log.info("sweep %s: %s", sweep.name, sweep.folder)
            try:
                if given.workers == 1:
                    sweep.work(given.trials, deadline, stop)
                else:
                    command = [sys.executable, "-m", "scripts.sweep", str(given.config), "--worker"]
                    command += ["--trials", str(given.trials)]
                    command += [word for text in given.set for word in ("--set", text)]
                    of_workers = [devices[number % len(devices)] for number in range(given.workers)]
                    commands = [[*command, *(["--devices", device] if device else [])] for device in of_workers]
                    _supervise(commands, given.storage, deadline, stop)
            finally:
                for file in write_results(sweep, study):
                    log.info("%s: written", file)
                log.info("%s", best_line(sweep, study))
    finally:
        close_log()


def _supervise(commands: Sequence[Sequence[str]], storage: str | None, deadline: float, stop: StopSignals) -> None:
    """Runs the workers to their end. One that is killed is replaced: its trial is resumed.

    Raises StopSignal once all have saved what they do; a UserError where one of them fails."""
    search_path = filter(None, (str(PROJECT), os.environ.get("PYTHONPATH")))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(search_path)}
    if storage is not None:
        environment[STORAGE_VARIABLE] = storage  # not on the command line, which every user of the machine sees

    def start(number: int) -> subprocess.Popen[bytes]:
        seconds = [] if deadline == math.inf else ["--timeout", str(max(deadline - time.monotonic(), 0))]
        # In a session of its own: Ctrl-C reaches it once, through this process.
        return subprocess.Popen([*commands[number], *seconds], env=environment, start_new_session=True)

    workers = [start(number) for number in range(len(commands))]
    is_stopped, kills = False, 0
    while any(worker.poll() is None for worker in workers):
        if stop.requested and not is_stopped:
            is_stopped = True
            for worker in workers:
                worker.send_signal(signal.SIGTERM)
        for number, worker in enumerate(workers):
            if (worker.poll() or 0) < 0 and not stop.requested and kills < MOST_KILLS:
                kills += 1
                log.warning("worker %d was killed by signal %d; another takes its place", number, -worker.returncode)
                workers[number] = start(number)
        time.sleep(POLL_SECONDS)
    stop.raise_if_requested()
    failed = next((worker.returncode for worker in workers if worker.returncode), None)
    if failed is not None:
        error = UserError(f"a worker ended with exit code {failed}, see above; the same command resumes the sweep")
        error.exit_code = max(failed, 1)
        raise error


if __name__ == "__main__":
    sys.exit(run_command(main))
