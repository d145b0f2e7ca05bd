"""What the trainer costs over a bare loop: same model, tensors, precision, optimizer; all metrics and trackers on."""

from __future__ import annotations

import copy
import inspect
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.loops import ExpertsLoop
from benchmarks.measuring import Figure, Row, Target, interleaved, seconds_of
from benchmarks.synthetic import synthetic_batches, synthetic_config, synthetic_trainer, train_one_epoch
from benchmarks.workplace import Workplace
from trainer.trainer import Trainer

TARGET = Target(2.0, 1.0, less_is_better=True)
"""Per cent over the bare loop."""

ROUNDS = 3
"""Times those of other rows: what is looked for is small."""


@dataclass(frozen=True)
class Case:
    """A model, its images' side, the batch, and by how much fewer updates than the scale says make an epoch.

    counts: whether the target is for it; not for a model that is there to make the overhead show."""

    model_name: str
    side: int
    batch_size: int
    updates_share: float
    counts: bool


CASES = (
    Case("mobilenetv3_small_050", 64, 16, 1.0, counts=False),
    Case("efficientnet_b0", 240, 16, 1 / 15, counts=True),
)


def measure(workplace: Workplace) -> Row:
    figures: list[Figure] = []
    settings: dict[str, Any] = {}
    for case in CASES:
        updates = max(2, round(workplace.scale.updates * case.updates_share))
        figures += measure_case(workplace, case, updates)
        settings[case.model_name] = {**vars(case), "updates": updates}
    return Row(
        "Trainer against a bare loop",
        figures,
        {"device": workplace.device.type, **settings},
        [
            "both go through the same uint8 batches in memory; the trainer's time holds an epoch's metrics and "
            "trackers (JSON lines, TensorBoard), which a real epoch of hundreds of updates has once, too",
            "the small model is there to make the overhead in ms show; per cent of its update are not what a user pays",
        ],
    )


def measure_case(workplace: Workplace, case: Case, updates: int) -> list[Figure]:
    device = workplace.device
    config = synthetic_config(workplace, case.model_name, case.side)
    batches = synthetic_batches(workplace.labels, 2, case.batch_size, case.side)
    trainer = synthetic_trainer(workplace, config, batches, updates, device)
    loop = experts_loop(trainer, config["loss"]["heads"])
    epoch = [batches[step % len(batches)] for step in range(updates)]

    def waited(work: Any) -> None:
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()

    values = interleaved(
        {
            "trainer": lambda: seconds_of(lambda: waited(lambda: train_one_epoch(trainer))),
            "bare loop": lambda: seconds_of(lambda: waited(lambda: loop.epoch(epoch))),
        },
        workplace.scale.rounds * (ROUNDS if not case.counts else 1),
    )
    trainer.trackers.close(0)
    ours, bare = values["trainer"], values["bare loop"]
    name = f"{case.model_name} at {case.side}, batch {case.batch_size}"
    return [
        Figure(f"{name}: bare loop", "ms/update", [1000 * seconds / updates for seconds in bare]),
        Figure(
            f"{name}: trainer, more than that",
            "ms/update",
            [1000 * (mine - theirs) / updates for mine, theirs in zip(ours, bare, strict=True)],
        ),
        Figure(
            f"{name}: overhead",
            "%",
            [100 * (mine / theirs - 1) for mine, theirs in zip(ours, bare, strict=True)],
            TARGET if case.counts else None,
        ),
    ]


def experts_loop(
    trainer: Trainer,
    heads: Any,
    compute_type: torch.dtype | None = None,
    memory_format: torch.memory_format | None = None,
) -> ExpertsLoop:
    """The loop that an expert would write for a trainer's model: a copy of it, an optimizer with the same settings, and
    the same precision and layout, if no others are named."""
    learner = trainer.learner
    model = copy.deepcopy(learner.model)
    optimizer = type(learner.optimizer)(model.parameters(), **_settings_of(learner.optimizer))
    return ExpertsLoop(
        model,
        optimizer,
        heads,
        learner.preprocessing.mean,
        learner.preprocessing.std,
        learner.device,
        compute_type=compute_type or learner.compute.compute_type,
        memory_format=memory_format or learner.compute.memory_format,
    )


def _settings_of(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Those that its constructor takes, as they are."""
    taken = inspect.signature(type(optimizer)).parameters
    return {name: value for name, value in optimizer.defaults.items() if name in taken}
