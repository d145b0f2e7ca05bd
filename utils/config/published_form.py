"""The config that the first team published, with its keys and values, as a config of today's form.

Top-level keys that it does not have are those of the project's own config.json.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from utils.config.json_text import arguments_of, read_json
from utils.errors import InvalidConfig, Problem
from utils.wording import format_value

DEFAULT_CONFIG = Path(__file__).parents[2] / "config.json"
HEADS = ("mask", "gender", "age")
LOSS_NAMES = {
    "ce": "CrossEntropyLoss",
    "ce_loss": "CrossEntropyLoss",
    "cross_entropy": "CrossEntropyLoss",
    "focal": "FocalLoss",
    "label_smoothing": "LabelSmoothingLoss",
    "f1": "F1Loss",
}
EMBEDDING_SIZE = 128
"""Of the embedding that such a loss compares images by: the published form has no word for it."""

DECADES = [20, 30, 40, 50, 60]
FOLDER_KEYS = ("data_dir", "train_dir")


def is_published_form(config: dict[str, Any]) -> bool:
    """Whether a config has `loss_name` triples, the loss "all_loss" or the loader "setup"."""
    loader = config.get("data_loader")
    is_setup = isinstance(loader, dict) and loader.get("type") == "setup"
    return "loss_name" in config or config.get("loss") == "all_loss" or is_setup


def translate(config: dict[str, Any], default_config: Path = DEFAULT_CONFIG) -> tuple[dict[str, Any], str]:
    """The config in today's form, and a note of what its keys are called now. Raises InvalidConfig."""
    triples, loader = config.get("loss_name"), config.get("data_loader")
    problems = []
    if not isinstance(triples, list) or len(triples) != len(HEADS) or not all(map(_is_triple, triples)):
        expected = f"three [loss, class weights, head weight], for {', '.join(HEADS)}"
        problems.append(Problem(("loss_name",), f"= {format_value(triples)} must be {expected}"))
    if config.get("loss", "all_loss") != "all_loss":
        problems.append(Problem(("loss",), f'= {format_value(config["loss"])} must be "all_loss" beside loss_name'))
    arguments = arguments_of(loader) if isinstance(loader, dict) and loader.get("type") == "setup" else None
    if not isinstance(arguments, dict):
        expected = '{"type": "setup", "args": {...}} beside loss_name'
        problems.append(Problem(("data_loader",), f"= {format_value(loader)} must be {expected}"))
    if problems:
        raise InvalidConfig(problems)
    assert isinstance(triples, list)
    assert isinstance(arguments, dict)
    default = read_json(default_config)
    labels = copy.deepcopy(default["labels"])
    age, age_weights = labels["attributes"]["age"], triples[HEADS.index("age")][1]
    age.pop("training_bins", None)
    if age_weights and len(age_weights) == len(DECADES) + 1:
        age["training_bins"] = DECADES
    beside_info = Path(str(config.get("info_dir", default.get("info_dir", "data/eval")))).parent / "train"
    folder = next((arguments[key] for key in FOLDER_KEYS if key in arguments), str(beside_info))
    today: dict[str, Any] = {
        "loss": {"heads": dict(zip(HEADS, map(_head_loss, triples), strict=True))},
        "labels": labels,
        "data": [{"type": "CompetitionFolder", "args": {"root": folder}}],
        "split": {"type": "PersonSplit", "args": {"validation_share": 0.1, "stratify": ["gender", "age"]}},
        "data_loader": {
            "type": "AttributeDataLoader",
            "args": {key: value for key, value in arguments.items() if key not in ("stage", *FOLDER_KEYS)},
        },
    }
    if on_embedding := {
        f"{head}_{name}": {"type": name, "args": {}, "head": head, "weight": weight}
        for head, (name, _, weight) in zip(HEADS, triples, strict=True)
        if _compares_embeddings(name)
    }:
        today["loss"]["metric_learning"] = on_embedding
        arch = config.get("arch", default["arch"])
        today["arch"] = {**arch, "args": {"embedding_size": EMBEDDING_SIZE, **arguments_of(arch)}}
    kept = {key: value for key, value in config.items() if key != "loss_name"}
    note = f"loss_name and data_loader are of an earlier form and mean {json.dumps(today)}"
    return {**{key: value for key, value in default.items() if key != "$schema"}, **kept, **today}, note


def _is_triple(value: Any) -> bool:
    is_three = isinstance(value, list) and len(value) == 3
    return is_three and isinstance(value[0], str) and isinstance(value[1], (list, type(None)))


def _head_loss(triple: list[Any]) -> dict[str, Any]:
    """An embedding's loss predicts nothing, so cross entropy is beside it."""
    name, class_weights, weight = triple
    arguments = {"class_weights": class_weights} if class_weights else {}
    own = "CrossEntropyLoss" if _compares_embeddings(name) else LOSS_NAMES.get(name, name)
    return {"type": own, "args": arguments, "weight": weight}


def _compares_embeddings(name: str) -> bool:
    """True for a loss of pytorch-metric-learning."""
    if name in LOSS_NAMES or name in LOSS_NAMES.values():
        return False
    from pytorch_metric_learning import losses  # takes seconds, and few configs ask for it

    return isinstance(getattr(losses, name, None), type)
