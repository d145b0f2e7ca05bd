"""Learns from runs' out-of-fold predictions how to decide, and what that is worth:

python -m scripts.tune saved/models/<name>/<run> [<another run> ...] --output tuned.json
python test.py --resume saved/models/<name>/<run> [<another run> ...] --decision tuned.json
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from inference.run_predictions import RunPredictions, common_images
from inference.tuning.nested import Tuning, TuningResult
from logger.log import LOG_NAME, close_log, open_log
from utils.command_line import CommandLine
from utils.errors import ConfigError, run_and_exit
from utils.files import obstacle_to_replacing
from utils.run_folders import obstacle_to_writing, refuse_missing

log = logging.getLogger(LOG_NAME)


def main(argv: Sequence[str] | None = None) -> TuningResult:
    """The command. Raises ConfigError, CheckpointError, DataError."""
    parser = CommandLine(prog="scripts.tune", description="Learns how to decide from runs' out-of-fold predictions.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders, of folds or of one model")
    parser.add_argument("--output", type=Path, required=True, help="the JSON to write, for test.py --decision")
    parser.add_argument("--folds", type=int, default=5, help="of persons, that tuning is nested in (default: 5)")
    parser.add_argument("--seed", type=int, default=0, help="that the persons are dealt with (default: 0)")
    given = parser.parse(argv)
    if given.folds < 3:
        raise ConfigError(f"--folds {given.folds}: must be at least 3")
    if repeated := [run for number, run in enumerate(given.runs) if run in given.runs[:number]]:
        raise ConfigError(f"{repeated[0]}: is named twice")
    for run in given.runs:
        refuse_missing(run)
    is_named, beginning = given.output.name, '{"format":'
    obstacle = obstacle_to_replacing(given.output, (), ".json", beginning) if is_named else "names no file"
    if obstacle := obstacle or obstacle_to_writing(given.output.parent):
        raise ConfigError(f"--output {given.output}: cannot be written: {obstacle}")
    open_log(None, verbosity=1)
    try:
        runs = [RunPredictions.read(run) for run in given.runs]
        common = common_images(runs, specialists=True)
        for run, own in zip(runs, common, strict=True):
            if len(own.table) < len(run.table):
                log.info("%s: %d of its %d images are common", run.folder, len(own.table), len(run.table))
        result = Tuning(common, given.folds, given.seed).run()
        result.decision().write(given.output)
        for line in result.lines():
            log.info("%s", line)
        log.info("written: %s", given.output)
        return result
    finally:
        close_log()


if __name__ == "__main__":
    run_and_exit(main)
