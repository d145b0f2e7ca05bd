"""One answer of test.py: the models, what they say of the images, the files that are written, and the scores."""

from __future__ import annotations

import logging
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from base.label_space import LabelSpace
from data_loader.records.records import Record
from inference.ensemble import Ensemble, Judgement
from inference.evaluation import SetScores, class_distribution, tell_scores
from inference.inputs import files_read, known_classes, persons_of
from inference.members import Part, load_parts, title_of
from inference.predictor import Probabilities, judge
from inference.submission import Answers, write_probabilities, write_submission
from inference.tta_presets import PRESETS
from logger.log import LOG_NAME
from utils.device import choose_device
from utils.errors import ConfigError
from utils.files import obstacle_to_replacing
from utils.run_folders import obstacle_to_writing
from utils.signals import StopSignals

log = logging.getLogger(LOG_NAME)


@dataclass(frozen=True)
class TestResult:
    """What test.py has made: the CSV of answers, and the scores where the truth is known (else none)."""

    __test__ = False  # not a test of pytest's

    submission: Path
    scores: list[SetScores]


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


def predict(parts: Sequence[Part], records: Sequence[Record], arguments: Namespace) -> list[Probabilities]:
    """What each model says of each record. Raises DataError; StopSignal between two batches."""
    predictors = [part.predictor for part in parts]
    with StopSignals() as stop:
        return judge(predictors, records, arguments.bs, arguments.num_workers, stop, verbosity=1)


def write_results(
    file: Path,
    records: Sequence[Record],
    parts: Sequence[Part],
    of_parts: Sequence[Probabilities],
    labels: LabelSpace,
    judgement: Judgement,
    arguments: Namespace,
) -> None:
    """The submission, what was asked for beside it, and, in the log, how many images each class was given."""
    names = [record.name for record in records]
    if arguments.parts:
        write_parts(file, names, parts, of_parts, arguments.probabilities)
    table = judgement.by_attribute if arguments.probabilities else None
    write_answers(file, names, labels, judgement.answers, table)
    for line in class_distribution(labels, judgement.answers):
        log.info("%s", line)


def score(
    labels: LabelSpace, judgement: Judgement, records: Sequence[Record], truth: Answers | None
) -> list[SetScores]:
    """The scores against what the table of answers or the records know, told in the log; [] where that is nothing."""
    known, persons = known_classes(labels, records, truth), persons_of(records, truth)
    return tell_scores(labels, judgement.answers, judgement.said, known, persons)


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
