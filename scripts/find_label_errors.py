"""Labels that are probably wrong: python -m scripts.find_label_errors RUN [RUN ...] --output FOLDER

Asks the runs' out-of-fold predictions, attribute by attribute, with confident learning (pip install cleanlab).

    <output>/label_fixes.csv    a config's label_fixes: delete the rows of labels that are right, and use it
    <output>/label_errors.jpg   the pictures, with their row in the table, the given class and the suggested one
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from inference.label_errors import SuspiciousLabel, contact_sheet, find_in_runs, lines_of, table_text
from inference.run_predictions import RunPredictions
from logger.log import LOG_NAME, close_log, open_log
from utils.command_line import CommandLine
from utils.errors import ConfigError, run_and_exit
from utils.files import write_atomically, write_output
from utils.images.contact_sheet import JPEG, encode
from utils.run_folders import obstacle_to_writing, refuse_missing
from utils.wording import counted

log = logging.getLogger(LOG_NAME)

TABLE, SHEET = "label_fixes.csv", "label_errors.jpg"


def main(argv: Sequence[str] | None = None) -> list[SuspiciousLabel]:
    """The command. Raises ConfigError, CheckpointError, DataError, StorageFullError."""
    parser = CommandLine(prog="scripts.find_label_errors", description="Finds labels that are probably wrong.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders; one of folds covers all images")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FOLDER", help=f"where {TABLE} and {SHEET} are written"
    )
    given = parser.parse(argv)
    if repeated := [run for number, run in enumerate(given.runs) if run in given.runs[:number]]:
        raise ConfigError(f"{repeated[0]}: is named twice")
    for run in given.runs:
        refuse_missing(run)
    if obstacle := obstacle_to_writing(given.output):
        raise ConfigError(f"--output {given.output}: cannot be written: {obstacle}")
    open_log(None, verbosity=1)
    try:
        runs = [RunPredictions.read(run) for run in given.runs]
        images, found = find_in_runs(runs)
        log.info("%d images that %s did not train on", len(images), counted(len(runs), "run"))
        for line in lines_of(images, found):
            log.info("%s", line)
        write_output(given.output / TABLE, table_text(images, found))
        if found:
            write_atomically(given.output / SHEET, encode(contact_sheet(images, found), JPEG))
        log.info("%s: written; look at each label, and delete the rows of those that are right", given.output / TABLE)
        if used := sorted({run.config["label_fixes"] for run in runs if run.config.get("label_fixes")}):
            log.info("the runs have used %s: add the rows to it", ", ".join(used))
        return found
    finally:
        close_log()


if __name__ == "__main__":
    run_and_exit(main)
