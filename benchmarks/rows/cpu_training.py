"""Training images/s on a CPU: what the project chooses by itself, against float32 and NCHW."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from base.batch import Batch
from benchmarks.measuring import Contender, Figure, Row, Target, interleaved, ratios, seconds_of
from benchmarks.peers_process import PeersProcess
from benchmarks.rows.trainer_overhead import experts_loop
from benchmarks.synthetic import synthetic_batches, synthetic_config, synthetic_trainer, train_one_epoch
from benchmarks.workplace import Scale, Workplace, new_folder
from model.depthwise import DepthwiseConv2d
from model.lean_modules import LEAN_MODULES
from parse_config import ConfigParser

MODELS = {"efficientnet_b0": Target(2.5, 2.9), "resnet10t": None, "mobilenetv3_small_100": None}
"""By model, the target of the ratio."""
BATCH_SIZE = 16
OURS, PLAIN = "as the project chooses", "float32, NCHW"


def measure(workplace: Workplace) -> Row:
    figures: list[Figure] = []
    chosen: dict[str, str] = {}
    with PeersProcess(
        {model_name: partial(plain_training, workplace.folder, workplace.data, workplace.scale, model_name, BATCH_SIZE)
         for model_name in MODELS}
    ) as theirs:  # fmt: skip
        for model_name, target in MODELS.items():
            ours, choice = our_training(workplace, model_name)
            values = interleaved({OURS: ours, PLAIN: theirs.contenders[model_name]}, workplace.scale.rounds)
            figures += [Figure(f"{model_name}, {name}", "images/s", each) for name, each in values.items()]
            figures.append(Figure(f"{model_name}: ratio", "x", ratios(values[OURS], values[PLAIN]), target))
            chosen[model_name] = choice
    return Row(
        "Training on a CPU",
        figures,
        {
            "side": workplace.scale.side,
            "batch_size": BATCH_SIZE,
            "updates": workplace.scale.cpu_updates,
            "threads": torch.get_num_threads(),
            "chosen": chosen,
        },
        [
            "ours with all metrics and trackers, the other a bare loop over timm's modules in a process with the "
            "allocator as it comes; both on the same batches in memory",
            "chosen here: " + "; ".join(f"{model_name} {choice}" for model_name, choice in chosen.items()),
        ],
    )


def our_training(workplace: Workplace, model_name: str) -> tuple[Contender, str]:
    """The trainer, and what the project has chosen to compute in."""
    config, batches = _on_noise(workplace, model_name, BATCH_SIZE, {})
    trainer = synthetic_trainer(workplace, config, batches, workplace.scale.cpu_updates, torch.device("cpu"))
    images = workplace.scale.cpu_updates * BATCH_SIZE
    return lambda: images / seconds_of(lambda: train_one_epoch(trainer)), trainer.learner.compute.title()


def plain_training(folder: Path, data: Path, scale: Scale, model_name: str, batch_size: int) -> Contender:
    """A bare loop over the model as timm has it, in float32 and NCHW."""
    workplace = Workplace(new_folder(folder / f"plain_{model_name}"), data, scale, torch.device("cpu"))
    as_written = {"precision": "float32", "channels_last": False}
    config, batches = _on_noise(workplace, model_name, batch_size, as_written)
    trainer = synthetic_trainer(workplace, config, batches, scale.cpu_updates, workplace.device)
    trainer.trackers.close(0)
    loop = experts_loop(trainer, config["loss"]["heads"])
    as_timm_has_it(loop.model)
    images = scale.cpu_updates * batch_size
    return lambda: images / seconds_of(lambda: loop.epoch(batches * scale.cpu_updates))


def _on_noise(
    workplace: Workplace, model_name: str, batch_size: int, settings: Mapping[str, Any]
) -> tuple[ConfigParser, list[Batch]]:
    side = workplace.scale.side
    config = synthetic_config(workplace, model_name, side, settings)
    return config, synthetic_batches(workplace.labels, 1, batch_size, side)


def as_timm_has_it(model: nn.Module) -> None:
    """Takes back what the project has made of timm's modules."""
    for module in model.modules():
        if isinstance(module, DepthwiseConv2d) or type(module) in LEAN_MODULES.values():
            module.__class__ = type(module).__bases__[0]
