"""The weights of an earlier run for a new run to begin with: fine-tuning, `train.py --from`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from base.base_model import BaseModel
from base.label_space import LabelSpace
from base.weights import load_weights, without_wrappers
from inference.predictor import find_checkpoint
from model.weight_matching import HEADS, find_weights, match_model
from utils.checkpoint import read_checkpoint
from utils.errors import CheckpointError

logger = logging.getLogger(__name__)


def load_initial_weights(model: BaseModel, labels: LabelSpace, path: Path, config: Mapping[str, Any]) -> None:
    """Loads the weights that a run answers with into a new run's model, and logs what was taken and what was not.

    The backbone is taken whole; a head where its name and its classes are the same; what else fits (an embedding), too.

    path: the earlier run's folder, or a checkpoint of it
    config: the new run's

    Raises CheckpointError for what is no checkpoint of a run, or is of another backbone."""
    file = find_checkpoint(path)
    content = read_checkpoint(file)
    try:
        heads, earlier = LabelSpace(**content["labels"]).heads, content["config"]
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{file}: cannot be used: its labels are not what this version keeps ({error})") from None
    both = labels.heads.keys() & heads.keys()
    other = sorted(name for name in both if heads[name].class_names != labels.heads[name].class_names)
    left_out = tuple(f"{HEADS}head_{name}." for name in other)
    weights = without_wrappers(find_weights(content))
    found = {name: each for name, each in weights.items() if not name.startswith(left_out)}
    match = match_model(model, found)
    if match.deeper or any(not name.startswith(HEADS) for name in match.missing):
        raise CheckpointError(f"{file}: is not of {model.title()}: {'; '.join(match.problems(1))}")
    load_weights(model, model.state_dict() | match.weights, file)
    taken = sorted({name.rpartition(".")[0] for name in match.weights if name.startswith(HEADS)})
    new = sorted({name.rpartition(".")[0] for name in match.missing})
    logger.info("begins with the weights of %s: the backbone, %s; %s", file, match.how, ", ".join(taken) or "no head")
    if new:
        logger.info("begin new: %s%s", ", ".join(new), f" (other classes: {', '.join(other)})" if other else "")
    if match.unused:
        logger.info("not used of it: %s", ", ".join(sorted({name.rpartition(".")[0] for name in match.unused})))
    same_data = any(source in earlier.get("data", []) for source in config["data"])
    if same_data and "soup" in content and "split_digest" not in content:
        logger.warning("%s: is a soup of runs that were divided differently: some trained on who validates here", file)
    elif same_data and any(earlier.get(key) != config[key] for key in ("split", "seed")):
        logger.warning("%s: was trained on images that validate this run; use its split and seed", file)
