"""Another program's weights as a run of ours: python -m scripts.import_checkpoint old.pth -c config.json

For checkpoints of pytorch-template and its like (arch, epoch, state_dict, optimizer, monitor_best, config) and for
plain state dicts. The config describes the model that they are of: its backbone, its heads and bins, and what its
images went through (transforms.eval, data_loader.args.input_size). Nothing in the file is executed.
"""

from __future__ import annotations

import logging
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from base.base_trainer import TrainerSettings
from experiment.checks import check_config, cross_checks
from experiment.schema import SECTIONS
from inference.foreign_weights import state_dict_in
from inference.imported_run import imported_content
from inference.predictor import CHECKPOINT_NAMES
from logger.log import LOG_NAME, close_log, open_log
from parse_config import ConfigParser
from utils.checkpoint.checkpoint_file import read_foreign_checkpoint, write_checkpoint
from utils.command_line import CommandLine
from utils.errors import ConfigError, run_command
from utils.run_folders import new_run

log = logging.getLogger(LOG_NAME)


def import_checkpoint(arguments: Namespace) -> Path:
    """Writes a run folder with one checkpoint, and returns it; nothing is written where something does not fit.

    Raises ConfigError, CheckpointError."""
    open_log(None, 1)
    try:
        path = Path(arguments.checkpoint)
        renames = [rename_from(text) for text in arguments.rename]
        config = ConfigParser.from_file(arguments.config, SECTIONS, cross_checks=cross_checks)
        labels = check_config(config)
        for note in config.notes:
            log.info("%s", note)
        foreign = read_foreign_checkpoint(path)
        content, notes = imported_content(config.resolved, labels, state_dict_in(foreign, path), path, renames)
        for note in [*notes, *notes_of_the_rest(foreign)]:
            log.info("%s", note)
        run = run_folder(config, arguments.output)
        content |= {"run_name": run.name, "completed_epochs": epochs_of(foreign), "imported_from": path.name}
        write(run / CHECKPOINT_NAMES["best"], content)
        log.info("%s: imported; python test.py --resume %s", run, run)
        return run
    finally:
        close_log()


def run_folder(config: ConfigParser, output: str | None) -> Path:
    """The folder that --output names, or a new run's, with its log. Raises ConfigError.

    No config.json is put into it: `train.py --resume auto` is not to go on with what has no optimizer's state."""
    if output is None:
        save_dir = config["trainer"].get("save_dir", TrainerSettings.save_dir)
        folders = new_run(Path(save_dir), config["name"])
        open_log(folders.log / "info.log", 1)
        return folders.models
    run = Path(output)
    if run.is_dir() and any(run.iterdir()):
        raise ConfigError(f"--output {run}: is not empty; name a new folder")
    return run


def write(file: Path, content: dict[str, Any]) -> None:
    """The checkpoint. Raises ConfigError if it cannot be written."""
    try:
        write_checkpoint(file, content)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written: {error.strerror}") from None


def epochs_of(foreign: Any) -> int:
    """How long the weights were trained, where the file says it; 0 where it says nothing that can be."""
    epoch = foreign.get("epoch")
    return epoch if isinstance(epoch, int) and not isinstance(epoch, bool) and epoch > 0 else 0


def notes_of_the_rest(foreign: Any) -> list[str]:
    """What is left behind, for the log."""
    if "optimizer" not in foreign:
        return []
    return ["the state of its optimizer is not imported: the run answers, and cannot be trained on"]


def rename_from(text: str) -> tuple[str, str]:
    """`old=new`. Raises ConfigError."""
    old, equals, new = text.partition("=")
    if not equals or not old:
        raise ConfigError(f"--rename {text}: old=new is expected, such as --rename fc_mask=heads.head_mask")
    return old.rstrip("."), new.rstrip(".")


def parse(argv: Sequence[str] | None) -> Namespace:
    """The command line. Raises ConfigError."""
    parser = CommandLine(
        prog="scripts.import_checkpoint", description="Makes a run that test.py takes of another program's weights."
    )
    parser.add_argument("checkpoint", help="what torch.save wrote: a template's checkpoint, or a state dict")
    parser.add_argument("-c", "--config", type=Path, required=True, help="a config that describes the weights' model")
    parser.add_argument(
        "--rename",
        action="append",
        default=[],
        metavar="old=new",
        help="call a layer of the file by the model's name, any number of times; old= leaves it out",
    )
    parser.add_argument("--output", help="the run folder to make (default: a new one in the config's save_dir)")
    return parser.parse(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of this process, or `argv`."""
    import_checkpoint(parse(argv))


if __name__ == "__main__":
    sys.exit(run_command(main))
