"""From a checkpoint to a submission: python test.py --resume <run folder or checkpoint>"""

from __future__ import annotations

import utils.early_signals  # noqa: F401 - first: what follows takes seconds to import

# isort: split
import logging
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from base.batch import UNKNOWN
from data_loader import sources, splits
from data_loader.image_check import CHECKED_IMAGES_FILE, check_images
from data_loader.loaders import evaluation_loader
from data_loader.records import Record, read_records
from data_loader.sources import read_evaluation_folder
from inference.evaluation import SetScores, class_distribution, evaluate_classes, per_class_table
from inference.predictor import Predictor, Probabilities, find_checkpoint
from inference.submission import Answers, align, read_answers, write_probabilities, write_submission
from logger.log import LOG_NAME, close_log, open_log, progress_bar
from parse_config import listed
from utils.command_line import CommandLine
from utils.device import choose_device
from utils.errors import ConfigError, run_command
from utils.run_folders import obstacle_to_writing
from utils.stop_signals import StopSignals

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
        checkpoint = find_checkpoint(Path(arguments.resume), arguments.checkpoint)
        predictor = Predictor.from_checkpoint(checkpoint, choose_device(arguments.device))
        log.info("%s: %s, %d epochs", checkpoint, predictor.config["name"], predictor.completed_epochs)
        submission = output_file(predictor, checkpoint, arguments)
        records = leave_out_bad_images(predictor, choose_records(predictor, arguments), arguments)
        truth = read_truth(predictor, records, arguments)
        probabilities = judge(predictor, records, arguments)
        answers = predictor.labels.answer_probabilities(probabilities.by_head).argmax(dim=1)
        write_answers(submission, predictor, records, answers, probabilities, arguments.probabilities)
        return TestResult(submission, score(predictor, records, answers, probabilities, truth))
    finally:
        close_log()


def write_answers(
    submission: Path,
    predictor: Predictor,
    records: Sequence[Record],
    answers: Tensor,
    probabilities: Probabilities,
    with_probabilities: bool,
) -> None:
    """Writes the CSV, the probabilities beside it if they are asked for, and tells how often each class was said."""
    names = [record.name for record in records]
    write_submission(submission, names, answers)
    log.info("%s: %d answers", submission, len(answers))
    if with_probabilities:
        file = submission.with_name(f"{submission.stem}_probabilities.csv")
        write_probabilities(file, names, predictor.labels, probabilities.by_head)
        log.info("%s: their probabilities", file)
    for line in class_distribution(predictor.labels, answers):
        log.info("%s", line)


def score(
    predictor: Predictor,
    records: Sequence[Record],
    answers: Tensor,
    probabilities: Probabilities,
    truth: Answers | None,
) -> list[SetScores]:
    """Tells and returns the scores against --answers, or against what the records know; none where nothing is known."""
    labels = predictor.labels
    known = known_classes(predictor, records, truth)
    if all((target == UNKNOWN).all() for target in known.values()):
        return []
    for line in per_class_table(labels, answers, labels.answers(known)):
        log.info("%s", line)
    said = {name: p.argmax(dim=1) for name, p in labels.attribute_probabilities(probabilities.by_head).items()}
    persons = (truth.persons or truth.ids) if truth is not None else [record.person for record in records]
    scores = evaluate_classes(labels, answers, said, known, persons)
    for row in scores:
        log.info("%s", row)
    return scores


def choose_records(predictor: Predictor, arguments: Namespace) -> list[Record]:
    """The evaluation folder of --info-dir or the config, or the side of the run's own split that --split names."""
    info_dir = arguments.info_dir or predictor.config.get("info_dir")
    if arguments.split is None and info_dir is not None:
        return read_evaluation_folder(info_dir)
    config = predictor.config
    built = [listed(sources)[spec["type"]](**spec.get("args", {})) for spec in config["data"]]
    rule = listed(splits)[config["split"]["type"]](**config["split"].get("args", {}))
    divided = rule.divide(read_records(built, predictor.labels), predictor.labels, config.get("seed", 42))
    side = arguments.split or "test"
    records: list[Record] = getattr(divided, side)
    if not records:
        raise ConfigError(f"--split {side}: the run's data has no {side} images; name --info-dir or another --split")
    return records


def read_truth(predictor: Predictor, records: Sequence[Record], arguments: Namespace) -> Answers | None:
    """What --answers says of the records, in their order; read first, so that a mistake does not cost the judging."""
    if arguments.answers is None:
        return None
    path = Path(arguments.answers)
    return align(read_answers(path, predictor.labels.num_answers), [record.name for record in records], path)


def leave_out_bad_images(predictor: Predictor, records: list[Record], arguments: Namespace) -> list[Record]:
    """All records, every image of them sound. Those that training left out are left out of its split again; where an
    answer is asked for each image, a bad one is an error."""
    remembered = Path(predictor.config["trainer"].get("save_dir", "saved/")) / CHECKED_IMAGES_FILE
    paths = [record.path for record in records]
    if arguments.split is not None:
        policy = predictor.config["data_loader"].get("args", {}).get("on_bad_image", "refuse")
        bad = set(check_images(paths, remembered, policy))
        return [record for record in records if record.path not in bad]
    check_images(paths, remembered, remedy="repair them: every image must have an answer")
    return records


def judge(predictor: Predictor, records: Sequence[Record], arguments: Namespace) -> Probabilities:
    """The probabilities of every record, in order."""
    own = predictor.config["data_loader"].get("args", {})
    batch_size = arguments.bs or own.get("valid_batch_size") or own.get("batch_size", 32)
    num_workers = arguments.num_workers if arguments.num_workers is not None else own.get("num_workers", 0)
    batches = evaluation_loader(
        records,
        predictor.preprocessing,
        predictor.labels,
        batch_size,
        min(num_workers, len(records) // batch_size),  # a worker without a batch would only cost its start
        pin_memory=predictor.device.type == "cuda",
    )
    with StopSignals() as stop:
        return predictor.probabilities(progress_bar(batches, len(batches), "test", 1), stop)


def output_file(predictor: Predictor, checkpoint: Path, arguments: Namespace) -> Path:
    """submit/<name>_<run>.csv; a side of the split goes to the run's own folder. Raises ConfigError if it cannot be."""
    submit_dir = Path(predictor.config.get("submit_dir", "submit/"))
    # Only a name: a checkpoint made by others may say "../" in it.
    file = submit_dir / Path(f"{predictor.config['name']}_{predictor.run_name}.csv").name
    if arguments.split is not None:
        file = checkpoint.parent / f"predictions_{arguments.split}.csv"
    if arguments.output is not None:
        file = Path(arguments.output)
    if obstacle := obstacle_to_writing(file.parent):
        raise ConfigError(f"{file}: cannot be written: {obstacle}")
    return file


def known_classes(predictor: Predictor, records: Sequence[Record], truth: Answers | None) -> dict[str, Tensor]:
    """By attribute, the true classes (N,): what --answers says, or what the records know themselves; -1 = unknown."""
    if truth is not None:
        return predictor.labels.parts(truth.answers)
    return predictor.labels.known_targets([record.attributes for record in records])


def parse(argv: Sequence[str] | None) -> Namespace:
    """The command line. Raises ConfigError."""
    parser = CommandLine(description="Writes the answers of a trained model, and scores them where the truth is known.")
    parser.add_argument(
        "-r", "--resume", required=True, help="a run folder, such as saved/models/<name>/<run>, or a file"
    )
    parser.add_argument("-d", "--device", help="cpu, cuda, cuda:1 (default: the best there is)")
    parser.add_argument("--checkpoint", default="best", help="of a run folder: best (default), last, best_f1, ...")
    parser.add_argument("--info-dir", help="a folder with info.csv and images/ (default: the config's info_dir)")
    parser.add_argument("--split", choices=("train", "validation", "test"), help="judge a side of the run's own split")
    parser.add_argument("--answers", help="a CSV with the true answers (ImageID, ans and perhaps person)")
    parser.add_argument("--output", help="the CSV to write (default: <submit_dir>/<name>_<run>.csv)")
    parser.add_argument("--probabilities", action="store_true", help="also write each class's probability")
    parser.add_argument("--bs", type=int, help="images to a batch (default: the config's)")
    parser.add_argument("--num-workers", type=int, help="processes that read images (default: the config's)")
    arguments = parser.parse(argv)
    for flag, value, least in (("--bs", arguments.bs, 1), ("--num-workers", arguments.num_workers, 0)):
        if value is not None and value < least:
            raise ConfigError(f"{flag} {value}: must be at least {least}")
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of this process, or `argv`."""
    test(parse(argv))


if __name__ == "__main__":
    sys.exit(run_command(main))
