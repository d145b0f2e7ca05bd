"""Makes one run of several, whose weights are the mean of theirs:

python -m scripts.soup RUN RUN [RUN ...]               # uniform: all of them
python -m scripts.soup RUN RUN [RUN ...] --greedy      # those that help, chosen on their common validation people
"""

from __future__ import annotations

import shlex
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from experiment.soup import make_soup, read_runs
from logger.log import close_log, open_log
from utils.command_line import CommandLine
from utils.config.plugins import FLAG, accept_changes
from utils.device import choose_device
from utils.errors import ConfigError, run_and_exit
from utils.run_folders import obstacle_to_writing


def main(argv: Sequence[str] | None = None) -> Path:
    """The command line of this process, or `argv`; returns the folder of the soup."""
    argv = sys.argv[1:] if argv is None else argv
    arguments = parse(argv)
    open_log(None, 1)
    try:
        accept_changes(arguments.accept_changed_plugins)
        return make_soup(
            read_runs(arguments.runs, arguments.checkpoint, choose_device(arguments.device)),
            greedy=arguments.greedy,
            num_images=arguments.images,
            output=arguments.output,
            command=shlex.join(["scripts.soup", *argv]),
        )
    finally:
        close_log()


def parse(argv: Sequence[str]) -> Namespace:
    """The command line. Raises ConfigError."""
    parser = CommandLine(prog="scripts.soup", description="Makes one run of several, with the mean of their weights.")
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN", help="run folders or checkpoints of one architecture")
    add("--greedy", action="store_true", help="only the runs that help, chosen on their common validation people")
    add("--checkpoint", default="best", help="of a run folder: best (default), last, best_f1, ...")
    add("--images", type=int, default=2000, help="training images that measure batch norms (default: 2000)")
    add("--output", type=Path, help="the run folder to make (default: a new one in save_dir, <name>_soup)")
    add("-d", "--device", help="cpu, cuda, cuda:1 (default: the GPU if there is one)")
    add(FLAG, action="store_true", help="use a plug-in though it has changed since the training")
    arguments = parser.parse(argv)
    if arguments.images < 1:
        raise ConfigError(f"--images {arguments.images}: must be at least 1")
    if (folder := arguments.output) is not None:
        obstacle = "is not empty; name a new folder" if folder.is_dir() and any(folder.iterdir()) else None
        if obstacle := obstacle or ("is a file" if folder.is_file() else obstacle_to_writing(folder)):
            raise ConfigError(f"--output {folder}: {obstacle}")
    return arguments


if __name__ == "__main__":
    run_and_exit(main)
