"""Scores a submission against the true answers: python -m scripts.evaluate submission.csv answers.csv"""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from base.label_space import LabelSpace
from experiment.schema import SECTIONS
from inference.evaluation import SetScores, report_scores
from inference.members import begun_folds
from inference.predictor import find_checkpoint
from inference.submission import Answers, align, read_answers, read_origin
from logger.log import close_log, open_log
from parse_config import ConfigParser
from utils.checkpoint.checkpoint_file import read_checkpoint
from utils.command_line import CommandLine
from utils.errors import CheckpointError, ConfigError, run_command
from utils.files import obstacle_to_replacing, write_atomically
from utils.run_folders import obstacle_to_writing

DEFAULT_CONFIG = Path("config.json")


def evaluate(arguments: Namespace) -> list[SetScores]:
    """The scores of the joint class and of each attribute that both tables know, each with a line in the log.

    Raises ConfigError, DataError, CheckpointError."""
    open_log(None, 1)
    try:
        submission, answers = Path(arguments.submission), Path(arguments.answers)
        refuse_output(arguments.output, [submission, answers, Path(arguments.config or DEFAULT_CONFIG)])
        labels = named_label_space(arguments) or read_origin(submission)
        is_named = labels is not None
        labels = labels or label_space_of_config(DEFAULT_CONFIG)
        truth = read_answers(answers, labels)
        predicted = align(read_answers(submission, labels, complete=True), truth.ids, answers)
        if not is_named:
            refuse_guessing(labels, predicted, truth)
        persons = truth.persons or truth.ids
        scores = report_scores(labels, predicted.joint, predicted.classes, truth.classes, persons)
        if arguments.output is not None:
            write_scores(Path(arguments.output), scores)
        return scores
    finally:
        close_log()


def named_label_space(arguments: Namespace) -> LabelSpace | None:
    """What the answers mean, as --labels' checkpoint has it, or the config of -c; None if neither is given."""
    if arguments.labels is None:
        return None if arguments.config is None else label_space_of_config(arguments.config)
    path = Path(arguments.labels)
    folds = begun_folds(path)
    file = find_checkpoint(next(iter(folds.values()), path))
    try:
        return LabelSpace(**read_checkpoint(file)["labels"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{file}: holds no label space of this version ({error})") from None


def label_space_of_config(path: Path) -> LabelSpace:
    labels: LabelSpace = ConfigParser.from_file(path, SECTIONS).build("labels")
    return labels


def refuse_guessing(labels: LabelSpace, predicted: Answers, truth: Answers) -> None:
    """Raises ConfigError where nothing tells that the numbers are joint classes of the default config, and not those of
    other attributes: columns with the attributes' names do, and so does the last class."""
    numbers = [table.joint for table in (predicted, truth) if table.joint is not None and table.is_numbered]
    highest = max((int(joint.max()) for joint in numbers), default=labels.num_joint_classes - 1)
    if highest < labels.num_joint_classes - 1:
        raise ConfigError(
            f"{predicted.path}: its answers do not tell what they mean: they and those of {truth.path} go up to "
            f"{highest}, and {DEFAULT_CONFIG} has {labels.num_joint_classes} classes; name the run or checkpoint that "
            "made them with --labels, or a config with -c"
        )


def refuse_output(output: str | None, read: Sequence[Path]) -> None:
    """Raises ConfigError for an --output that cannot be written or is what is read, before anything is scored."""
    if output is None:
        return
    path = Path(output)
    obstacle = obstacle_to_replacing(path, read, ".json") if path.name else "names no file"
    if obstacle := obstacle or obstacle_to_writing(path.parent):
        raise ConfigError(f"--output {output}: cannot be written: {obstacle}")


def write_scores(path: Path, scores: Sequence[SetScores]) -> None:
    """A list of objects, one a classification. Raises ConfigError if it cannot be written."""
    text = json.dumps([asdict(row) for row in scores], indent=4, ensure_ascii=False)
    try:
        write_atomically(path, f"{text}\n".encode())
    except OSError as error:
        raise ConfigError(f"--output {path}: cannot be written: {error.strerror}") from None


def parse(argv: Sequence[str] | None) -> Namespace:
    """The command line. Raises ConfigError."""
    parser = CommandLine(
        prog="scripts.evaluate", description="Scores a submission (ImageID,ans) against the true answers."
    )
    parser.add_argument("submission", help="the CSV to score; its rows may stand in any order")
    parser.add_argument("answers", help="a CSV with the true answers: ImageID, ans or the attributes, perhaps person")
    parser.add_argument("-c", "--config", type=Path, help="a config whose labels say what an answer is")
    parser.add_argument(
        "--labels",
        help="a checkpoint or run folder that says it (default: the file beside the submission)",
    )
    parser.add_argument("--output", help="a JSON file to write the scores to")
    arguments = parser.parse(argv)
    if arguments.config is not None and arguments.labels is not None:
        raise ConfigError("--config and --labels both say what an answer is; give one of them")
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of this process, or `argv`."""
    evaluate(parse(argv))


if __name__ == "__main__":
    sys.exit(run_command(main))
