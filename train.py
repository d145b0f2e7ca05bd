"""Trains the model that a JSON config describes: python train.py --config config.json"""

from __future__ import annotations

import utils.early_signals  # noqa: F401 - first: what follows takes seconds to import

# isort: split
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from base.base_trainer import TrainerSettings
from builders import (
    build_criterion,
    build_data_loader,
    build_model,
    build_schedule,
    build_trackers,
    describe_data,
    divide_records,
    refuse_unknowable_monitors,
)
from config_schema import SECTIONS, RunSettings, check_config, metric_functions, problems_between_sections
from logger.log import close_log, open_log
from parse_config import Arguments, ConfigParser, parse_arguments
from trainer.checkpoint import LAST, Checkpoints
from trainer.epoch_sums import describe
from trainer.resume import ResumePoint, forbidden_changes, newest_run, resume_point
from trainer.trainer import Trainer
from utils import process_group
from utils.device import choose_device
from utils.errors import ConfigError, UserError, run_command
from utils.run_folders import RunFolders, new_run
from utils.stop_signals import StopSignals
from utils.wording import shown

DEFAULT_CONFIG = Path("config.json")


@dataclass(frozen=True)
class RunResult:
    """What a run has come to: where it lies, how far it went, and the best value of each monitor."""

    folders: RunFolders | None
    completed_epochs: int
    best: dict[str, float | None]


def train(
    config: ConfigParser, resume: ResumePoint | None = None, device_name: str | None = None, dry_run: bool = False
) -> RunResult:
    """Trains a checked config to its end, from the beginning or from `resume`.

    Raises a UserError for whatever is wrong with the config, the data or the checkpoint; StopSignal if it was asked to
    stop, with all saved."""
    labels = check_config(config)
    run_settings: RunSettings = config.extra()
    settings: TrainerSettings = config.build("trainer")
    device = choose_device(device_name, run_settings.n_gpu)
    process_group.start(device)
    log = open_log(None, settings.verbosity, process_group.rank())
    for note in [*config.notes, *_notes_of_devices(run_settings, device)]:
        log.info("%s", note)
    try:
        split = divide_records(config, labels)
        model = build_model(config, labels, resume).to(device)
        data_loader = build_data_loader(config, labels, split, model, device, settings)
        refuse_unknowable_monitors(config, labels, data_loader)
        optimizer = config.build("optimizer", params=model.parameters())
        updates_per_epoch = -(-data_loader.steps_per_epoch // settings.accumulation_steps)
        schedule = build_schedule(config, optimizer, updates_per_epoch * settings.epochs)
        folders = choose_folders(config, settings, resume, dry_run)
        with StopSignals() as stop:
            trainer = Trainer(
                settings,
                model=model,
                criterion=build_criterion(config).to(device),
                optimizer=optimizer,
                schedule=schedule,
                data_loader=data_loader,
                labels=labels,
                metrics=metric_functions(config),
                device=device,
                seed=run_settings.seed,
                checkpoints=Checkpoints(folders.models),
                stop=stop,
                log=log,
                run={
                    "run_name": folders.run,
                    "config": config.resolved,
                    "labels": labels.to_config(),
                    "preprocessing": data_loader.preprocessing.to_config(),
                },
                visualize=run_settings.visualize,
            )
            if resume is not None:  # before anything is written
                trainer.load_state_dict(resume.content, resume.path)
            if dry_run:
                log.info("dry run: everything was built and one batch went through: %s", describe(trainer.dry_run()))
            elif trainer.finished:
                log.info("%s is finished%s; nothing was changed", folders.models, _how_to_extend(trainer))
            else:
                begin_run(config, settings, folders, trainer, resume)
                log.info("%s", model.summary())
                log.info("%s", describe_data(split, labels, data_loader, settings))
                run_to_the_end(trainer)
            return RunResult(None if dry_run else folders, trainer.completed_epochs, trainer.best)
    finally:
        close_log()
        process_group.stop()


def choose_folders(
    config: ConfigParser, settings: TrainerSettings, resume: ResumePoint | None, dry_run: bool
) -> RunFolders:
    """The run's folders: the resumed run's, or new ones, which the main process makes and tells the others."""
    if resume is not None:
        return resume.folders
    if dry_run:
        return RunFolders(Path(settings.save_dir), config["name"], "")
    if process_group.is_main_process():
        folders = new_run(Path(settings.save_dir), config["name"])
        process_group.broadcast_text(folders.run)
        return folders
    return RunFolders(Path(settings.save_dir), config["name"], process_group.broadcast_text(""))


def begin_run(
    config: ConfigParser, settings: TrainerSettings, folders: RunFolders, trainer: Trainer, resume: ResumePoint | None
) -> None:
    """From here on files are written: the resolved config, the log, what the trackers keep."""
    open_log(folders.log / "info.log", settings.verbosity, process_group.rank())
    if process_group.is_main_process():
        folders.write_config(config.resolved)
    if resume is not None:
        trainer.log.info("going on from %s, %d epochs done", resume.path, trainer.completed_epochs)
        if resume.path.name != LAST:  # what came after it is given up: last.pth must not be ahead of the metrics
            trainer.save()
    trainer.trackers = build_trackers(config, settings, folders, resume)


def _how_to_extend(trainer: Trainer) -> str:
    if trainer.stopped_early:
        return f" (it stopped early, after {trainer.completed_epochs} epochs)"
    return f" (after {trainer.completed_epochs} epochs; --set trainer.epochs=... extends it)"


def run_to_the_end(trainer: Trainer) -> None:
    """Trains what is left, and ends the trackers with the run's exit code."""
    exit_code = 1
    try:
        trainer.train()
        exit_code = 0
    except UserError as error:
        trainer.log.debug("the run ends: %s", error)
        exit_code = error.exit_code
        raise
    finally:
        trainer.trackers.close(exit_code)


def _notes_of_devices(settings: RunSettings, device: torch.device) -> list[str]:
    if settings.n_gpu > 0 and device.type == "cpu":
        return [f"n_gpu = {settings.n_gpu}, and there is no GPU here: training on the CPU"]
    if settings.n_gpu > 1 and process_group.world_size() == 1:
        return [
            f"n_gpu = {settings.n_gpu}: one GPU is used; for all: torchrun --nproc-per-node={settings.n_gpu} train.py"
        ]
    return []


def configure(arguments: Arguments) -> tuple[ConfigParser, ResumePoint | None]:
    """The config that the command line means, and the run to go on with if it names one.

    A resumed run brings its own config; `--config` beside it replaces it, where nothing differs that
    the run depends on."""
    named = arguments.resume not in (None, "auto")
    resume = resume_point(Path(str(arguments.resume))) if named else None
    if resume is not None and arguments.config is None:
        origin = f"checkpoint {resume.path}"
        config = ConfigParser.from_dict(resume.content["config"], SECTIONS, origin, arguments.overrides)
    else:
        file = arguments.config or DEFAULT_CONFIG
        config = ConfigParser.from_file(file, SECTIONS, arguments.overrides, problems_between_sections)
    if resume is not None:
        _refuse_another_run(config, resume.content["config"])
    elif arguments.resume == "auto":
        save_dir = config["trainer"].get("save_dir", TrainerSettings.save_dir)
        resume = newest_run(Path(save_dir), config.resolved)
    return config, resume


def _refuse_another_run(config: ConfigParser, trained: dict[str, Any]) -> None:
    lines = []
    for place, before, now in forbidden_changes(trained, config.resolved):
        earlier = "without it" if before is None else f"with {shown(before)}"
        lines.append(f"{config.origin(place)}: {place} = {shown(now)}, and the run was trained {earlier}")
    if lines:
        raise ConfigError("\n".join([*lines, "go on without these changes, or begin a new run (without --resume)"]))


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    arguments = parse_arguments(argv)
    open_log(None, 0, process_group.rank())  # a damaged checkpoint is warned of before the config is known
    try:
        config, resume = configure(arguments)
        if arguments.print_config:
            check_config(config)
            print(json.dumps(config.resolved, indent=4, ensure_ascii=False))
            return
        result = train(config, resume, arguments.device, arguments.dry_run)
    finally:
        close_log()
    if result.folders is not None and process_group.is_main_process():
        print(f"{result.folders.models}: {result.completed_epochs} epochs", end="")
        print("".join(f", best {name} {value:.4f}" for name, value in result.best.items() if value is not None))


if __name__ == "__main__":
    sys.exit(run_command(main))
