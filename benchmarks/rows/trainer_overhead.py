"""What the trainer costs over a bare loop: same model, tensors, precision, optimizer; all metrics and trackers on.

The updates are compared, and what the trainer does once an epoch is told on its own: a real epoch has hundreds of
updates for it. An epoch here has a whole number of what the metrics add up together, so that the updates pay for all of
their metrics."""

from __future__ import annotations

import copy
import inspect
import time
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.loops import ExpertsLoop
from benchmarks.measuring import Figure, Row, Target, interleaved
from benchmarks.synthetic import synthetic_batches, synthetic_config, synthetic_trainer, train_one_epoch
from benchmarks.workplace import Workplace
from trainer.epoch_sums import BATCHES_TOGETHER
from trainer.trainer import Trainer

TARGET = Target(2.0, 1.0, less_is_better=True)
"""Per cent over the bare loop."""

ROUNDS = 3
"""Times those of other rows, where an update takes milliseconds: what is looked for is small."""


@dataclass(frozen=True)
class Case:
    """A model, its images' side, the batch. counts: whether the target is for it; not for a model that is there to make
    the overhead show."""

    model_name: str
    side: int
    batch_size: int
    counts: bool


SMALL = Case("mobilenetv3_small_050", 64, 16, counts=False)
CASES = {
    "cpu": (SMALL, Case("efficientnet_b0", 128, 8, counts=True)),
    "cuda": (SMALL, Case("efficientnet_b0", 240, 64, counts=True)),
}
"""By device: a CPU's are smaller, that it takes a minute; the larger the update, the smaller the share."""


def measure(workplace: Workplace) -> Row:
    figures: list[Figure] = []
    settings: dict[str, Any] = {}
    for case in CASES[workplace.device.type]:
        figures += measure_case(workplace, case)
        settings[case.model_name] = vars(case)
    return Row(
        "Trainer against a bare loop",
        figures,
        {"device": workplace.device.type, "updates_of_an_epoch": BATCHES_TOGETHER, **settings},
        [
            "both go through the same uint8 batches in memory, normalise them the same way, and end with the same "
            "weights (a test holds that); the bare loop's focal loss knows of no unknown labels, as an expert's would",
            "end of an epoch: metrics, trackers (JSON lines, TensorBoard), the choice of the best; once an epoch, and "
            "not in the overhead of an update",
            "the small model is there to make the overhead in ms show; per cent of its update are not what a user pays",
        ],
    )


class UpdatesClock:
    """Takes the time of a trainer's epoch: of its updates, from the epoch's begin to the last one's end, and of what
    comes after them."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.ended = 0.0
        end_epoch = trainer.learner.end_epoch

        def note(epoch: int) -> None:
            wait_for(trainer.learner.device)
            self.ended = time.perf_counter()
            end_epoch(epoch)

        trainer.learner.end_epoch = note  # type: ignore[method-assign]

    def epoch(self) -> tuple[float, float]:
        """Trains one epoch; returns the seconds of the updates, and of the rest."""
        begin = time.perf_counter()
        train_one_epoch(self.trainer)
        return self.ended - begin, time.perf_counter() - self.ended


def measure_case(workplace: Workplace, case: Case) -> list[Figure]:
    device, updates = workplace.device, BATCHES_TOGETHER
    config = synthetic_config(workplace, case.model_name, case.side)
    batches = synthetic_batches(workplace.labels, 2, case.batch_size, case.side)
    if device.type == "cuda":
        batches = [batch.pin_memory() for batch in batches]  # as the project's loader gives them
    trainer = synthetic_trainer(workplace, config, batches, updates, device)
    loop = experts_loop(trainer, config["loss"]["heads"])
    epoch = [batches[step % len(batches)] for step in range(updates)]
    clock = UpdatesClock(trainer)
    ends: list[float] = []

    def trainers_updates() -> float:
        seconds, end = clock.epoch()
        ends.append(end)
        return seconds

    def bare_updates() -> float:
        begin = time.perf_counter()
        loop.epoch(epoch)
        wait_for(device)
        return time.perf_counter() - begin

    values = interleaved(
        {"trainer": trainers_updates, "bare loop": bare_updates},
        workplace.scale.rounds * (1 if case.counts else ROUNDS),
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
        Figure(f"{name}: end of an epoch", "ms", [1000 * end for end in ends[1:]]),  # the first round warms up
    ]


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


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
