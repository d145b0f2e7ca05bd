"""The config that the first team published, with its keys and values, as a config of today's form.

Whatever it does not say is taken from the project's own config.json, key by key of the top level, never half a key.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from utils.config.json_text import read_json
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
DECADES = [20, 30, 40, 50, 60]
FOLDER_KEYS = ("data_dir", "train_dir")
EMBEDDING_SIZE = 128
"""Of the embedding that a loss of pytorch-metric-learning compares images by; the published form has no word for it."""


def is_published_form(config: dict[str, Any]) -> bool:
    """True for a config with `loss_name` triples, the loss "all_loss" or the loader "setup"."""
    loader = config.get("data_loader")
    old_loader = isinstance(loader, dict) and loader.get("type") == "setup"
    return "loss_name" in config or config.get("loss") == "all_loss" or old_loader


def translate(config: dict[str, Any], default_config: Path = DEFAULT_CONFIG) -> tuple[dict[str, Any], list[str]]:
    """The config in today's form, and a note for each key that has changed. Raises InvalidConfig."""
    translated = {key: value for key, value in read_json(default_config).items() if key != "$schema"}
    translated |= {key: value for key, value in config.items() if key not in ("loss", "loss_name", "data_loader")}
    problems: list[Problem] = []
    notes: list[str] = []
    _loss(config, translated, notes, problems)
    if not problems:
        _labels(config, translated, notes, problems)
    _data(config, translated, notes, problems)
    if problems:
        raise InvalidConfig(problems)
    return translated, notes


def _loss(config: dict[str, Any], translated: dict[str, Any], notes: list[str], problems: list[Problem]) -> None:
    if config.get("loss", "all_loss") != "all_loss":
        problems.append(
            Problem(
                ("loss",),
                f'= {format_value(config["loss"])} must be "all_loss"; to name one loss a head, write loss.heads',
            )
        )
    triples = config.get("loss_name")
    if not isinstance(triples, list) or len(triples) != len(HEADS):
        problems.append(
            Problem(
                ("loss_name",),
                f"= {format_value(triples)} must hold three [loss, class weights, head weight], for {', '.join(HEADS)}",
            )
        )
        return
    heads, on_embedding = {}, {}
    for number, (head, triple) in enumerate(zip(HEADS, triples, strict=True)):
        if not isinstance(triple, list) or len(triple) != 3 or not isinstance(triple[0], str):
            wrong = f"= {format_value(triple)} ({head}) must be [loss, class weights, head weight]"
            problems.append(Problem(("loss_name", number), wrong))
            continue
        name, class_weights, weight = triple
        arguments = {"class_weights": class_weights} if class_weights not in (None, []) else {}
        own_loss = "CrossEntropyLoss" if _compares_embeddings(name) else LOSS_NAMES.get(name, name)
        heads[head] = {"type": own_loss, "args": arguments, "weight": weight}
        notes.append(f"loss_name.{number} is now loss.heads.{head} = {json.dumps(heads[head])}")
        if _compares_embeddings(name):
            on_embedding[f"{head}_{name}"] = entry = {"type": name, "args": {}, "head": head, "weight": weight}
            notes.append(
                f"loss_name.{number} names {name}, which compares embeddings and answers nothing: beside the head's "
                f"cross entropy it is now loss.metric_learning.{head}_{name} = {json.dumps(entry)}"
            )
    translated["loss"] = {"heads": heads}
    if on_embedding:
        translated["loss"]["metric_learning"] = on_embedding
        _add_embedding(translated, notes)


def _compares_embeddings(name: str) -> bool:
    """True for a loss of pytorch-metric-learning."""
    if name in LOSS_NAMES:
        return False
    from pytorch_metric_learning import losses  # here, because it takes a while, and few configs ask for it

    return isinstance(getattr(losses, name, None), type)


def _add_embedding(translated: dict[str, Any], notes: list[str]) -> None:
    arch = translated.get("arch")
    if isinstance(arch, dict) and isinstance(arch.get("args", {}), dict):
        arguments = {"embedding_size": EMBEDDING_SIZE, **arch.get("args", {})}
        translated["arch"] = {**arch, "args": arguments}
        notes.append(
            f"the embedding's size is now arch.args.embedding_size = {format_value(arguments['embedding_size'])}"
        )


def _labels(config: dict[str, Any], translated: dict[str, Any], notes: list[str], problems: list[Problem]) -> None:
    translated["labels"] = copy.deepcopy(translated["labels"])
    age = translated["labels"]["attributes"]["age"]
    age.pop("training_bins", None)
    age_weights = config["loss_name"][2][1]  # their number says how many ages are reported apart
    count = len(age_weights) if isinstance(age_weights, list) else 0
    if count == len(DECADES) + 1:
        age["training_bins"] = DECADES
        notes.append(f"six ages are now labels.attributes.age = {json.dumps(age)}")
    elif count not in (0, len(age["bins"]) + 1):
        problems.append(
            Problem(
                ("loss_name", 2),
                f"= {format_value(config['loss_name'][2])} (age): {count} class weights; 3 (<30, 30-59, >=60) or "
                "6 (by decades) are expected",
            )
        )


def _data(config: dict[str, Any], translated: dict[str, Any], notes: list[str], problems: list[Problem]) -> None:
    loader = config.get("data_loader")
    arguments = loader.get("args", {}) if isinstance(loader, dict) else None
    if not isinstance(loader, dict) or loader.get("type") != "setup" or not isinstance(arguments, dict):
        wrong = f'= {format_value(loader)} must be {{"type": "setup", "args": {{...}}}} beside loss_name'
        problems.append(Problem(("data_loader",), wrong))
        return
    stage = arguments.get("stage", "train")
    if stage not in ("train", "eval"):
        problems.append(
            Problem(("data_loader", "args", "stage"), f'= {format_value(stage)} is not one of "train", "eval"')
        )
    folder = next((arguments[key] for key in FOLDER_KEYS if key in arguments), None)
    if folder is None:
        beside_info = Path(str(config.get("info_dir", translated.get("info_dir", "data/eval")))).parent / "train"
        folder = str(beside_info)
    kept = {key: value for key, value in arguments.items() if key not in ("stage", *FOLDER_KEYS)}
    translated["data_loader"] = {"type": "AttributeDataLoader", "args": kept}
    translated["data"] = [{"type": "CompetitionFolder", "args": {"root": folder}}]
    translated["split"] = {
        "type": "PersonSplit",
        "args": {"validation_share": 0.1, "stratify": ["gender", "age"]},
    }
    notes.append(f"data_loader is now {json.dumps(translated['data_loader'])}")
    notes.append("data_loader.args.stage is gone: train.py trains, test.py answers")
    notes.append(f"the training folder is now data = {json.dumps(translated['data'])}")
    notes.append(f"the split, by person, is now split = {json.dumps(translated['split'])}")
    notes.append("the augmentation is now transforms, here that of config.json")
