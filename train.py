"""Trains the model that a JSON config describes: python train.py --config config.json"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from experiment.cli import parse_arguments, read_config_files
from logger.log import close_log, open_log
from utils.allocator import keep_freed_memory
from utils.config.plugins import accept_changes, plugin_errors
from utils.errors import importing, run_and_exit
from utils.started_processes import this_process

if TYPE_CHECKING:
    from experiment.run import RunResult


def main(argv: Sequence[str] | None = None) -> RunResult | None:
    """The command line of this process, or `argv`. Returns None for --print-config and --dry-run, which create no run.

    Raises a UserError for whatever is wrong with the command line, the config, the data or the checkpoint; StopSignal
    if the run was asked to stop, with all saved."""
    keep_freed_memory()
    try:
        arguments = parse_arguments(argv)  # typos, missing files and invalid JSON are reported before torch is imported
        accept_changes(arguments.accept_changed_plugins)
        files = read_config_files(arguments)
        log = open_log(None, verbosity=0 if arguments.print_config else 1, rank=this_process().rank)
        log.info("config: %s", arguments.config_file or f"that of {arguments.run_to_resume}")

        with importing():  # of torch, timm and albumentations: it takes seconds
            from experiment import run
            from experiment.builders import read_label_table
            from experiment.folds import splits_of
            from utils import distributed

        config, resume = run.configure(arguments, files)
        if arguments.print_config:
            run.print_config(config, resume, arguments)
            return None
        with plugin_errors(), run.open_session(config, resume, arguments) as session:
            with distributed.first_of_each_machine():
                folds = splits_of(config, read_label_table(config, session.labels))
            run.refuse_folds_of_other_data(session, folds)
            run.warn_of_duplicates(session, folds)
            run.warn_of_bad_test_images(session, folds[0].split.test)
            for fold in folds if arguments.fold is None else [folds[arguments.fold]]:
                if not run.train_fold(session, fold):  # a dry run: one fold is enough
                    return None
            return run.report(session, folds)
    finally:
        close_log()


if __name__ == "__main__":
    run_and_exit(main)
