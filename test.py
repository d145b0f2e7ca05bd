"""From checkpoints to a submission: python test.py --resume <run folder or checkpoint> [<another> ...]"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from inference.cli import parse_arguments
from logger.log import close_log, open_log
from utils.allocator import keep_freed_memory
from utils.errors import run_command

if TYPE_CHECKING:
    from inference.run import TestResult


def main(argv: Sequence[str] | None = None) -> TestResult:
    """The command line of this process, or `argv`.

    Raises ConfigError, CheckpointError, DataError; StopSignal between two batches."""
    keep_freed_memory()
    log = open_log(None, verbosity=1)
    try:
        arguments = parse_arguments(argv)  # what is mistyped or missing ends here, before torch is imported
        log.info("models: %s", ", ".join(arguments.resume))
        return answer(arguments)
    finally:
        close_log()


def answer(arguments: Namespace) -> TestResult:
    """Predicts the images that the command line means, writes the answers, and scores them where the truth is known."""
    from inference import inputs, run  # import torch, timm and albumentations, which takes seconds

    parts = run.load_models(arguments)
    ensemble = run.ensemble_of(parts)
    submission = run.output_file(parts, arguments)
    records = inputs.choose_records(parts, arguments.info_dir, arguments.split)
    truth = inputs.read_truth(arguments.answers, ensemble.labels, records)
    of_parts = run.predict(parts, records, arguments)
    judgement = ensemble.judge(of_parts, arguments.vote)
    run.write_results(submission, records, parts, of_parts, ensemble.labels, judgement, arguments)
    return run.TestResult(submission, run.score(ensemble.labels, judgement, records, truth))


if __name__ == "__main__":
    sys.exit(run_command(main))
