"""From checkpoints to a submission: python test.py --resume <run folder or checkpoint> [<another> ...]"""

from __future__ import annotations

import utils.early_signals  # noqa: F401 - first: what follows takes seconds to import

# isort: split
import logging
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from base.label_space import LabelSpace
from inference.ensemble import Ensemble
from inference.environment import with_environment
from inference.evaluation import SetScores, class_distribution, tell_scores
from inference.inputs import choose_records, files_read, known_classes, persons_of, read_truth
from inference.members import Part, load_parts, title_of
from inference.predictor import Probabilities, judge
from inference.submission import write_probabilities, write_submission
from inference.tta import PRESETS
from logger.log import LOG_NAME, close_log, open_log
from utils.command_line import CommandLine
from utils.device import choose_device
from utils.errors import ConfigError, run_command
from utils.files import obstacle_to_replacing
from utils.heap import keep_freed_memory
from utils.run_folders import obstacle_to_writing
from utils.signals import StopSignals

log = logging.getLogger(LOG_NAME)


@dataclass(frozen=True)
class TestResult:
    """What test.py has made: the CSV of answers, and the scores where the truth is known (else none)."""

    __test__ = False  # not a test of pytest's

    submission: Path
    scores: list[SetScores]


def test(arguments: Namespace) -> TestResult:
    """Judges the images that the command line means, writes the answers, and scores them where the truth is known.

    Raises CheckpointError, DataError, ConfigError; StopSignal between two batches."""
    open_log(None, 1)
    try:
        arguments = with_environment(arguments)
        parts = load_models(arguments)
        ensemble = ensemble_of(parts)
        submission = output_file(parts, arguments)
        records = choose_records(parts, arguments.info_dir, arguments.split)
        truth = read_truth(arguments.answers, ensemble.labels, records)
        with StopSignals() as stop:
            predictors = [part.predictor for part in parts]
            of_parts = judge(predictors, records, arguments.bs, arguments.num_workers, stop, verbosity=1)
        judgement = ensemble.judge(of_parts, arguments.vote)
        names = [record.name for record in records]
        if arguments.parts:
            write_parts(submission, names, parts, of_parts, arguments.probabilities)
        table = judgement.by_attribute if arguments.probabilities else None
        write_answers(submission, names, ensemble.labels, judgement.answers, table)
        for line in class_distribution(ensemble.labels, judgement.answers):
            log.info("%s", line)
        known, persons = known_classes(ensemble.labels, records, truth), persons_of(records, truth)
        scores = tell_scores(ensemble.labels, judgement.answers, judgement.said, known, persons)
        return TestResult(submission, scores)
    finally:
        close_log()


def load_models(arguments: Namespace) -> list[Part]:
    """The models that --resume names, told in the log."""
    views = PRESETS[arguments.views] if arguments.views is not None else None
    device = choose_device(arguments.device)
    parts = load_parts(
        [Path(path) for path in arguments.resume], arguments.checkpoint, arguments.weights, device, views
    )
    for part in parts:
        model = part.predictor
        log.info("%s: %s, %d epochs", part.path, model.config["name"], model.completed_epochs)
        if model.views != PRESETS["none"]:
            log.info("%s: judges %d views of each image: %s", part.path, len(model.views), ", ".join(model.views))
    return parts


def ensemble_of(parts: Sequence[Part]) -> Ensemble:
    """How the models answer together; of several it is told in the log."""
    names = [str(part.path) for part in parts]
    ensemble = Ensemble([part.predictor.labels for part in parts], [part.weight for part in parts], names)
    if len(parts) > 1:
        for line in ensemble.describe():
            log.info("%s", line)
        for line in ensemble.warnings():
            log.warning("%s", line)
    return ensemble


def write_answers(
    file: Path,
    names: Sequence[str],
    labels: LabelSpace,
    answers: Tensor,
    by_attribute: Mapping[str, Tensor] | None,
) -> None:
    """The CSV of answers; the probabilities, if they are given, in <file>_probabilities.csv."""
    write_submission(file, names, answers)
    log.info("%s: %d answers", file, len(answers))
    if by_attribute is not None:
        beside = probabilities_file(file)
        write_probabilities(beside, names, labels, by_attribute)
        log.info("%s: their probabilities", beside)


def write_parts(
    submission: Path,
    names: Sequence[str],
    parts: Sequence[Part],
    of_parts: Sequence[Probabilities],
    with_probabilities: bool,
) -> None:
    """Each model's own answers beside the submission, in the classes of its own answer: <submission>_part<k>.csv."""
    for number, (part, probabilities) in enumerate(zip(parts, of_parts, strict=True), start=1):
        file = part_file(submission, number)
        log.info("part %d: %s", number, part.path)
        table = probabilities.by_attribute if with_probabilities else None
        write_answers(file, names, part.predictor.labels, probabilities.answers.argmax(dim=1), table)


def output_file(parts: Sequence[Part], arguments: Namespace) -> Path:
    """submit/<name>_<run>.csv, of several models with all their names; a side of a run's split goes to the run's own
    folder. Raises ConfigError if it, or what is written beside it, cannot be written, or is what is read."""
    submit_dir = Path(arguments.submit_dir or parts[0].predictor.config.get("submit_dir", "submit/"))
    file = submit_dir / f"{title_of(parts)}.csv"
    if arguments.split is not None:
        runs = {part.run_of_folds or part.path.parent for part in parts}
        one_run = len(runs) == 1 and arguments.submit_dir is None
        name = f"predictions_{arguments.split}.csv"
        file = runs.pop() / name if one_run else submit_dir / f"{title_of(parts)}_{name}"
    if arguments.output is not None:
        file = Path(arguments.output)
    if not file.name:
        raise ConfigError(f"--output {arguments.output!r}: names no file")
    if obstacle := obstacle_to_writing((file.resolve() if file.is_symlink() else file).parent):
        raise ConfigError(f"{file}: cannot be written: {obstacle}")
    files = [file, *([part_file(file, number) for number in range(1, len(parts) + 1)] if arguments.parts else [])]
    files += [probabilities_file(each) for each in files] if arguments.probabilities else []
    read = files_read(parts, arguments.info_dir, arguments.split, arguments.answers)
    for each in files:
        if obstacle := obstacle_to_replacing(each, read):
            raise ConfigError(f"{each}: cannot be written: {obstacle}")
    return file


def part_file(submission: Path, number: int) -> Path:
    """Where a model's own answers go, the first being 1."""
    return submission.with_name(f"{submission.stem}_part{number}.csv")


def probabilities_file(submission: Path) -> Path:
    return submission.with_name(f"{submission.stem}_probabilities.csv")


def parse(argv: Sequence[str] | None) -> Namespace:
    """The command line. Raises ConfigError."""
    parser = CommandLine(description="Writes the answers of trained models, and scores them where the truth is known.")
    parser.add_argument(
        "-r",
        "--resume",
        nargs="+",
        help="a run folder, such as saved/models/<name>/<run>, or a file; several answer together, as do a run's folds",
    )
    parser.add_argument("-d", "--device", help="cpu, cuda, cuda:1 (default: the best there is)")
    parser.add_argument("--checkpoint", default="best", help="of a run folder: best (default), last, best_f1, ...")
    parser.add_argument("--weights", nargs="+", type=float, help="of several models: how much each counts")
    parser.add_argument(
        "--vote", choices=("soft", "hard"), default="soft", help="of several: mean of probabilities, or most votes"
    )
    parser.add_argument("--parts", action="store_true", help="also write each model's own answers")
    parser.add_argument("--views", choices=PRESETS, help="views of each image to average over (default: the config's)")
    parser.add_argument("--info-dir", help="a folder with info.csv and images/ (default: the config's info_dir)")
    parser.add_argument("--split", choices=("train", "validation", "test"), help="judge a side of the run's own split")
    parser.add_argument("--answers", help="a CSV with the true answers (ImageID, ans and perhaps person)")
    parser.add_argument("--output", help="the CSV to write (default: <submit_dir>/<name>_<run>.csv)")
    parser.add_argument("--probabilities", action="store_true", help="also write each class's probability")
    parser.add_argument("--bs", type=int, help="images to a batch (default: the config's)")
    parser.add_argument("--num-workers", type=_num_workers, help="processes that read images (default: the config's)")
    arguments = parser.parse(argv)
    if arguments.bs is not None and arguments.bs < 1:
        raise ConfigError(f"--bs {arguments.bs}: must be at least 1")
    return arguments


def _num_workers(text: str) -> int | Literal["auto"]:
    if text == "auto":
        return "auto"
    if not text.isdecimal():
        raise ConfigError(f'--num-workers {text}: must be a whole number of at least 0, or "auto"')
    return int(text)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of this process, or `argv`."""
    keep_freed_memory()
    test(parse(argv))


if __name__ == "__main__":
    sys.exit(run_command(main))
