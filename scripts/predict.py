"""Predicts photographs and folders of them: python -m scripts.predict RUN photo.jpg folder/ [--output x.csv]"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from base.label_space import LabelSpace
from data_loader.records.image_root import READ_EXTENSIONS
from data_loader.records.records import Record
from inference.ensemble import EnsemblePrediction
from inference.inputs import load_models
from inference.predictor import predict
from inference.run import ensemble_of
from inference.submission import write_probabilities
from inference.tta import PRESETS
from utils.command_line import CommandLine
from utils.config.plugins import FLAG, accept_changes
from utils.errors import ConfigError, DataError, run_and_exit
from utils.files import obstacle_to_replacing
from utils.run_folders import obstacle_to_writing, refuse_missing


def find_images(paths: Sequence[Path]) -> list[Path]:
    """The files among `paths`, and the images in the folders among them, sorted. Raises DataError."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = [each for each in path.rglob("*") if each.suffix.lower() in READ_EXTENSIONS and each.is_file()]
            inside = [each for each in inside if not any(part.startswith(".") for part in each.relative_to(path).parts)]
            if not inside:
                raise DataError(f"{path}: holds no images ({', '.join(READ_EXTENSIONS)})")
            found += sorted(inside)
        elif path.is_file():
            found.append(path)
        else:
            raise DataError(f"{path}: there is no such file or folder")
    return found


def describe(labels: LabelSpace, predicted: EnsemblePrediction, row: int) -> str:
    """What is predicted of one image: each attribute's class with its probability, and the joint class."""
    texts = []
    for name, attribute in labels.predicted_attributes.items():
        best = int(predicted.classes[name][row])
        texts.append(f"{name} {attribute.class_names[best]} ({float(predicted.probabilities[name][row, best]):.3f})")
    joint = f" -> {int(predicted.joint[row])}" if predicted.joint is not None else ""
    return f"{', '.join(texts)}{joint}"


def predict_images(arguments: Namespace) -> None:
    """Prints a line an image, or writes the table. Raises ConfigError, DataError, CheckpointError, StorageFullError."""
    accept_changes(arguments.accept_changed_plugins)
    files = find_images(arguments.images)
    output: Path | None = arguments.output
    if output is not None:
        obstacle = obstacle_to_replacing(output, files) or obstacle_to_writing(output.parent)
        if obstacle:
            raise ConfigError(f"--output {output}: cannot be written: {obstacle}")
    refuse_missing(arguments.run)
    members = load_models(Namespace(**vars(arguments), resume=[str(arguments.run)], weights=None))
    records = [Record(path.absolute(), str(path), str(path), {}, str(path)) for path in files]
    members[0].predictor.find_unreadable(records, "refuse")
    ensemble = ensemble_of(members)
    predicted = ensemble.predict(predict([member.predictor for member in members], records))
    if output is not None:
        write_probabilities(output, [str(path) for path in files], ensemble.labels, predicted.probabilities)
        print(f"{output}: {len(files)} images")
        return
    for row, path in enumerate(files):
        print(f"{path}: {describe(ensemble.labels, predicted, row)}")


def parse(argv: Sequence[str] | None) -> Namespace:
    """The command line. Raises ConfigError."""
    parser = CommandLine(prog="scripts.predict", description="Predicts photographs with a trained or exported model.")
    add = parser.add_argument
    add("run", type=Path, help="a run folder, a checkpoint or an exported folder")
    add("images", type=Path, nargs="+", help="photographs, and folders of them")
    add("--output", type=Path, metavar="CSV", help="write each class's probability")
    add("--checkpoint", default="best", help="of a run folder: best (default), last, best_f1, ...")
    add("--tta", "--views", choices=PRESETS, help="test-time augmentation (default: the config's views)")
    add("-d", "--device", help="cpu, cuda, cuda:1 (default: the GPU if there is one)")
    add(FLAG, action="store_true", help="use a plug-in though it has changed since the training")
    return parser.parse(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of this process, or `argv`."""
    predict_images(parse(argv))


if __name__ == "__main__":
    run_and_exit(main)
