"""What has another form here than in pytorch-template, each with ours: no spelling is near enough to find it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from utils.errors import KeyPath, Problem
from utils.wording import format_value

GUIDE = "docs/from-pytorch-template.md"
OURS: dict[KeyPath, str] = {
    ("loss",): 'a loss for each head is expected: {"heads": {"age": {"type": "CrossEntropyLoss"}}}',
    ("data_loader", "args", "data_dir"): 'the images are data = [{"type": "CompetitionFolder", "args": {"root": ...}}]',
    ("data_loader", "args", "validation_split"): (
        'who validates is split = {"type": "PersonSplit", "args": {"validation_share": 0.1}}'
    ),
    ("data_loader", "args", "training"): "remove it: train.py trains and test.py predicts",
}


CONFIG_METHODS = {
    "init_obj": 'config.build("arch", num_classes=...): the section, and what the program adds by name',
    "init_ftn": 'config.component("optimizer"), the class that a section names, and config["optimizer"]["args"]',
    "get_logger": "logging.getLogger(__name__); trainer.verbosity says how much of it is shown",
    "config": "config.resolved, plain data with every default",
    "save_dir": 'config["trainer"]["save_dir"]; a run\'s folders are utils/run_folders.py\'s RunFolders',
    "log_dir": 'config["trainer"]["save_dir"]; a run\'s folders are utils/run_folders.py\'s RunFolders',
    "resume": "--resume of train.py; experiment/resume.py reads the checkpoint",
}
"""Of its ConfigParser."""
TRAINER_METHODS = {
    "_train_epoch": (
        "train_epoch(self, epoch), which returns the epoch's metrics, or train_step(self, micro_batches, epoch), one "
        "update of the weights"
    ),
    "_valid_epoch": "validate(self, epoch), which returns metrics such as val/loss",
    "_save_checkpoint": "state_dict(self), what every checkpoint holds",
    "_resume_checkpoint": "load_state_dict(self, state, path), which takes what state_dict gave",
    "_progress": "the progress bar of train_epoch",
}
"""Of its Trainer: nothing calls them here."""


def template_problems(values: Mapping[str, Any]) -> list[Problem]:
    """The template's keys in a config, each with what is written instead."""
    problems = []
    for key_path, ours in OURS.items():
        value: Any = values
        for step in key_path:
            value = value.get(step) if isinstance(value, dict) else None
        if value is not None and not isinstance(value, dict):
            problems.append(Problem(key_path, f"= {format_value(value)} is pytorch-template's: {ours} ({GUIDE})"))
    return problems
