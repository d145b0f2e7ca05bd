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
from parse_config import ConfigParser

TARGETS = {"efficientnet_b0": Target(2.5, 2.9)}
"""By model, of the ratio."""
CASES = [("efficientnet_b0", 64), ("efficientnet_b0", 16), ("resnet10t", 64), ("mobilenetv3_small_100", 64)]
"""Models, and images to a batch: the recipe's 64, and fewer."""
OURS, PLAIN = "as the project chooses", "float32, NCHW"


def measure(workplace: Workplace) -> Row:
    figures: list[Figure] = []
    chosen: dict[str, str] = {}
    with PeersProcess(
        {
            title(*case): partial(plain_training, workplace.folder, workplace.data, workplace.scale, *case)
            for case in CASES
        }
    ) as theirs:
        for case in CASES:
            ours, chosen[title(*case)] = our_training(workplace, *case)
            values = interleaved({OURS: ours, PLAIN: theirs.contenders[title(*case)]}, workplace.scale.rounds)
            figures += [Figure(f"{title(*case)}, {name}", "images/s", each) for name, each in values.items()]
            ratio = ratios(values[OURS], values[PLAIN])
            figures.append(Figure(f"{title(*case)}: ratio", "x", ratio, TARGETS.get(case[0])))
    return Row(
        "Training on a CPU",
        figures,
        {"side": workplace.scale.side, "threads": torch.get_num_threads(), "chosen": chosen},
        [
            "ours with all metrics and trackers, the other a bare loop over timm's modules in a process with the "
            "allocator as it comes; both on the same batches in memory",
            f"an epoch shows {workplace.scale.cpu_images} images",
            "chosen here: " + "; ".join(f"{name} {choice}" for name, choice in chosen.items()),
        ],
    )


def title(model_name: str, batch_size: int) -> str:
    return f"{model_name} at batch {batch_size}"


def our_training(workplace: Workplace, model_name: str, batch_size: int) -> tuple[Contender, str]:
    """The trainer, and the precision that the project has chosen."""
    config, batches = _on_noise(workplace, model_name, batch_size, {})
    updates = workplace.scale.cpu_images // batch_size
    trainer = synthetic_trainer(workplace, config, batches, updates, torch.device("cpu"))
    chosen = trainer.learner.compute.precision
    return lambda: updates * batch_size / seconds_of(lambda: train_one_epoch(trainer)), chosen


def plain_training(folder: Path, data: Path, scale: Scale, model_name: str, batch_size: int) -> Contender:
    """A bare loop over the model as timm has it, in float32 and NCHW."""
    workplace = Workplace(new_folder(folder / f"plain_{model_name}_{batch_size}"), data, scale, torch.device("cpu"))
    as_written = {"precision": "float32", "channels_last": False}
    config, batches = _on_noise(workplace, model_name, batch_size, as_written)
    updates = scale.cpu_images // batch_size
    trainer = synthetic_trainer(workplace, config, batches, updates, workplace.device)
    trainer.trackers.close(0)
    loop = experts_loop(trainer, config["loss"]["heads"])
    as_timm_has_it(loop.model)
    return lambda: updates * batch_size / seconds_of(lambda: loop.epoch(batches * updates))


def _on_noise(
    workplace: Workplace, model_name: str, batch_size: int, settings: Mapping[str, Any]
) -> tuple[ConfigParser, list[Batch]]:
    side = workplace.scale.side
    config = synthetic_config(workplace, model_name, side, settings)
    return config, synthetic_batches(workplace.labels, 1, batch_size, side)


def as_timm_has_it(model: nn.Module) -> None:
    """Takes back what the project has made of timm's modules."""
    for module in model.modules():
        if isinstance(module, DepthwiseConv2d):
            module.__class__ = type(module).__bases__[0]
