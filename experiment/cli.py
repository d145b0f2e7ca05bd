"""What train.py's command line means: a config, and perhaps a run to go on with."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from base.base_trainer import TrainerSettings
from experiment.checks import cross_checks
from experiment.schema import SECTIONS
from parse_config import Arguments, ConfigParser, Override
from trainer.resume import (
    CACHE,
    ResumePoint,
    cache_of,
    forbidden_changes,
    is_run_of_folds,
    newest_run,
    resume_from,
)
from utils.errors import ConfigError
from utils.run_folders import RunFolders, read_kept_config
from utils.wording import shown

DEFAULT_CONFIG = Path("config.json")


def configure(arguments: Arguments) -> tuple[ConfigParser, ResumePoint | RunFolders | None]:
    """The config that the command line means, and the run to go on with if it names one.

    A resumed run brings its own config; `--config` beside it replaces it, where nothing differs that
    the run depends on."""
    named = arguments.resume not in (None, "auto")
    resume, trained = resume_from(Path(str(arguments.resume))) if named else (None, {})
    if resume is not None and arguments.config is None:
        origin = f"run {arguments.resume}"
        config = ConfigParser.from_dict(trained, SECTIONS, origin, arguments.overrides, environment=True)
    else:
        file = arguments.config or DEFAULT_CONFIG
        config = ConfigParser.from_file(file, SECTIONS, arguments.overrides, cross_checks, environment=True)
    if arguments.fold is not None:
        _refuse_impossible_fold(config, arguments.fold)
    if resume is not None:
        _refuse_another_run(config, trained)
    elif arguments.resume == "auto":
        save_dir = config["trainer"].get("save_dir", TrainerSettings.save_dir)
        resume = newest_run(Path(save_dir), config.resolved)
        trained = _trained_config(resume)
    if cache_of(config.resolved) == "device" and (not trained or cache_of(trained) != "device"):
        config["data_loader"]["args"]["cache"] = "disk"
        config.notes.append(
            f'{config.origin(CACHE)}: {CACHE} = "device" is no longer supported; "disk" is used instead'
        )
    return config, resume


def _trained_config(resume: ResumePoint | RunFolders | None) -> dict[str, Any]:
    """The config that a run was trained with so far; empty for a new run."""
    if isinstance(resume, RunFolders):
        return read_kept_config(resume.models) or {}
    return resume.content["config"] if resume is not None else {}


def _refuse_another_run(config: ConfigParser, trained: dict[str, Any]) -> None:
    lines = []
    for place, before, now in forbidden_changes(trained, config.resolved):
        earlier = "without it" if before is None else f"with {shown(before)}"
        lines.append(f"{config.origin(place)}: {place} = {shown(now)}, and the run was trained {earlier}")
    if lines:
        raise ConfigError("\n".join([*lines, "go on without these changes, or begin a new run (without --resume)"]))


def config_of_fold(config: ConfigParser, fold: int) -> ConfigParser:
    """The config of one fold of the run."""
    origin = f"fold {fold} of {config['name']}"
    return ConfigParser.from_dict(
        copy.deepcopy(config.resolved), SECTIONS, origin, (Override("split.args.fold", str(fold)),)
    )


def _refuse_impossible_fold(config: ConfigParser, fold: int) -> None:
    """Raises ConfigError where `--fold` asks for what the config's split does not have."""
    if not is_run_of_folds(config.resolved):
        wrong = f"has no folds to choose from, which --fold {fold} does; it needs a KFoldSplit without fold"
        raise config.error([config.problem("split", wrong)])
    folds = config.build("split").folds
    if not 0 <= fold < folds:
        raise ConfigError(f"--fold {fold}: the split has the folds 0 to {folds - 1}")
