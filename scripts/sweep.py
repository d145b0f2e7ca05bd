"""Searches the values of a config's "sweep" section:

python -m scripts.sweep configs/sweep.json --trials 100 --timeout 600 --workers 2
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path

from experiment.search.results import best_line, refuse_without_result, write_results
from experiment.search.study import Sweep
from experiment.search.supervisor import supervise
from logger.log import LOG_NAME, close_log, open_log
from utils.command_line import CommandLine
from utils.device import choose_device
from utils.errors import ConfigError, run_and_exit
from utils.signals import StopSignals

log = logging.getLogger(LOG_NAME)

STORAGE_VARIABLE = "OPTUNA_STORAGE"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line. Raises ConfigError."""
    parser = CommandLine(prog="scripts.sweep", description="Searches the values that a config's sweep section names.")
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
    given = parser.parse(argv)
    for flag in ("trials", "workers"):
        if getattr(given, flag) < 1:
            raise ConfigError(f"--{flag} {getattr(given, flag)}: must be at least 1")
    for device in given.devices or []:
        try:
            choose_device(device)
        except ConfigError as error:
            raise ConfigError(str(error).replace("--device ", "--devices ")) from None
    return given


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    given = parse(argv)
    deadline = math.inf if given.timeout is None else time.monotonic() + given.timeout
    devices = [(given.devices or [None])[number % len(given.devices or [None])] for number in range(given.workers)]
    open_log(None, verbosity=1)
    try:
        sweep = Sweep(given.config, given.set, given.storage)
        sweep.check_space()
        study = sweep.study()
        log.info("sweep %s: %s", sweep.name, sweep.folder)
        try:
            with StopSignals() as stop:
                supervise(given.config, given.set, given.storage, devices, given.trials, deadline, stop)
        finally:
            files = write_results(sweep, study)
            log.info("%s: %s", sweep.folder, ", ".join(file.name for file in files))
            log.info("%s", best_line(sweep, study))
        refuse_without_result(study)
    finally:
        close_log()


if __name__ == "__main__":
    run_and_exit(main)
