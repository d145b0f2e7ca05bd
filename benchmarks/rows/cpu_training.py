"""Training images/s on a CPU: what the project chooses by itself, against float32 and NCHW."""

from __future__ import annotations

import torch

from benchmarks.measuring import Contender, Figure, Row, Target, interleaved, ratios, seconds_of
from benchmarks.rows.trainer_overhead import experts_loop
from benchmarks.synthetic import synthetic_batches, synthetic_config, synthetic_trainer, train_one_epoch
from benchmarks.workplace import Workplace

MODELS = {"efficientnet_b0": Target(2.5, 2.9), "resnet10t": None, "mobilenetv3_small_100": None}
"""By model, the target of the ratio."""
BATCH_SIZE = 16
OURS, PLAIN = "as the project chooses", "float32, NCHW"


def measure(workplace: Workplace) -> Row:
    figures: list[Figure] = []
    chosen: dict[str, str] = {}
    for model_name, target in MODELS.items():
        contenders, choice = contenders_of(workplace, model_name)
        values = interleaved(contenders, workplace.scale.rounds)
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
            "ours with all metrics and trackers, the other a bare loop; both on the same batches in memory",
            "chosen here: " + "; ".join(f"{model_name} {choice}" for model_name, choice in chosen.items()),
        ],
    )


def contenders_of(workplace: Workplace, model_name: str) -> tuple[dict[str, Contender], str]:
    """The two of a model, and what the project has chosen for it."""
    side, updates, device = workplace.scale.side, workplace.scale.cpu_updates, torch.device("cpu")
    config = synthetic_config(workplace, model_name, side)
    batches = synthetic_batches(workplace.labels, 1, BATCH_SIZE, side)
    trainer = synthetic_trainer(workplace, config, batches, updates, device)
    plain = experts_loop(trainer, config["loss"]["heads"], torch.float32, torch.contiguous_format)
    images = updates * BATCH_SIZE
    contenders = {
        OURS: lambda: images / seconds_of(lambda: train_one_epoch(trainer)),
        PLAIN: lambda: images / seconds_of(lambda: plain.epoch(batches * updates)),
    }
    return contenders, trainer.learner.compute.title()
