"""Another program's weights as a run of ours: python -m scripts.import_checkpoint old.pth -c config.json

For checkpoints of pytorch-template and its like (arch, epoch, state_dict, optimizer, monitor_best, config), plain state
dicts and safetensors. The config describes the model that they are of: its backbone, its heads and bins, and what its
images went through (transforms.eval, data_loader.args.input_size). Nothing in the file is executed.
"""

from __future__ import annotations

import logging
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from experiment.checks import check_config, cross_checks
from experiment.schema import SECTIONS
from inference.imported_run import import_run
from logger.log import LOG_NAME, close_log, open_log
from parse_config import ConfigParser
from utils.command_line import CommandLine
from utils.errors import ConfigError, run_and_exit

log = logging.getLogger(LOG_NAME)


def import_checkpoint(arguments: Namespace) -> Path:
    """Makes the run that the command line describes. Raises ConfigError, CheckpointError."""
    open_log(None, 1)
    try:
        renames = [_rename_from(text) for text in arguments.rename]
        config = ConfigParser.from_file(arguments.config, SECTIONS, cross_checks=cross_checks)
        labels = check_config(config, begins=False)
        for note in config.notes:
            log.info("%s", note)
        with config.plugins.active():
            run = import_run(config.resolved, labels, arguments.checkpoint, renames, arguments.output)
        log.info("%s: imported; python test.py --resume %s", run, run)
        return run
    finally:
        close_log()


def _rename_from(text: str) -> tuple[str, str]:
    old, equals, new = text.partition("=")
    if not equals or not old:
        raise ConfigError(f"--rename {text}: old=new is expected, such as --rename fc_mask=heads.head_mask")
    return old.rstrip("."), new.rstrip(".")


def parse(argv: Sequence[str] | None) -> Namespace:
    """The command line. Raises ConfigError."""
    description = "Makes a run that test.py takes of another program's weights."
    parser = CommandLine(prog="scripts.import_checkpoint", description=description)
    add = parser.add_argument
    add("checkpoint", type=Path, help="a template's checkpoint, a state dict, or a safetensors file")
    add("-c", "--config", type=Path, required=True, help="a config that describes the weights' model")
    rename = "call a layer of the file by the model's name, any number of times; old= leaves it out"
    add("--rename", action="append", default=[], metavar="old=new", help=rename)
    add("--output", type=Path, help="the run folder to make (default: a new one in save_dir)")
    return parser.parse(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of this process, or `argv`."""
    import_checkpoint(parse(argv))


if __name__ == "__main__":
    run_and_exit(main)
