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
from inference.evaluation import SetScores, tell_scores
from inference.members import begun_folds
from inference.predictor import find_checkpoint
from inference.submission import align, read_answers
from logger.log import close_log, open_log
from parse_config import ConfigParser
from utils.checkpoint.checkpoint_file import read_checkpoint
from utils.command_line import CommandLine
from utils.errors import CheckpointError, ConfigError, run_command
from utils.files import obstacle_to_replacing, write_atomically
from utils.run_folders import obstacle_to_writing


def evaluate(arguments: Namespace) -> list[SetScores]:
    """The scores of the combined answer and of each attribute that makes it, told in the log.

    Raises ConfigError, DataError, CheckpointError."""
    open_log(None, 1)
    try:
        submission, answers = Path(arguments.submission), Path(arguments.answers)
        refuse_output(arguments.output, [submission, answers, Path(arguments.config or "config.json")])
        labels = label_space(arguments)
        said = read_answers(submission, labels.num_joint_classes)
        truth = align(read_answers(answers, labels.num_joint_classes), said.ids, answers)
        persons = truth.persons or truth.ids
        scores = tell_scores(
            labels,
            said.answers,
            labels.attribute_classes(said.answers),
            labels.attribute_classes(truth.answers),
            persons,
        )
        if arguments.output is not None:
            write_scores(Path(arguments.output), scores)
        return scores
    finally:
        close_log()


def label_space(arguments: Namespace) -> LabelSpace:
    """What an answer means: as --labels' checkpoint has it, or the config's section `labels`."""
    if arguments.labels is None:
        return ConfigParser.from_file(arguments.config or Path("config.json"), SECTIONS).build("labels")
    path = Path(arguments.labels)
    folds = begun_folds(path)
    file = find_checkpoint(next(iter(folds.values()), path))
    try:
        return LabelSpace(**read_checkpoint(file)["labels"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{file}: holds no label space of this version ({error})") from None


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
    parser.add_argument("answers", help="a CSV with the true answers (ImageID, ans and perhaps person)")
    parser.add_argument("-c", "--config", type=Path, help="a config whose labels say what an answer is (config.json)")
    parser.add_argument("--labels", help="a checkpoint or run folder, of folds too, that says it instead")
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
