"""What a backbone is worth before it is trained: simple classifiers on its frozen features, scored on the validation
people.

python -m scripts.probe -c x.json                                       # the config's backbone, with its weights
python -m scripts.probe -c x.json --models resnet18 convnext_tiny vit_small_patch16_224
python -m scripts.probe --resume saved/models/<name>/<run>              # what a run has made of its backbone
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from experiment.cli import parse_override
from experiment.probe import IMAGES_FILE, Results, probe, trained_model, untrained_models
from logger.log import close_log, open_log
from utils.command_line import CommandLine
from utils.config.plugins import FLAG, accept_changes
from utils.device import choose_device
from utils.errors import ConfigError, run_and_exit
from utils.run_folders import obstacle_to_writing


def main(argv: Sequence[str] | None = None) -> Results:
    """The command line of this process, or `argv`."""
    arguments = parse(argv)
    open_log(None, 1)
    try:
        accept_changes(arguments.accept_changed_plugins)
        overrides, device = [parse_override(text) for text in arguments.set], choose_device(arguments.device)
        run, config_file = arguments.resume, arguments.config
        if run is not None:
            config, predictors = trained_model(run, config_file, overrides, device)
        else:
            file = config_file or Path("config.json")
            config, predictors = untrained_models(arguments.models or [], file, overrides, device)
        has_other_data = run is not None and config_file is not None
        return probe(config, predictors, arguments.images, arguments.output, run if has_other_data else None)
    finally:
        close_log()


def parse(argv: Sequence[str] | None) -> Namespace:
    """The command line. Raises ConfigError."""
    parser = CommandLine(prog="scripts.probe", description="Simple classifiers on frozen features, scored by person.")
    add = parser.add_argument
    add("-c", "--config", type=Path, help="the config of data and model (default: config.json, or the run's)")
    add("-r", "--resume", type=Path, help="the backbone of this run or checkpoint, as it prepares its images")
    add("--models", nargs="+", metavar="NAME[=FILE]", help="timm's, with its weights or a file's, in one table")
    add("--set", action="append", default=[], metavar="a.b.c=value", help="sets one value of the config")
    add("--images", type=int, default=5000, help="of each side at most so many, people whole (default: 5000)")
    add("--output", type=Path, help="a new folder for the embeddings, their images and the scores")
    add("-d", "--device", help="cpu, cuda, cuda:1 (default: the GPU if there is one)")
    add(FLAG, action="store_true", help="use a plug-in though it has changed since the training")
    arguments = parser.parse(argv)
    if arguments.resume is not None and arguments.models:
        raise ConfigError("--resume and --models both name the backbone; give one of them")
    if arguments.images < 1:
        raise ConfigError(f"--images {arguments.images}: must be at least 1")
    names = [named.partition("=")[0] for named in arguments.models or []]
    if repeated := [name for number, name in enumerate(names) if name in names[:number]]:
        raise ConfigError(f"--models {repeated[0]}: is named twice")
    if (folder := arguments.output) is not None:
        is_in_use = folder.is_dir() and any(folder.iterdir()) and not _is_unfinished(folder)
        obstacle = "is not empty; name a new folder" if is_in_use else None
        if obstacle := obstacle or ("is a file" if folder.is_file() else obstacle_to_writing(folder)):
            raise ConfigError(f"--output {folder}: {obstacle}")
    return arguments


def _is_unfinished(folder: Path) -> bool:
    """Whether it holds nothing but the embeddings of a probe that was stopped before its scores."""
    names = [path.name for path in folder.iterdir()]
    return IMAGES_FILE in names and all(name == IMAGES_FILE or name.endswith(".npy") for name in names)


if __name__ == "__main__":
    run_and_exit(main)
