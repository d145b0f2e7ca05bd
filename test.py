"""From checkpoints to a submission: python test.py --resume <run folder or checkpoint> [<another> ...]"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from inference.cli import parse_arguments
from logger.log import close_log, open_log
from utils.allocator import keep_freed_memory
from utils.config.plugins import accept_changes, plugin_errors
from utils.errors import importing, run_and_exit
from utils.started_processes import this_process

if TYPE_CHECKING:
    from inference.run import TestResult


def main(argv: Sequence[str] | None = None) -> TestResult:
    """The command line of this process, or `argv`.

    Raises ConfigError, CheckpointError, DataError; StopSignal between two batches."""
    keep_freed_memory()
    log = open_log(None, verbosity=1, rank=this_process().rank)
    try:
        arguments = parse_arguments(argv)  # what is mistyped or missing ends here, before torch is imported
        accept_changes(arguments.accept_changed_plugins)
        log.info("models: %s", ", ".join(arguments.resume))
        with plugin_errors():
            return answer(arguments)
    finally:
        close_log()


def answer(arguments: Namespace) -> TestResult:
    """Predicts the images that the command line means, writes the answers, and scores them where the truth is known."""
    with importing():  # of torch, timm and albumentations: it takes seconds
        from experiment.report import write_report
        from inference import inputs, run
        from inference.scoring import evaluation, scores
        from utils import distributed
        from utils.device import choose_device

    with distributed.together(choose_device(arguments.device)):
        members = inputs.load_models(arguments)
        tuned = arguments.decision
        ensemble = run.ensemble_of(members) if tuned is None else run.tuned_ensemble_of(members, Path(tuned))
        submission = run.output_file(members, arguments)
        with distributed.first_of_each_machine():  # to check the images
            records = inputs.choose_records(members, arguments.info_dir, arguments.split)
        truth, persons = inputs.read_truth(arguments.answers, ensemble.labels, records)
        by_member = run.predict_all(members, records, arguments)
        predicted = ensemble.predict(by_member, arguments.vote)
        found = evaluation.classifications(ensemble.labels, predicted.joint, predicted.classes, truth)
        if distributed.is_main_process():
            run.write_results(submission, records, members, by_member, ensemble, predicted, arguments, truth)
        measured = evaluation.report_scores(ensemble.labels, found, persons)
        if distributed.is_main_process():
            for folder in scores.keep_scores(members, arguments, submission, records, truth, measured):
                write_report(folder)
        return run.TestResult(submission, measured)


if __name__ == "__main__":
    run_and_exit(main)
