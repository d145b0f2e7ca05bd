"""The command line of test.py. Imports no torch: what is mistyped or missing is answered at once."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from inference.environment import with_environment
from inference.tta_presets import PRESETS
from utils.command_line import CommandLine
from utils.errors import ConfigError
from utils.run_folders import refuse_missing


def parse_arguments(argv: Sequence[str] | None = None) -> Namespace:
    """The command line, of this process where `argv` is None, with what the environment says of the rest.

    Raises ConfigError; CheckpointError, DataError for what is named and is not there."""
    parser = CommandLine(description="Writes the answers of trained models, and scores them where the truth is known.")
    parser.add_argument(
        "-r",
        "--resume",
        nargs="+",
        help="a run folder, such as saved/models/<name>/<run>, or a file; several answer together, as do a run's folds",
    )
    parser.add_argument("-d", "--device", help="cpu, cuda, cuda:1 (default: the best there is)")
    parser.add_argument("--checkpoint", default="best", help="of a run folder: best (default), last, best_f1, ...")
    parser.add_argument("--weights", nargs="+", type=float, help="of several models: how much each counts")
    parser.add_argument(
        "--vote", choices=("soft", "hard"), default="soft", help="of several: mean of probabilities, or most votes"
    )
    parser.add_argument("--parts", action="store_true", help="also write each model's own answers")
    parser.add_argument(
        "--tta", "--views", choices=PRESETS, help="test-time augmentation to average over (default: the config's views)"
    )
    parser.add_argument("--info-dir", help="a folder with info.csv and images/ (default: the config's info_dir)")
    parser.add_argument(
        "--split", choices=("train", "validation", "test"), help="predict a side of the run's own split"
    )
    parser.add_argument(
        "--answers", help="a CSV with the true answers: ImageID, then ans or the attributes, and perhaps person"
    )
    parser.add_argument("--output", help="the CSV to write (default: <submit_dir>/<name>_<run>.csv)")
    parser.add_argument("--probabilities", action="store_true", help="also write each class's probability")
    parser.add_argument("--bs", type=int, help="images to a batch (default: the config's)")
    parser.add_argument("--num-workers", type=_num_workers, help="processes that read images (default: the config's)")
    arguments = parser.parse(argv)
    if arguments.bs is not None and arguments.bs < 1:
        raise ConfigError(f"--bs {arguments.bs}: must be at least 1")
    arguments = with_environment(arguments)
    for path in arguments.resume:
        refuse_missing(Path(path))
    return arguments


def _num_workers(text: str) -> int | Literal["auto"]:
    if text == "auto":
        return "auto"
    if not text.isdecimal():
        raise ConfigError(f'--num-workers {text}: must be a whole number of at least 0, or "auto"')
    return int(text)
