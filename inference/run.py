"""The steps of test.py: the models, what they predict of the images, the files that are written, and the scores."""

from __future__ import annotations

import logging
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from base.label_space import LabelSpace
from data_loader.records.records import Record
from inference.ensemble import Ensemble, EnsemblePrediction
from inference.evaluation import SetScores, class_distribution, report_scores
from inference.inputs import Truth, files_read
from inference.members import EnsembleMember, load_members, title_of
from inference.predictor import Probabilities, predict
from inference.submission import origin_file, write_origin, write_probabilities, write_submission
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


def load_models(arguments: Namespace) -> list[EnsembleMember]:
    """The models that --resume names, each with a line in the log."""
    tta = PRESETS[arguments.tta] if arguments.tta is not None else None
    device = choose_device(arguments.device)
    paths = [Path(path) for path in arguments.resume]
    members = load_members(paths, arguments.checkpoint, arguments.weights, device, tta)
    for member in members:
        model = member.predictor
        log.info("%s: %s, %d epochs", member.path, model.config["name"], model.completed_epochs)
        if model.tta != PRESETS["none"]:
            log.info("%s: averages over %d views of each image: %s", member.path, len(model.tta), ", ".join(model.tta))
    return members


def ensemble_of(members: Sequence[EnsembleMember]) -> Ensemble:
    """How the models answer together; of several the log has it."""
    names = [str(member.path) for member in members]
    ensemble = Ensemble([member.predictor.labels for member in members], [member.weight for member in members], names)
    if len(members) > 1:
        for line in ensemble.describe():
            log.info("%s", line)
        for line in ensemble.warnings():
            log.warning("%s", line)
    return ensemble


def predict_all(
    members: Sequence[EnsembleMember], records: Sequence[Record], arguments: Namespace
) -> list[Probabilities]:
    """What each model predicts of each record. Raises DataError; StopSignal between two batches."""
    predictors = [member.predictor for member in members]
    with StopSignals() as stop:
        return predict(predictors, records, arguments.bs, arguments.num_workers, stop, verbosity=1)


def write_results(
    file: Path,
    records: Sequence[Record],
    members: Sequence[EnsembleMember],
    by_member: Sequence[Probabilities],
    labels: LabelSpace,
    predicted: EnsemblePrediction,
    arguments: Namespace,
) -> None:
    """The submission, what was asked for beside it, and, in the log, how many images each class was given."""
    names = [record.name for record in records]
    if arguments.parts:
        for number, (member, probabilities) in enumerate(zip(members, by_member, strict=True), start=1):
            log.info("part %d: %s", number, member.path)
            own = Ensemble([member.predictor.labels], [1.0], [str(member.path)])
            part = member_file(file, number)
            write_answers(part, names, own.labels, own.predict([probabilities]), [member], arguments.probabilities)
    write_answers(file, names, labels, predicted, members, arguments.probabilities)
    for line in class_distribution(labels, predicted.joint, predicted.classes):
        log.info("%s", line)


def write_answers(
    file: Path,
    names: Sequence[str],
    labels: LabelSpace,
    predicted: EnsemblePrediction,
    members: Sequence[EnsembleMember],
    with_probabilities: bool,
) -> None:
    """The CSV of answers, and beside it what made them; the probabilities go to <file>_probabilities.csv."""
    write_submission(file, names, labels, predicted.joint, predicted.classes)
    write_origin(file, labels, [member.describe() for member in members])
    log.info("%s: %d answers", file, len(names))
    if with_probabilities:
        beside = probabilities_file(file)
        write_probabilities(beside, names, labels, predicted.probabilities)
        log.info("%s: their probabilities", beside)


def score(labels: LabelSpace, predicted: EnsemblePrediction, truth: Truth) -> list[SetScores]:
    """The scores, each with a line in the log; [] where nothing is known."""
    return report_scores(labels, predicted.joint, predicted.classes, truth.classes, truth.persons)


def output_file(members: Sequence[EnsembleMember], arguments: Namespace) -> Path:
    """submit/<name>_<run>.csv, of several models with all their names; a side of a run's split goes to the run's own
    folder. Raises ConfigError if it, or what is written beside it, cannot be written, or is what is read."""
    submit_dir = Path(arguments.submit_dir or members[0].predictor.config.get("submit_dir", "submit/"))
    file = submit_dir / f"{title_of(members)}.csv"
    if arguments.split is not None:
        runs = {member.run_of_folds or member.path.parent for member in members}
        one_run = len(runs) == 1 and arguments.submit_dir is None
        name = f"predictions_{arguments.split}.csv"
        file = runs.pop() / name if one_run else submit_dir / f"{title_of(members)}_{name}"
    if arguments.output is not None:
        file = Path(arguments.output)
    if not file.name:
        raise ConfigError(f"--output {arguments.output!r}: names no file")
    if obstacle := obstacle_to_writing((file.resolve() if file.is_symlink() else file).parent):
        raise ConfigError(f"{file}: cannot be written: {obstacle}")
    count = len(members) if arguments.parts else 0
    tables = [file, *(member_file(file, number) for number in range(1, count + 1))]
    beside = [origin_file(each) for each in tables]
    tables += [probabilities_file(each) for each in tables] if arguments.probabilities else []
    read = files_read(members, arguments.info_dir, arguments.split, arguments.answers)
    for each in [*tables, *beside]:
        if obstacle := obstacle_to_replacing(each, read, ".json" if each in beside else ".csv"):
            raise ConfigError(f"{each}: cannot be written: {obstacle}")
    return file


def member_file(submission: Path, number: int) -> Path:
    """Where a model's own answers go, the first being 1."""
    return submission.with_name(f"{submission.stem}_part{number}.csv")


def probabilities_file(submission: Path) -> Path:
    return submission.with_name(f"{submission.stem}_probabilities.csv")
