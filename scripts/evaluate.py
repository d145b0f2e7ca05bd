"""Scores a submission against the true answers: python -m scripts.evaluate submission.csv answers.csv"""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from base.label_space import LabelSpace
from experiment.schema import SECTIONS
from inference.inputs import folds_with_checkpoints
from inference.predictor import find_checkpoint
from inference.scoring.evaluation import SetScores, classifications, report_scores
from inference.submission import Answers, align, read_answers, read_origin
from logger.log import close_log, open_log
from parse_config import ConfigParser
from utils.checkpoint.checkpoint_file import read_checkpoint
from utils.command_line import CommandLine
from utils.errors import CheckpointError, ConfigError, run_and_exit
from utils.files import obstacle_to_replacing, write_output
from utils.run_folders import obstacle_to_writing

DEFAULT_CONFIG = Path("config.json")


def evaluate(arguments: Namespace) -> list[SetScores]:
    """The scores of the joint class and of each attribute that both tables know, each with a line in the log.

    Raises ConfigError, DataError, CheckpointError."""
    open_log(None, 1)
    try:
        submission, answers = Path(arguments.submission), Path(arguments.answers)
        if arguments.output is not None:
            refuse_output(arguments.output, [submission, answers, Path(arguments.config or DEFAULT_CONFIG)])
        named = label_space_named(arguments) or read_origin(submission)
        labels = named or label_space_of_config(DEFAULT_CONFIG)
        truth = read_answers(answers, labels)
        predicted = align(read_answers(submission, labels, complete=True), truth.ids, answers)
        if named is None:
            refuse_guessing(labels, predicted, truth)
        found = classifications(labels, predicted.joint, predicted.classes, truth.classes)
        scores = report_scores(labels, found, truth.persons or truth.ids)
        if arguments.output is not None:
            write_scores(Path(arguments.output), scores)
        return scores
    finally:
        close_log()


def label_space_named(arguments: Namespace) -> LabelSpace | None:
    """That of the run or checkpoint --labels, or of the config -c; None if neither is given."""
    if arguments.labels is None:
        return None if arguments.config is None else label_space_of_config(arguments.config)
    path = Path(arguments.labels)
    file = find_checkpoint(next(iter(folds_with_checkpoints(path).values()), path))
    try:
        return LabelSpace(**read_checkpoint(file)["labels"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{file}: holds no label space of this version ({error})") from None


def label_space_of_config(path: Path) -> LabelSpace:
    labels: LabelSpace = ConfigParser.from_file(path, SECTIONS).build("labels")
    return labels


def refuse_guessing(labels: LabelSpace, predicted: Answers, truth: Answers) -> None:
    """Raises ConfigError where the numbers need not be joint classes of the default config, but may be those of other
    attributes: the last class is not among them."""
    last = labels.num_joint_classes - 1
    joint = [table.joint for table in (predicted, truth) if table.joint is not None and table.has_joint_column]
    highest = max((int(each.max()) for each in joint), default=last)
    if highest < last:
        raise ConfigError(
            f"{predicted.path}: what its answers mean is not known: they and those of {truth.path} are 0 to {highest}, "
            f"and {DEFAULT_CONFIG} has 0 to {last}; name the run that made them with --labels, or a config with -c"
        )


def refuse_output(output: str, read: Sequence[Path]) -> None:
    """Raises ConfigError for an --output that cannot be written or is one of `read`, before anything is scored."""
    path = Path(output)
    obstacle = obstacle_to_replacing(path, read, ".json") if path.name else "names no file"
    if obstacle := obstacle or obstacle_to_writing(path.parent):
        raise ConfigError(f"--output {output}: cannot be written: {obstacle}")


def write_scores(path: Path, scores: Sequence[SetScores]) -> None:
    """Writes a list of objects, one a classification. Raises ConfigError, StorageFullError."""
    text = json.dumps([asdict(row) for row in scores], indent=4, ensure_ascii=False)
    write_output(path, f"{text}\n")


def parse(argv: Sequence[str] | None) -> Namespace:
    """The command line. Raises ConfigError."""
    description = "Scores a submission (ImageID,ans) against the true answers."
    parser = CommandLine(prog="scripts.evaluate", description=description)
    add = parser.add_argument
    add("submission", help="the CSV to score; its rows may be in any order")
    add("answers", help="a CSV with the true answers: ImageID, ans or the attributes, perhaps person")
    add("-c", "--config", type=Path, help="a config whose labels define what an answer is")
    add("--labels", help="a checkpoint or run folder that defines it (default: the file beside the submission)")
    add("--output", help="a JSON file to write the scores to")
    arguments = parser.parse(argv)
    if arguments.config is not None and arguments.labels is not None:
        raise ConfigError("--config and --labels both define what an answer is; give one of them")
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of this process, or `argv`."""
    evaluate(parse(argv))


if __name__ == "__main__":
    run_and_exit(main)
