"""Writes a run's model for other programs: python -m scripts.export RUN --to onnx [--half|--int8] [--output FOLDER]"""

from __future__ import annotations

import logging
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from data_loader.records import Record
from inference.export.export import TOLERANCE, check_folder, check_packages, export
from inference.export.exported import FILES
from inference.export.quantisation import integer_coverage
from inference.inputs import EnsembleMember, choose_records, folds_with_checkpoints
from inference.predictor import EXPORTED_FILE, Predictor, find_checkpoint
from inference.scoring.scores import own_test_scores
from inference.tta import PRESETS
from logger.log import LOG_NAME, close_log, open_log
from utils.command_line import CommandLine
from utils.config.plugins import FLAG, accept_changes
from utils.errors import CheckpointError, ConfigError, DataError, run_and_exit
from utils.wording import counted, first_line

log = logging.getLogger(LOG_NAME)

MOST_CHANGED = 0.05
"""Above this share of the compared images with another class there is a warning."""


def export_run(arguments: Namespace) -> Path:
    """Makes the folder that the command line describes. Raises ConfigError, CheckpointError, StorageFullError."""
    open_log(None, 1)
    try:
        accept_changes(arguments.accept_changed_plugins)
        kind, precision = arguments.to, arguments.precision
        check_packages(kind, precision)
        file = checkpoint_of(arguments.run, arguments.checkpoint)
        suffix = "" if precision == "float32" else f"_{precision}"
        folder: Path = arguments.output or file.parent / f"exported_{kind}{suffix}"
        check_folder(folder)
        predictor = Predictor.from_checkpoint(file, "cpu", PRESETS["none"])
        log.info("%s: %s, %s", file, predictor.name, counted(predictor.completed_epochs, "epoch"))
        records = images_to_compare(file, predictor, arguments.images)
        tested = own_test_scores(file.parent, (file.name, predictor.completed_epochs))
        calibration = images_to_calibrate(file, predictor) if precision == "int8" else []
        parity = export(predictor, folder, kind, precision, records, tested, calibration)
        model = folder / FILES[kind]
        log.info("%s: %s, %.1f MB", model, precision, model.stat().st_size / 1e6)
        for line in parity.lines():
            log.info("%s", line)
        if precision == "float32":
            log.info("equal to the checkpoint within %g", TOLERANCE)
        if precision == "int8":
            log.info("8-bit integers compute %s", integer_coverage(model))
        if parity.changed > MOST_CHANGED * parity.num_images:
            log.warning("%s: %d of %d images have another class", model, parity.changed, parity.num_images)
        return folder
    finally:
        close_log()


def checkpoint_of(run: Path, name: str) -> Path:
    """The one checkpoint that is exported. Raises ConfigError, CheckpointError."""
    if folds := folds_with_checkpoints(run):
        raise ConfigError(f"{run}: is a run of folds, and one model is exported; name one, such as {folds[min(folds)]}")
    file = find_checkpoint(run, name)
    if file.name == EXPORTED_FILE:
        raise CheckpointError(f"{run}: is exported already; name the run")
    return file


def images_to_compare(file: Path, predictor: Predictor, most: int) -> list[Record]:
    """The run's validation images, of many a sample that is spread evenly; none where the run's data is not there."""
    try:
        records = choose_records([EnsembleMember(file, predictor, 1.0)], None, "validation")
    except (ConfigError, DataError) as error:
        log.info("compared on noise, as there are no validation images: %s", first_line(error))
        return []
    return records[:: -(-len(records) // most)] if len(records) > most else records


def images_to_calibrate(file: Path, predictor: Predictor) -> list[Record]:
    """The run's training images; none where its data is not there."""
    try:
        return choose_records([EnsembleMember(file, predictor, 1.0)], None, "train")
    except (ConfigError, DataError) as error:
        log.info("no training images: %s", first_line(error))
        return []


def parse(argv: Sequence[str] | None) -> Namespace:
    """The command line. Raises ConfigError."""
    parser = CommandLine(prog="scripts.export", description="Writes a run's model into a folder for other programs.")
    add = parser.add_argument
    add("run", type=Path, help="a run folder or a checkpoint")
    add("--to", required=True, choices=FILES, help="onnx; safetensors (weights); torch (a program of torch.export)")
    either = parser.add_mutually_exclusive_group()
    chosen = {"half": "of onnx: float16", "int8": "of onnx: 8-bit integers, calibrated on training images"}
    for name, meaning in chosen.items():
        either.add_argument(f"--{name}", action="store_const", dest="precision", const=name, help=meaning)
    add("--output", type=Path, help="the folder to make (default: RUN/exported_onnx, ...)")
    add("--checkpoint", default="best", help="of a run folder: best (default), last, best_f1, ...")
    add("--images", type=int, default=500, help="compare on at most so many validation images (default: 500)")
    add(FLAG, action="store_true", help="use a plug-in though it has changed since the training")
    parser.set_defaults(precision="float32")
    arguments = parser.parse(argv)
    if arguments.images < 1:
        raise ConfigError(f"--images {arguments.images}: must be at least 1")
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of this process, or `argv`."""
    export_run(parse(argv))


if __name__ == "__main__":
    run_and_exit(main)
