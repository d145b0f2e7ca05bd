"""The command line of train.py. Imports neither torch nor pydantic, so that a mistyped flag is refused at once."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from utils.command_line import CommandLine
from utils.config.json_text import read_json
from utils.config.layers import Layers, Override
from utils.config.plugins import FLAG
from utils.environment import environment_number
from utils.errors import ConfigError
from utils.run_folders import refuse_missing, refuse_unusable_run_id

PROJECT = Path(__file__).parents[1]
DEFAULT_CONFIG = Path("config.json")
FLAGS_FOR_KEYS = {
    "--lr": "optimizer.args.lr",
    "--bs": "data_loader.args.batch_size",
    "--from": "initial_weights",
}
"""Flags that are short for --set <key>=...: a line makes another."""


@dataclass(frozen=True)
class Arguments:
    """The command line of train.py; command: as a shell takes it."""

    config: Path | None = None
    resume: str | None = None
    device: str | None = None
    overrides: tuple[Override, ...] = ()
    print_config: Literal["full", "short"] | None = None
    dry_run: bool = False
    fold: int | None = None
    run_id: str | None = None
    accept_changed_plugins: bool = False
    command: str = field(default="train.py", compare=False)

    @property
    def run_to_resume(self) -> Path | None:
        """The run folder or checkpoint that --resume names; None where it names none, or is "auto"."""
        return None if self.resume in (None, "auto") else Path(str(self.resume))

    @property
    def config_file(self) -> Path | None:
        """None where a resumed run brings its own config."""
        return DEFAULT_CONFIG if self.config is None and self.run_to_resume is None else self.config


def parse_arguments(argv: Sequence[str] | None = None) -> Arguments:
    """The command line of train.py, of this process where `argv` is None. Raises ConfigError."""
    parser = CommandLine(
        _keys_of_default, several_processes=True, description="Trains the model that a JSON config describes."
    )
    parser.add_argument("-c", "--config", type=Path, help="the config file (default: config.json)")
    parser.add_argument("-r", "--resume", help="a checkpoint or run folder to resume, or auto: the config's newest run")
    parser.add_argument("-d", "--device", help="cpu, cuda, cuda:1 or 1 (default: the best there is)")
    for flag, key_path in FLAGS_FOR_KEYS.items():
        parser.add_argument(flag, metavar="VALUE", help=f"short for --set {key_path}=...")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="a.b.c=value",
        help="sets one value of the config, any number of times; entries of lists by number: data.0.args.root=...",
    )
    parser.add_argument("--run-id", metavar="NAME", help="the name of a new run (default: the time)")
    parser.add_argument("--fold", type=int, help="of a run of folds, train this one alone")
    parser.add_argument(
        "--print-config",
        nargs="?",
        choices=("full", "short"),
        const="full",
        help="print the resolved config and stop; short: only what differs from the defaults",
    )
    parser.add_argument(FLAG, action="store_true", help="resume a run though a plug-in of it has changed")
    parser.add_argument("--dry-run", action="store_true", help="build everything, push one batch through, and stop")
    argv = sys.argv[1:] if argv is None else argv
    given = vars(parser.parse(argv))
    if given["resume"] is None and environment_number("TORCHELASTIC_MAX_RESTARTS", 0):
        raise ConfigError("torchrun --max-restarts: restarted processes would begin a new run; add --resume auto")
    if given["run_id"] is not None:
        refuse_unusable_run_id(given["run_id"])
    overrides = [parse_override(text) for text in given.pop("set")]
    for flag, key_path in FLAGS_FOR_KEYS.items():
        if (value := given.pop(flag.strip("-").replace("-", "_"))) is not None:
            overrides.append(Override(key_path, value, f"{flag} {value}"))
    return Arguments(**given, overrides=tuple(overrides), command=shlex.join(["train.py", *argv]))


def _keys_of_default() -> list[str]:
    """The key paths of the project's own config.json; none where it cannot be read."""
    try:
        return list(_key_paths(read_json(PROJECT / DEFAULT_CONFIG)))
    except ConfigError:
        return []


def _key_paths(value: Any, key_path: str = "") -> Iterator[str]:
    for key, inner in value.items() if isinstance(value, dict) else ():
        yield key_path + key
        yield from _key_paths(inner, f"{key_path}{key}.")


def parse_override(text: str) -> Override:
    """`a.b.c=value` as an Override. Raises ConfigError."""
    key_path, equals, value = text.partition("=")
    if not equals or not all(key_path.split(".")):
        key_path = re.split(r"[^\w.-]", key_path)[0]  # what follows may be a password
        raise ConfigError(f"--set {key_path}: a.b.c=value is expected, such as --set trainer.epochs=10")
    return Override(key_path, value)


def read_config_files(arguments: Arguments) -> Layers | None:
    """The config's files and the environment; None where a resumed run brings its own config.

    Raises ConfigError; CheckpointError where there is no such run."""
    if arguments.run_to_resume is not None:
        refuse_missing(arguments.run_to_resume)
    if arguments.config_file is None:
        return None
    layers = Layers.from_file(arguments.config_file)
    layers.add_environment()
    return layers
