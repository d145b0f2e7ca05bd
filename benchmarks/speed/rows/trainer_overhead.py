"""What the trainer costs over a bare loop: same model, tensors, precision, optimizer; all metrics, trackers and the
progress bar on.

The updates are compared, and what the trainer does once an epoch is reported on its own: a real epoch has hundreds of
updates for it. An epoch here has a whole number of what the metrics add up together, so that the updates pay for all of
their metrics."""

from __future__ import annotations

import copy
import inspect
import io
import time
from collections.abc import Iterator
from contextlib import redirect_stderr
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from base.batch import Batch
from benchmarks.speed.loops import ExpertsLoop
from benchmarks.speed.measuring import Figure, Row, Target, seconds_of
from benchmarks.speed.synthetic import synthetic_batches, synthetic_config, synthetic_trainer, train_one_epoch
from benchmarks.speed.workplace import Workplace
from trainer.epoch_metrics import BATCHES_TOGETHER
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
            "the progress bar is on, and draws to a terminal that only keeps what it is given",
            "end of an epoch: metrics, trackers (JSON lines, TensorBoard), the choice of the best; once an epoch, and "
            "not in the overhead of an update",
            "on a CPU the two take turns with each update, on a GPU with each epoch",
            "the small model is there to make the overhead in ms show; per cent of its update are not what a user pays",
        ],
    )


class Comparison(NamedTuple):
    """Seconds of an epoch: of the trainer's updates, of the bare loop's, and of what the trainer does after them."""

    trainer: float
    bare: float
    end: float


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class SideBySide:
    """The trainer's epoch and the bare loop's, over the same batches.

    by_update: they take turns with each update, so that what else the machine does hits both alike. A GPU works on
    while the host goes ahead, which that would cut short: there they take turns with each epoch."""

    def __init__(self, trainer: Trainer, loop: ExpertsLoop, by_update: bool) -> None:
        self.trainer, self.loop, self.loader, self.by_update = trainer, loop, trainer.data_loader, by_update
        self.bare = self.ended = 0.0
        loop.model.train()
        end_epoch, train_batches = trainer.learner.end_epoch, self.loader.train_batches

        def note_end(epoch: int) -> None:
            wait_for(trainer.learner.device)
            self.ended = time.perf_counter()
            end_epoch(epoch)

        def with_bare_updates(epoch: int, start_batch: int = 0) -> Iterator[Batch]:
            for batch in train_batches(epoch, start_batch):
                yield batch  # the trainer comes back for the next one when its update is done
                self.bare += seconds_of(lambda batch=batch: loop.update(batch))  # type: ignore[misc]

        trainer.learner.end_epoch = note_end  # type: ignore[method-assign]
        if self.by_update:
            self.loader.train_batches = with_bare_updates  # type: ignore[method-assign]

    def epoch(self) -> Comparison:
        """Trains both for one epoch."""
        self.bare = 0.0
        begin = time.perf_counter()
        train_one_epoch(self.trainer)
        whole, end = self.ended - begin, time.perf_counter() - self.ended
        if self.by_update:
            return Comparison(whole - self.bare, self.bare, end)
        return Comparison(whole, seconds_of(self._bare_epoch), end)

    def _bare_epoch(self) -> None:
        self.loop.epoch(self.loader.train_batches(1))
        wait_for(self.trainer.learner.device)


def measure_case(workplace: Workplace, case: Case) -> list[Figure]:
    device, updates = workplace.device, BATCHES_TOGETHER
    config = synthetic_config(workplace, case.model_name, case.side, {"verbosity": 1})
    batches = synthetic_batches(workplace.labels, 2, case.batch_size, case.side)
    if device.type == "cuda":
        batches = [batch.mapped(Tensor.pin_memory) for batch in batches]  # as the project's loader gives them
    trainer = synthetic_trainer(workplace, config, batches, updates, device)
    both = SideBySide(trainer, experts_loop(trainer, config["loss"]["heads"]), by_update=device.type == "cpu")
    rounds = workplace.scale.rounds * (1 if case.counts else ROUNDS)
    with redirect_stderr(_Terminal()):  # on which the progress bar shows
        both.epoch()  # warms up
        found = [both.epoch() for _ in range(rounds)]
    trainer.trackers.close(0)
    name = f"{case.model_name} at {case.side}, batch {case.batch_size}"
    return [
        Figure(f"{name}: bare loop", "ms/update", [1000 * each.bare / updates for each in found]),
        Figure(
            f"{name}: trainer, more than that",
            "ms/update",
            [1000 * (each.trainer - each.bare) / updates for each in found],
        ),
        Figure(
            f"{name}: overhead",
            "%",
            [100 * (each.trainer / each.bare - 1) for each in found],
            TARGET if case.counts else None,
        ),
        Figure(f"{name}: end of an epoch", "ms", [1000 * each.end for each in found]),
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
        compute_type=compute_type or learner.compute.dtype,
        memory_format=memory_format or learner.compute.memory_format,
    )


def _settings_of(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Those that its constructor takes, as they are."""
    taken = inspect.signature(type(optimizer)).parameters
    return {name: value for name, value in optimizer.defaults.items() if name in taken}
