"""The steps of test.py once models and images are known: predict, combine, write, score."""

from __future__ import annotations

import logging
from argparse import Namespace
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from base.label_space import LabelSpace
from data_loader.records.records import Record
from inference.ensemble import Ensemble, EnsemblePrediction
from inference.inputs import EnsembleMember, files_read
from inference.out_of_fold import OUT_OF_FOLD_FILE
from inference.predictor import Probabilities, predict
from inference.run_predictions import digest_of
from inference.scoring.evaluation import SetScores, class_distribution
from inference.submission import ID_COLUMN, origin_file, write_origin, write_probabilities, write_submission
from inference.tta import PRESETS
from inference.tuning.decision import Decision, TunedEnsemble
from utils.errors import ConfigError
from utils.files import obstacle_to_replacing
from utils.run_folders import obstacle_to_writing
from utils.signals import StopSignals

logger = logging.getLogger(__name__)

LONGEST_TITLE = 150


@dataclass(frozen=True)
class TestResult:
    """What test.py has made: the CSV of answers, and the scores where the truth is known (else none)."""

    __test__ = False  # not a test of pytest's

    submission: Path
    scores: list[SetScores]


def ensemble_of(members: Sequence[EnsembleMember]) -> Ensemble:
    """The models' ensemble; the log describes one of several."""
    labels, weights = [member.predictor.labels for member in members], [member.weight for member in members]
    ensemble = Ensemble(labels, weights, [str(member.path) for member in members])
    if len(members) > 1:
        for line in ensemble.describe():
            logger.info("%s", line)
        if warning := ensemble.warning():
            logger.warning("%s", warning)
    return ensemble


def tuned_ensemble_of(members: Sequence[EnsembleMember], file: Path) -> TunedEnsemble:
    """The models' ensemble by the tuned decision in a file, which the log describes.

    Raises ConfigError where the file is no decision, or was learned from other runs."""
    decision, labels = Decision.read(file), [member.predictor.labels for member in members]
    try:
        runs = decision.members_of([member.run for member in members], labels)
    except ValueError as error:
        raise ConfigError(f"--decision {file}: {error}") from None
    sizes = Counter(run.name for run in runs)
    for member, run in zip(members, runs, strict=True):
        table = (member.run_of_folds or member.path.parent) / OUT_OF_FOLD_FILE
        if table.is_file() and digest_of(table) != run.out_of_fold:
            raise ConfigError(f"--decision {file}: {run.name} has been trained further since; tune again")
        if list(member.predictor.tta) != list(PRESETS["none"]):
            logger.warning("%s: was learned without test-time augmentation, and %s answers with it", file, run.name)
    ensemble = TunedEnsemble(decision, runs, labels, [run.weight / sizes[run.name] for run in runs])
    for line in ensemble.describe():
        logger.info("%s", line)
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
    ensemble: Ensemble | TunedEnsemble,
    predicted: EnsemblePrediction,
    arguments: Namespace,
    truth: Mapping[str, Tensor],
) -> None:
    """The submission with what --parts and --probabilities add to it; the log counts the classes.

    truth: by attribute, (N,) int64, -1 = unknown: predictions of a side of the split have it, a submission has not"""
    names = [record.name for record in records]

    def write(path: Path, labels: LabelSpace, answers: EnsemblePrediction, made_by: Sequence[EnsembleMember]) -> None:
        known = None if arguments.split is None else truth
        write_submission(path, names, labels, answers.joint, answers.classes, known)
        decision = arguments.decision if made_by is members else None
        write_origin(path, labels, [member.describe() for member in made_by], decision)
        logger.info("%s: %d answers", path, len(names))
        if arguments.probabilities:
            write_probabilities(probabilities_file(path), names, labels, answers.probabilities)

    if arguments.parts:
        for number, (member, probabilities) in enumerate(zip(members, by_member, strict=True), start=1):
            alone = Ensemble([member.predictor.labels], [1.0], [str(member.path)])
            write(member_file(file, number), alone.labels, alone.predict([probabilities]), [member])
    write(file, ensemble.labels, predicted, members)
    for line in class_distribution(ensemble.labels, predicted.joint, predicted.classes):
        logger.info("%s", line)


def output_file(members: Sequence[EnsembleMember], arguments: Namespace) -> Path:
    """submit/<name>_<run>.csv, of several models with all their names; a side of a run's split goes to the run's own
    folder. Raises ConfigError if it, or what is written beside it, cannot be written, or is what is read."""
    submit_dir = Path(arguments.submit_dir or members[0].predictor.config.get("submit_dir", "submit/"))
    titles = list(dict.fromkeys(member.title for member in members))
    title = "+".join(titles)
    if len(titles) > 1 and len(title) > LONGEST_TITLE:
        title = f"{titles[0]}+{len(titles) - 1}_more"
    file = submit_dir / f"{title}.csv"
    if arguments.split is not None:
        runs = {member.run_of_folds or member.path.parent for member in members}
        one_run = len(runs) == 1 and arguments.submit_dir is None
        name = f"predictions_{arguments.split}.csv"
        file = runs.pop() / name if one_run else submit_dir / f"{title}_{name}"
    if arguments.output is not None:
        file = Path(arguments.output)
    if not file.name:
        raise ConfigError(f"--output {arguments.output!r}: names no file")
    tables = [file]
    if arguments.parts:
        tables += [member_file(file, number) for number in range(1, len(members) + 1)]
    probabilities = [probabilities_file(each) for each in tables if arguments.probabilities]
    written = [(each, ".csv", ID_COLUMN) for each in (*tables, *probabilities)]
    written += [(origin_file(each), ".json", "") for each in tables]
    if obstacle := obstacle_to_writing((file.resolve() if file.is_symlink() else file).parent):
        raise ConfigError(f"{file}: cannot be written: {obstacle}")
    read = files_read(members, arguments)
    for each, suffix, beginning in written:
        if obstacle := obstacle_to_replacing(each, read, suffix, beginning):
            raise ConfigError(f"{each}: cannot be written: {obstacle}")
    return file


def member_file(submission: Path, number: int) -> Path:
    """Where a model's own answers are written, the first being 1."""
    return submission.with_name(f"{submission.stem}_part{number}.csv")


def probabilities_file(submission: Path) -> Path:
    return submission.with_name(f"{submission.stem}_probabilities.csv")
