"""A run folder for test.py --resume, made of another program's weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from base.label_space import LabelSpace
from base.weights import load_weights
from data_loader.preparation.build import PREPARATION
from data_loader.preparation.preparation import Preparation
from data_loader.preparation.prepared_images import PreparedImages
from data_loader.transforms.build import build_transforms
from inference.predictor import CHECKPOINT_NAMES
from logger.log import LOG_NAME, open_log
from model.model import build_without_weights
from model.weight_matching import match_model, read_weights
from utils.checkpoint import write_checkpoint
from utils.errors import CheckpointError, ConfigError, write_error
from utils.run_folders import new_run

log = logging.getLogger(LOG_NAME)

REMEDY = (
    "--rename fc_mask=heads.head_mask gives a layer of the file the model's name, --rename race= leaves one out; where "
    "whole blocks differ, another arch.args.model_name, other labels.heads or other bins may describe the model"
)


def import_run(
    config: Mapping[str, Any], labels: LabelSpace, path: Path, renames: Sequence[tuple[str, str]], output: Path | None
) -> Path:
    """Writes a run folder with one checkpoint, and returns it; nothing is written where something does not fit.

    config: the resolved config of the weights' model
    path: the file of the weights
    renames: (old, new): a layer of the file, or the layers under a name, and what to call them; new may be empty, which
        leaves them out
    output: the folder to make; None for a new run's in the config's save_dir

    Raises CheckpointError, ConfigError."""
    weights = _renamed(read_weights(path), renames)
    model = build_without_weights(config["arch"], labels.num_classes)
    match = match_model(model, weights)
    if match.missing or match.unused:
        problems = [f"does not fit {model.summary()}: its weights were matched {match.how}", *match.problems(), REMEDY]
        raise CheckpointError("\n".join(f"{path}: {problem}" for problem in problems))
    load_weights(model, model.state_dict() | match.weights, path)
    log.info("the weights were matched %s", match.how)
    for name, head in labels.heads.items():
        classes = ", ".join(f"{number} {text}" for number, text in enumerate(head.class_names))
        log.info("the classes of the head %s are taken to be %s", name, classes)
    args = config["data_loader"]["args"]
    steps = PREPARATION.build(config["preparation"], ("preparation",), {})
    transforms = build_transforms(
        config["transforms"],
        args["input_size"],
        model.mean,
        model.std,
        args["bits_used_of_16"],
        PreparedImages(Preparation(steps), None) if steps else None,
    )
    # No config.json is put into the folder: `train.py --resume auto` is not to resume what has no optimizer's state.
    run = output
    if run is None:
        folders = new_run(Path(config["trainer"]["save_dir"]), config["name"])
        open_log(folders.log / "info.log", 1)
        run = folders.models
    elif run.is_dir() and any(run.iterdir()):
        raise ConfigError(f"--output {run}: is not empty; name a new folder")
    content = {
        "model": model.state_dict(),
        "config": dict(config),
        "labels": labels.to_config(),
        "preprocessing": transforms.preprocessing.to_config(),
        "run_name": run.name,
        "completed_epochs": 0,
    }
    try:
        write_checkpoint(run / CHECKPOINT_NAMES["best"], content)
    except OSError as error:
        raise write_error(run, error) from None
    return run


def _renamed(weights: Mapping[str, Tensor], renames: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
    renamed = dict(weights)
    for old, new in renames:
        inside = [name for name in renamed if f"{name}.".startswith(f"{old}.")]
        if not inside:
            raise ConfigError(f"--rename {old}={new}: no weight of the file is called {old}, or begins with {old}.")
        for name in inside:
            tensor = renamed.pop(name)
            if new:
                renamed[f"{new}{name.removeprefix(old)}"] = tensor
    return renamed
